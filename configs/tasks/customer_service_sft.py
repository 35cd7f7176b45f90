"""Teach a small model from past conversations what a service agent does: the base for RL.

    python experiments/pretrain.py --config configs/tasks/customer_service_sft.py

See configs/tasks/customer_service.py.
"""

from dataclasses import replace

from rljax.algorithms.sft import SFTConfig
from rljax.experiment import PretrainExperiment
from rljax.models.scratch import ArchitectureConfig
from rljax.tasks.documents import DocumentConfig
from rljax.training.optimizer import OptimizerConfig

config = PretrainExperiment(
    architecture=ArchitectureConfig(
        family="llama", hidden_size=128, num_layers=3, num_heads=4, context_length=192
    ),
    tokenizer="bpe:1024",
    data=DocumentConfig(source="customer_service", sequence_length=192),
    sft=SFTConfig(batch_size=16),
    optimizer=OptimizerConfig(
        learning_rate=3e-3,
        schedule="cosine",
        warmup_steps=30,
        adam_b2=0.98,
        adam_eps=1e-8,
    ),
    steps=500,
    workdir="runs/tasks/customer_service_sft",
    eval_batches=8,
    eval_every=125,
    checkpoint_every=250,
)

variants = {
    "smoke": replace(
        config,
        architecture=replace(config.architecture, hidden_size=32, num_layers=1),
        sft=replace(config.sft, batch_size=4),
        optimizer=replace(config.optimizer, warmup_steps=0),
        steps=3,
        workdir=None,
        eval_batches=1,
        eval_every=0,
    ),
}
