"""Teach a small model to hold conversations about films, from noisy demonstrations: a base for RL.

The demonstrations are item-kNN's conversations with training users of MovieLens-100k, a third of
whose recommendations are random titles. Users are held out by a hash and are never met here.

    python experiments/play.py --environment rljax.environments.recommendation:Recommendation \\
        --policy demonstration --noise 0.3 --split train --episodes 6000 \\
        --out runs/tasks/recommendation.jsonl
    python experiments/pretrain.py --config configs/tasks/recommendation_sft.py
"""

from dataclasses import replace

from rljax.algorithms.sft import SFTConfig
from rljax.experiment import PretrainExperiment
from rljax.models.scratch import ArchitectureConfig
from rljax.tasks.documents import DocumentConfig
from rljax.training.optimizer import OptimizerConfig

config = PretrainExperiment(
    architecture=ArchitectureConfig(
        family="llama", hidden_size=64, num_layers=2, num_heads=4, context_length=256
    ),
    tokenizer="bpe:768",
    # every conversation begins alike, so that a hash of its beginning cannot split them
    data=DocumentConfig(
        source="runs/tasks/recommendation.jsonl", sequence_length=160, held_out_fraction=0.0
    ),
    sft=SFTConfig(batch_size=16),
    optimizer=OptimizerConfig(
        learning_rate=3e-3, schedule="cosine", warmup_steps=20, adam_b2=0.98, adam_eps=1e-8
    ),
    steps=400,
    eval_batches=0,
    eval_every=0,
    checkpoint_every=100,
    workdir="runs/tasks/recommendation_sft",
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
