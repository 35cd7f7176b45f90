"""A small model from scratch learns docstrings: the start of summarisation_scratch.py.

Text and summary are learnt both, for the summaries alone are few tokens. Not measured yet.

    python experiments/pretrain.py --config configs/tasks/summarisation_scratch_sft.py
"""

from dataclasses import replace

from rljax.algorithms.sft import SFTConfig
from rljax.experiment import PretrainExperiment
from rljax.models.scratch import ArchitectureConfig
from rljax.tasks.documents import DocumentConfig
from rljax.training.optimizer import OptimizerConfig

config = PretrainExperiment(
    architecture=ArchitectureConfig(
        family="llama", hidden_size=128, num_layers=3, num_heads=4, context_length=256
    ),
    tokenizer="bpe:2048",
    data=DocumentConfig(source="summarisation?max_chars=240", loss_on="all", sequence_length=128),
    sft=SFTConfig(batch_size=16),
    optimizer=OptimizerConfig(
        learning_rate=2e-3,
        schedule="cosine",
        warmup_steps=20,
        adam_b2=0.98,
        adam_eps=1e-8,
    ),
    steps=150,
    workdir="runs/tasks/summarisation_scratch_sft",
    eval_batches=None,
    eval_every=75,
    checkpoint_every=150,
)

variants = {
    "smoke": replace(
        config,
        architecture=replace(config.architecture, hidden_size=32, num_layers=1, num_heads=4),
        tokenizer="bytes",
        data=replace(config.data, source="summarisation?max_chars=80"),
        sft=replace(config.sft, batch_size=4),
        optimizer=replace(config.optimizer, warmup_steps=0),
        steps=3,
        workdir="runs/tasks/summarisation_scratch_smoke_sft",
        eval_batches=1,
        eval_every=0,
    ),
}
