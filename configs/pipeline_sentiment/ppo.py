"""Stage 3 of the sentiment pipeline: PPO from stage 1 against the learned reward of stage 2.

VADER's sentiment, which neither stage has seen, is logged beside it with weight 0: a learned
reward that is cheated shows there. Measured (seed 0, 128 held-out prompts): the learned reward
-0.11 -> +0.38, change +0.50 [+0.23, +0.78]; VADER +0.27 -> +0.14, change -0.12 [-0.23, -0.01].

    python experiments/ppo.py --config configs/pipeline_sentiment/ppo.py
"""

from dataclasses import replace

from rljax.algorithms.ppo import PPOConfig
from rljax.experiment import ModelConfig, PPOExperiment
from rljax.kl import KLConfig
from rljax.rollout.distribution import SamplingConfig
from rljax.tasks import TaskConfig
from rljax.training.alarms import AlarmConfig
from rljax.training.optimizer import OptimizerConfig

config = PPOExperiment(
    model=ModelConfig(source="runs/pipeline/sft"),
    task=TaskConfig(
        prompts="imdb",
        prompt_tokens=16,
        min_prompt_tokens=16,
        reward=("model:runs/pipeline/reward_model", "sentiment"),
        reward_weights=(1.0, 0.0),
    ),
    sampling=SamplingConfig(max_new_tokens=24, temperature=0.7),
    alarms=AlarmConfig(truncated=None),  # reviews are continued up to a length: cut on purpose
    ppo=PPOConfig(
        batch_size=32,
        num_epochs=1,
        num_minibatches=2,
        gae_lambda=1.0,
        whiten_rewards=False,
        kl=KLConfig(coef=0.06, controller="fixed"),
    ),
    optimizer=OptimizerConfig(learning_rate=6e-5, schedule="linear", adam_eps=1e-5),
    steps=24,
    workdir="runs/pipeline/ppo",
)

variants = {
    "smoke": replace(
        config,
        ppo=replace(config.ppo, batch_size=8),
        optimizer=replace(config.optimizer, learning_rate=1e-3),
        model=ModelConfig(source="runs/pipeline_smoke/sft"),
        task=replace(config.task, reward=("model:runs/pipeline_smoke/reward_model", "sentiment")),
        steps=3,
        workdir="runs/pipeline_smoke/ppo",
        eval_prompts=8,
    ),
}
