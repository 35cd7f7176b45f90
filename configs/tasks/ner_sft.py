"""doc"""

from dataclasses import replace

from rljax.algorithms.sft import SFTConfig
from rljax.experiment import PretrainExperiment
from rljax.models.scratch import ArchitectureConfig
from rljax.tasks.documents import DocumentConfig
from rljax.training.optimizer import OptimizerConfig

config = PretrainExperiment(
    architecture=ArchitectureConfig(
        family="llama", hidden_size=128, num_layers=3, num_heads=4, context_length=320
    ),
    tokenizer="bpe:2048",
    data=DocumentConfig(source="ner?swaps=2", sequence_length=256),
    sft=SFTConfig(batch_size=8),
    optimizer=OptimizerConfig(
        learning_rate=2e-3, schedule="cosine", warmup_steps=20, adam_b2=0.98, weight_decay=0.1
    ),
    steps=400,
    workdir="runs/tasks/ner_sft",
    eval_batches=None,
    eval_every=100,
    checkpoint_every=200,
)

variants = {
    "smoke": replace(
        config,
        architecture=replace(config.architecture, hidden_size=32, num_layers=1),
        tokenizer="bytes",
        data=replace(config.data, source="ner?max_words=12", sequence_length=128),
        sft=replace(config.sft, batch_size=4),
        optimizer=replace(config.optimizer, warmup_steps=0),
        steps=3,
        workdir="runs/tasks/ner_smoke_sft",
        eval_batches=1,
        eval_every=0,
    ),
}
