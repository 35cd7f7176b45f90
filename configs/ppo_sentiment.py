"""Positive continuations of film reviews (mock sentiment of Ziegler et al. 2019, section 3.1.1).

SmolLM2-135M-Instruct goes on from the first 16 tokens of an IMDB review; the score is VADER's
compound sentiment of the 24 tokens it writes.

    python experiments/ppo.py
"""

from dataclasses import replace

from rljax.algorithms.ppo import PPOConfig
from rljax.experiment import ModelConfig, PPOExperiment
from rljax.kl import KLConfig
from rljax.rollout.distribution import SamplingConfig
from rljax.tasks import TaskConfig
from rljax.training.optimizer import OptimizerConfig

config = PPOExperiment(
    model=ModelConfig(source="smollm2-135m-instruct"),
    task=TaskConfig(prompts="imdb", prompt_tokens=16, min_prompt_tokens=16, reward="sentiment"),
    sampling=SamplingConfig(max_new_tokens=24, temperature=0.7),
    ppo=PPOConfig(
        batch_size=32,
        num_epochs=1,
        num_minibatches=2,
        gae_lambda=1.0,
        whiten_rewards=False,
        kl=KLConfig(coef=0.04, controller="fixed"),
    ),
    optimizer=OptimizerConfig(learning_rate=6e-5, schedule="linear", adam_eps=1e-5),
    steps=24,
)

variants = {
    "smoke": replace(
        config,
        model=ModelConfig(source="random:tiny-llama"),
        ppo=replace(config.ppo, batch_size=8),
        optimizer=replace(config.optimizer, learning_rate=1e-3),
        steps=3,
        eval_prompts=8,
    ),
}
