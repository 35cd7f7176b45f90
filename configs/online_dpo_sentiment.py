"""Positive continuations of film reviews by online DPO (Guo et al. 2024).

The task is that of configs/ppo_sentiment.py; of 4 completions of a prompt the one with the highest
VADER compound is preferred to the one with the lowest. Not yet measured.

    python experiments/online_dpo.py
"""

from dataclasses import replace

from rljax.algorithms.online_dpo import OnlineDPOConfig
from rljax.experiment import ModelConfig, OnlineDPOExperiment
from rljax.rollout.distribution import SamplingConfig
from rljax.tasks import TaskConfig
from rljax.training.alarms import AlarmConfig
from rljax.training.optimizer import OptimizerConfig

config = OnlineDPOExperiment(
    model=ModelConfig(source="smollm2-135m-instruct"),
    task=TaskConfig(prompts="imdb", prompt_tokens=16, min_prompt_tokens=16, reward="sentiment"),
    sampling=SamplingConfig(max_new_tokens=24, temperature=0.7),
    alarms=AlarmConfig(truncated=None),  # reviews are continued up to a length: cut on purpose
    online_dpo=OnlineDPOConfig(batch_size=32, samples_per_prompt=4, beta=0.1),
    optimizer=OptimizerConfig(learning_rate=2e-5, schedule="linear"),
    steps=24,
)

variants = {
    "smoke": replace(
        config,
        model=ModelConfig(source="random:tiny-llama"),
        online_dpo=replace(config.online_dpo, batch_size=8),
        optimizer=replace(config.optimizer, learning_rate=1e-3),
        steps=3,
        eval_prompts=8,
    ),
    "ipo": replace(config, online_dpo=replace(config.online_dpo, loss="ipo")),
}
