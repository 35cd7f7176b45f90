"""Teach a small model to chat, from conversations between people: a base for RL, and its judge.

Conversations of chitchat-dataset, turns of 16 words at most, lower-case, a tenth of them held out
by a hash. The variant "backward" learns a turn given its answer, for the semantic coherence of
Li et al. 2016 (https://arxiv.org/abs/1606.01541).

    python -m rljax.environments.chitchat --out runs/tasks/chitchat.jsonl
    python experiments/pretrain.py --config configs/tasks/dialogue_sft.py
    python -m rljax.environments.chitchat --out runs/tasks/chitchat_backward.jsonl --backward
    python experiments/pretrain.py --config configs/tasks/dialogue_sft.py:backward
"""

from dataclasses import replace

from rljax.algorithms.sft import SFTConfig
from rljax.experiment import PretrainExperiment
from rljax.models.scratch import ArchitectureConfig
from rljax.tasks.documents import DocumentConfig
from rljax.training.optimizer import OptimizerConfig

config = PretrainExperiment(
    architecture=ArchitectureConfig(
        family="llama", hidden_size=96, num_layers=2, num_heads=4, context_length=320
    ),
    tokenizer="bpe:2048",
    data=DocumentConfig(
        source="runs/tasks/chitchat.jsonl", sequence_length=128, held_out_fraction=0.05
    ),
    sft=SFTConfig(batch_size=32),
    optimizer=OptimizerConfig(
        learning_rate=3e-3, schedule="cosine", warmup_steps=20, adam_b2=0.98, adam_eps=1e-8
    ),
    steps=400,
    eval_batches=8,
    eval_every=0,
    checkpoint_every=200,
    workdir="runs/tasks/dialogue_sft",
)

variants = {
    "backward": replace(
        config,
        data=replace(config.data, source="runs/tasks/chitchat_backward.jsonl"),
        workdir="runs/tasks/dialogue_backward",
    ),
    "smoke": replace(
        config,
        architecture=replace(config.architecture, hidden_size=32, num_layers=1),
        sft=replace(config.sft, batch_size=4),
        optimizer=replace(config.optimizer, warmup_steps=0),
        steps=3,
        workdir=None,
    ),
}
