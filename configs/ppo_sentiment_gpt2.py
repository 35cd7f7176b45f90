"""The settings of Ziegler et al. 2019's sentiment task, for a GPU (https://arxiv.org/abs/1909.08593).

GPT-2 124M, 64 prompt and 24 completion tokens, batches of 512, adaptive KL of 6 nats, Adam in
TensorFlow's form, a period at or after token 16 or a score of -1. The reward here is VADER's
compound sentiment, not the paper's model of human labels: scores are in [-1, 1]. Not yet measured.

    python experiments/ppo.py --config configs/ppo_sentiment_gpt2.py
"""

from dataclasses import replace

from rljax.algorithms.ppo import PPOConfig
from rljax.experiment import ModelConfig, PPOExperiment
from rljax.kl import KLConfig
from rljax.rollout.distribution import SamplingConfig
from rljax.tasks import TaskConfig
from rljax.training.optimizer import OptimizerConfig

config = PPOExperiment(
    model=ModelConfig(source="openai-community/gpt2"),
    task=TaskConfig(prompts="imdb", prompt_tokens=64, min_prompt_tokens=64, reward="sentiment"),
    sampling=SamplingConfig(max_new_tokens=24, min_new_tokens=24, temperature=0.7),
    ppo=PPOConfig(
        batch_size=512,
        num_epochs=4,
        num_minibatches=1,
        gradient_accumulation=8,
        value_coef=0.1,
        whiten_rewards=True,
        truncate_token=13,
        truncate_after=16,
        truncate_penalty=-1.0,
        kl=KLConfig(coef=0.15, controller="openai", target=6.0, horizon=10_000.0),
    ),
    optimizer=OptimizerConfig(
        learning_rate=1e-5, schedule="linear", adam_form="tf", adam_eps=1e-5, max_grad_norm=None
    ),
    steps=1953,
    prompt_multiple=64,
)

variants = {
    "smoke": replace(
        config,
        model=ModelConfig(source="random:tiny-gpt2"),
        ppo=replace(config.ppo, batch_size=8, gradient_accumulation=2),
        steps=3,
        eval_prompts=8,
    ),
}
