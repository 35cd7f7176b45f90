"""Stage 2 of the sentiment pipeline: a reward model from the labels of the reviews.

The trunk is that of stage 1. A pair is a continuation of 24 tokens of a positive review, which is
preferred, and one of a negative review; the prompts are the 16 tokens before them. Measured (seed
0): 0.65 of 120 held-out pairs in the right order, 0.57 before.

    python experiments/reward_model.py --config configs/pipeline_sentiment/reward_model.py
"""

from dataclasses import replace

from rljax.algorithms.reward_model import RewardModelConfig
from rljax.experiment import ModelConfig, RewardExperiment
from rljax.tasks.preferences import PreferenceConfig
from rljax.training.optimizer import OptimizerConfig

config = RewardExperiment(
    model=ModelConfig(source="runs/pipeline/sft"),
    data=PreferenceConfig(source="imdb", completion_tokens=24, max_records=1200),
    reward_model=RewardModelConfig(loss="pairwise", batch_size=8, normalise_samples=64),
    optimizer=OptimizerConfig(learning_rate=3e-5, schedule="linear", warmup_steps=5),
    steps=80,
    workdir="runs/pipeline/reward_model",
    eval_batches=None,
    checkpoint_every=40,
)

variants = {
    "smoke": replace(
        config,
        data=replace(config.data, max_records=120),
        reward_model=replace(config.reward_model, batch_size=4, normalise_samples=8),
        optimizer=replace(config.optimizer, learning_rate=1e-3, warmup_steps=0),
        model=ModelConfig(source="runs/pipeline_smoke/sft"),
        steps=3,
        workdir="runs/pipeline_smoke/reward_model",
    ),
}
