"""Stage 1 of the sentiment pipeline: fine-tune SmolLM2-135M-Instruct on film reviews.

Positive and negative ones, so that what the later stages add is theirs. The reviews are split by
their first 16 tokens, which are the prompts of the later stages: what they hold out is held out
here too. Measured (seed 0): held-out perplexity 73.5 -> 57.3.

    python experiments/sft.py --config configs/pipeline_sentiment/sft.py
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
        max_documents=2000,
        sequence_length=64,
        too_long="truncate",
        split_tokens=16,
    ),
    sft=SFTConfig(batch_size=8),
    optimizer=OptimizerConfig(learning_rate=2e-5, schedule="cosine", warmup_steps=5),
    steps=50,
    workdir="runs/pipeline/sft",
    eval_batches=8,
    checkpoint_every=50,
)

variants = {
    "smoke": replace(
        config,
        model=ModelConfig(source="random:tiny-llama"),
        data=replace(config.data, max_documents=200),
        sft=replace(config.sft, batch_size=4),
        optimizer=replace(config.optimizer, learning_rate=1e-3, warmup_steps=0),
        steps=3,
        workdir="runs/pipeline_smoke/sft",
        eval_batches=2,
    ),
}
