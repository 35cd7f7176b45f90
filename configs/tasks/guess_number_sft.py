"""Teach a small model to guess a number from 1 to 31 in 5 turns, a quarter of its turns at random.

    python experiments/play.py --environment rljax.environments.games:GuessTheNumber \\
        --policy rule --noise 0.25 --split train --episodes 3000 --out runs/tasks/guess_number.jsonl
    python experiments/pretrain.py --config configs/tasks/guess_number_sft.py
"""

from dataclasses import replace

from rljax.algorithms.sft import SFTConfig
from rljax.experiment import PretrainExperiment
from rljax.models.scratch import ArchitectureConfig
from rljax.tasks.documents import DocumentConfig
from rljax.training.optimizer import OptimizerConfig

config = PretrainExperiment(
    architecture=ArchitectureConfig(
        family="llama", hidden_size=64, num_layers=2, num_heads=4, context_length=96
    ),
    tokenizer="bpe:320",
    data=DocumentConfig(
        source="runs/tasks/guess_number.jsonl", sequence_length=96, held_out_fraction=0.0
    ),
    sft=SFTConfig(batch_size=32),
    optimizer=OptimizerConfig(
        learning_rate=3e-3, schedule="cosine", warmup_steps=20, adam_b2=0.98, adam_eps=1e-8
    ),
    steps=600,
    eval_batches=0,
    eval_every=0,
    checkpoint_every=100,
    workdir="runs/tasks/guess_number_sft",
)

variants = {
    "smoke": replace(
        config,
        architecture=replace(config.architecture, hidden_size=32, num_layers=1),
        sft=replace(config.sft, batch_size=4),
        optimizer=replace(config.optimizer, warmup_steps=0),
        steps=3,
        workdir=None,
    ),
}
