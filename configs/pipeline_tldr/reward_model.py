"""Summaries of Reddit posts, 2 of 3: a reward model of 92,000 human preferences.

Settings of Huang et al. 2024 (https://arxiv.org/abs/2403.17031): one epoch at 3e-6, batches of 64.
Not measured here yet; the paper's held-out accuracy is 0.628.

    python experiments/reward_model.py --config configs/pipeline_tldr/reward_model.py
"""

from dataclasses import replace

from rljax.algorithms.reward_model import RewardModelConfig
from rljax.experiment import ModelConfig, RewardExperiment
from rljax.tasks.preferences import PreferenceConfig
from rljax.training.optimizer import OptimizerConfig

config = RewardExperiment(
    model=ModelConfig(source="runs/pipeline_tldr/sft"),
    data=PreferenceConfig(source="hf:trl-lib/tldr-preference?split=train", completion_tokens=53),
    reward_model=RewardModelConfig(loss="pairwise", batch_size=64, normalise_samples=256),
    optimizer=OptimizerConfig(learning_rate=3e-6, schedule="cosine", adam_eps=1e-5),
    steps=1450,
    workdir="runs/pipeline_tldr/reward_model",
    eval_batches=8,
    checkpoint_every=500,
)

variants = {
    "smoke": replace(
        config,
        model=ModelConfig(source="runs/pipeline_tldr_smoke/sft"),
        data=replace(config.data, source="imdb", completion_tokens=8, max_records=120),
        reward_model=replace(config.reward_model, batch_size=4, normalise_samples=8),
        optimizer=replace(config.optimizer, learning_rate=1e-3),
        steps=3,
        workdir="runs/pipeline_tldr_smoke/reward_model",
    ),
}
