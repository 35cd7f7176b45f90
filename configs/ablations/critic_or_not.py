"""A6. A critic or not: REINFORCE, RLOO and RAFT against PPO at equal numbers of samples.

Ahmadian et al. 2024, "Back to Basics" (https://arxiv.org/abs/2402.14740), table 1 and sections 4
and 5.1: with a start that is good already, plain policy gradients on whole completions are at least
as good as PPO, lambda = 1 is the best of PPO's lambdas, and its clip hardly ever acts.

Task: the nano task of `rljax.sweeps.worlds`, whose prompts differ in difficulty, from one
pretrained start; 128 completions a step, two optimizer steps each, KL coefficient 0.05 for all, one
learning rate for all. Methods without a critic charge the KL on the score, PPO on the tokens.

Metrics: `score`, `KL` (nats a completion) and `objective` = score - 0.05 KL, means of the last
fifth of the steps. "Reward at matched KL" is compared by `objective`, in which the KL has the price
that all arms were given. `variance`: of the policy's gradient (summed over parameters) at the first
step, where all arms have the same policy. `clipped`: share of tokens whose gradient PPO's clip took
away, mean of all steps.

Came out, 5 seeds, 2:27 minutes on 2 cores (results/critic_or_not/table.md). Reproduced: lambda 1 is
above lambda 0, +0.270 [0.253, 0.289]; the clip acts on 0.02% of tokens. Not reproduced: RLOO with 4
samples is 0.015 [0.005, 0.026] below PPO at lambda 0.95, more than the standard error allowed.
Reversed: the variance is 0.008 without a baseline, 0.033 with the mean, 0.062 with RLOO. A cause
that was not checked: right answers are likely and their gradients small, wrong ones unlikely and
their gradients large; without a baseline, wrong ones score 0 and have no gradient at all. PPO's
0.18 is on another scale, as it whitens its advantages.

    python experiments/sweep.py --config configs/ablations/critic_or_not.py
"""

import dataclasses

from rljax.algorithms.grpo import GRPOConfig
from rljax.algorithms.ppo import PPOConfig
from rljax.experiment import GRPOExperiment
from rljax.kl import KLConfig
from rljax.rollout.distribution import SamplingConfig
from rljax.sweeps.nano import NanoGRPO, NanoPPO, train_nano
from rljax.sweeps.spec import Claim, Sweep, at, less_kl, mean_of_last
from rljax.sweeps.tldr import SMOKE, tldr_ppo, tldr_stages
from rljax.sweeps.worlds import Slips
from rljax.training.optimizer import OptimizerConfig

BETA = 0.05

common = {
    "world": Slips(),
    "sampling": SamplingConfig(max_new_tokens=6, temperature=1.0),
    "optimizer": OptimizerConfig(learning_rate=1e-3, warmup_steps=5),
    "steps": 60,
}
sizes = {
    "batch_size": 128,
    "num_epochs": 1,
    "num_minibatches": 2,
    "gradient_accumulation": 8,
    "measure_variance": True,
}
critic_free = NanoGRPO(
    grpo=GRPOConfig(
        **sizes,
        samples_per_prompt=1,
        advantage="batch_mean",
        objective="reinforce",
        clip_eps=None,
        loss_aggregation="constant",
        kl=KLConfig(coef=BETA, estimator="k1"),
        kl_place="score",
    ),
    **common,
)
with_critic = NanoPPO(
    ppo=PPOConfig(**sizes, whiten_rewards=False, kl=KLConfig(coef=BETA)), **common
)

arms = {
    "pg": {"grpo.advantage": "none"},
    "mean": {"grpo.advantage": "batch_mean"},
    "greedy": {"grpo.advantage": "greedy"},
    "rloo2": {"grpo.advantage": "leave_one_out", "grpo.samples_per_prompt": 2},
    "rloo4": {"grpo.advantage": "leave_one_out", "grpo.samples_per_prompt": 4},
    "raft4": {
        "grpo.advantage": "best",
        "grpo.samples_per_prompt": 4,
        "grpo.kl_place": "loss",
    },
    "ppo_lambda0": {"base": with_critic, "ppo.gae_lambda": 0.0},
    "ppo_lambda0.5": {"base": with_critic, "ppo.gae_lambda": 0.5},
    "ppo_lambda0.95": {"base": with_critic, "ppo.gae_lambda": 0.95},
    "ppo_lambda1": {"base": with_critic, "ppo.gae_lambda": 1.0},
    "ppo_no_clip": {"base": with_critic, "ppo.clip_eps": 0.999, "ppo.clip_eps_high": 1e6},
}


claims = (
    Claim(
        "RLOO with 4 samples is at least as good as PPO, within a standard error",
        "objective", "rloo4", ">=", "ppo_lambda0.95", margin_se=1.0,
    ),
    Claim(
        "of PPO's lambdas, 1 is at least as good as 0",
        "objective", "ppo_lambda1", ">=", "ppo_lambda0",
    ),
    Claim("PPO's clip acts on less than 5% of tokens", "clipped", "ppo_lambda0.95", "<", 0.05),
    Claim("a baseline lowers the variance of the gradient", "variance", "pg", ">", "mean"),
    Claim("RLOO lowers it further", "variance", "mean", ">", "rloo4"),
)  # fmt: skip

cpu = Sweep(
    name="critic_or_not",
    base=critic_free,
    arms=arms,
    seeds=(0, 1, 2, 3, 4),
    metrics={
        "objective": less_kl(BETA, 0.2),
        "score": mean_of_last("objective/scores", 0.2),
        "KL": mean_of_last("objective/kl", 0.2),
        "variance": at("optim/grad_variance", 1),
        "clipped": mean_of_last("policy/clip_fraction", 1.0),
    },
    claims=claims,
    program=train_nano,
    smoke={"steps": 6, "pretrain_steps": 5, "grpo.batch_size": 64, "ppo.batch_size": 64},
)

tldr = tldr_ppo()
shared = {
    field.name: getattr(tldr, field.name)
    for field in dataclasses.fields(tldr)
    if field.name != "ppo"
}
full_sizes = {"batch_size": 512, "num_epochs": 1, "num_minibatches": 2, "gradient_accumulation": 16}
full_free = GRPOExperiment(
    grpo=dataclasses.replace(
        critic_free.grpo,
        **full_sizes,
        missing_eos_penalty=-1.0,
        kl=KLConfig(coef=BETA, estimator="k1"),
    ),
    **shared,
)
full_critic = dataclasses.replace(
    tldr,
    ppo=dataclasses.replace(tldr.ppo, **full_sizes, measure_variance=True, kl=KLConfig(coef=BETA)),
)

full = dataclasses.replace(
    cpu,
    base=full_free,
    arms={
        name: changes | ({"base": full_critic} if "base" in changes else {})
        for name, changes in arms.items()
    },
    seeds=(0, 1, 2, 3),
    program=None,
    stages=tldr_stages(),
    smoke=SMOKE
    | {
        f"{part}.{field}": value
        for part in ("grpo", "ppo")
        for field, value in (("batch_size", 16), ("gradient_accumulation", 2))
    },
)
"""Pythia-1B on TL;DR: Ahmadian et al. with Pythia-6.9B, and the reproduction that had 40.1% of wins
for RLOO (k = 2) where its start has 21.3%."""
