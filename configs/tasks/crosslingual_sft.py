"""The supervised start of text crosslingual: a small Llama from scratch reads film reviews."""

from dataclasses import replace

from rljax.algorithms.sft import SFTConfig
from rljax.experiment import PretrainExperiment
from rljax.models.scratch import ArchitectureConfig
from rljax.tasks.documents import DocumentConfig
from rljax.training.optimizer import OptimizerConfig

config = PretrainExperiment(
    architecture=ArchitectureConfig(
        family="llama", hidden_size=96, num_layers=2, num_heads=4, context_length=256
    ),
    tokenizer="bpe:4096",
    data=DocumentConfig(source="crosslingual", sequence_length=128),
    sft=SFTConfig(batch_size=32),
    optimizer=OptimizerConfig(
        learning_rate=2e-3,
        schedule="cosine",
        warmup_steps=50,
        final_fraction=0.1,
        weight_decay=0.1,
        adam_b2=0.98,
        adam_eps=1e-8,
    ),
    steps=1000,
    workdir="runs/tasks/crosslingual_sft",
    eval_batches=16,
    eval_every=200,
    checkpoint_every=500,
)

variants = {
    "smoke": replace(
        config,
        architecture=replace(config.architecture, hidden_size=32, num_layers=1),
        tokenizer="bpe:300",
        data=replace(config.data, max_documents=200),
        sft=replace(config.sft, batch_size=4),
        optimizer=replace(config.optimizer, warmup_steps=0),
        steps=3,
        workdir="runs/tasks_smoke/crosslingual_sft",
        eval_batches=1,
        eval_every=0,
    ),
}
