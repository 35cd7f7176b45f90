"""Teach a tiny model sums of two numbers, from scratch: a base for RL ablations.

All sums a+b= of numbers below 50 (2,500), a tenth of them held out by their hash; bytes are the
tokens, the loss is on the answers. RL goes on with the same split by
`--task.prompts arithmetic:50 --task.prompt-tokens None`: its held-out prompts were never learnt.

    python experiments/pretrain.py --config configs/pretrain_arithmetic.py
"""

from dataclasses import replace

from rljax.algorithms.sft import SFTConfig
from rljax.experiment import PretrainExperiment
from rljax.models.scratch import ArchitectureConfig
from rljax.tasks.documents import DocumentConfig
from rljax.training.optimizer import OptimizerConfig

config = PretrainExperiment(
    architecture=ArchitectureConfig(
        family="llama", hidden_size=128, num_layers=3, num_heads=4, context_length=64
    ),
    tokenizer="bytes",
    data=DocumentConfig(source="arithmetic:50", sequence_length=64),
    sft=SFTConfig(batch_size=16),
    optimizer=OptimizerConfig(
        learning_rate=2e-3,
        schedule="cosine",
        warmup_steps=20,
        adam_b2=0.98,
        adam_eps=1e-8,
    ),
    steps=600,
    eval_batches=None,
    eval_every=100,
    checkpoint_every=200,
)

variants = {
    "smoke": replace(
        config,
        architecture=replace(config.architecture, hidden_size=32, num_layers=1),
        data=replace(config.data, source="arithmetic:10", held_out_fraction=0.3),
        sft=replace(config.sft, batch_size=4),
        optimizer=replace(config.optimizer, warmup_steps=0),
        steps=3,
        eval_every=0,
    ),
}
