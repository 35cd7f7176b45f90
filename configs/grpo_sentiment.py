"""Positive continuations of film reviews by policy gradients without a critic, method by method.

The task is that of configs/ppo_sentiment.py. Each variant is a published method; GRPO (Shao et al.
2024) is the default.

    python experiments/grpo.py
    python experiments/grpo.py --config configs/grpo_sentiment.py:rloo
"""

from dataclasses import replace
from typing import Any

from rljax.algorithms.grpo import GRPOConfig
from rljax.experiment import GRPOExperiment, ModelConfig
from rljax.kl import KLConfig
from rljax.rollout.distribution import SamplingConfig
from rljax.tasks import TaskConfig
from rljax.training.alarms import AlarmConfig
from rljax.training.optimizer import OptimizerConfig

config = GRPOExperiment(
    model=ModelConfig(source="smollm2-135m-instruct"),
    task=TaskConfig(prompts="imdb", prompt_tokens=16, min_prompt_tokens=16, reward="sentiment"),
    sampling=SamplingConfig(max_new_tokens=24, temperature=0.7),
    alarms=AlarmConfig(truncated=None),  # reviews are continued up to a length: cut on purpose
    grpo=GRPOConfig(
        batch_size=32,
        samples_per_prompt=4,
        num_minibatches=2,
        kl=KLConfig(coef=0.04, estimator="k3"),
    ),
    optimizer=OptimizerConfig(learning_rate=6e-5, schedule="linear", adam_eps=1e-5),
    steps=24,
)


def method(**changes: Any) -> GRPOExperiment:
    """Return the config with another method's choices."""
    return replace(config, grpo=replace(config.grpo, **changes))


REINFORCE: dict[str, Any] = {
    "objective": "reinforce",
    "clip_eps": None,
    "num_minibatches": 1,
    "loss_aggregation": "constant",  # the log-probability of the whole completion: a sum
    "kl": KLConfig(coef=0.04, estimator="k1"),
    "kl_place": "score",
}
NO_KL = KLConfig(coef=0.0)

variants = {
    # Williams 1992, with the batch's mean as baseline
    "reinforce": method(**REINFORCE, advantage="batch_mean", samples_per_prompt=1),
    # Ahmadian et al. 2024: two gradient steps a batch, and the coefficient of their TL;DR runs
    "rloo": method(
        **REINFORCE | {"num_minibatches": 2, "kl": KLConfig(coef=0.03, estimator="k1")},
        advantage="leave_one_out",
    ),
    # Rennie et al. 2017, Li et al. 2024
    "remax": method(**REINFORCE, advantage="greedy", samples_per_prompt=1),
    # Hu 2025 (https://arxiv.org/abs/2501.03262): KL on the tokens, advantages whitened by batch
    "reinforce_pp": method(
        advantage="none",
        whiten_advantages=True,
        samples_per_prompt=1,
        kl=KLConfig(coef=0.04, estimator="k1"),
        kl_place="tokens",
        loss_aggregation="token",
    ),
    # the same, second form: the group's mean, whitened by batch, k2 in the loss
    "reinforce_pp_baseline": method(
        advantage="group_mean",
        whiten_advantages=True,
        kl=KLConfig(coef=0.04, estimator="k2"),
        loss_aggregation="token",
    ),
    # Liu et al. 2025: each batch is one update
    "dr_grpo": method(
        advantage="group_mean", loss_aggregation="constant", num_minibatches=1, kl=NO_KL
    ),
    # Yu et al. 2025; completions of 24 tokens never end here, so overlong rules stay off
    "dapo": method(clip_eps_high=0.28, loss_aggregation="token", dynamic_sampling=2, kl=NO_KL),
    # Zheng et al. 2025
    "gspo": method(
        ratio="sequence", clip_eps=3e-4, clip_eps_high=4e-4, num_minibatches=4, kl=NO_KL
    ),
    # MiniMax-M1 2025; ScaleRL's bounds: no lower one that acts, 5 above
    "cispo": method(
        objective="cispo", clip_eps=1.0, clip_eps_high=5.0, loss_aggregation="token", kl=NO_KL
    ),
    # Dong et al. 2023: fine-tuning on the best of each group, a mean over tokens
    "raft": method(
        objective="reinforce",
        clip_eps=None,
        advantage="best",
        num_minibatches=1,
        loss_aggregation="token",
        kl=NO_KL,
    ),
    "smoke": replace(
        method(batch_size=8),
        model=ModelConfig(source="random:tiny-llama"),
        optimizer=replace(config.optimizer, learning_rate=1e-3),
        steps=3,
        eval_prompts=8,
    ),
}
