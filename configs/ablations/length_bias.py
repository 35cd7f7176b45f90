"""A7. The length bias of sequence means: wrong answers grow.

Liu et al. 2025, Dr. GRPO (https://arxiv.org/abs/2503.20783), section 3.1: with the mean over a
completion's tokens, a token of a long wrong answer is punished less than one of a short one, so
that wrong answers grow, whatever that brings; a constant in place of the length has no such bias.

Task: the nano task of `rljax.sweeps.worlds`, answers with thoughts of free length behind them
("abcd....", 3 dots in the mean): they bring nothing, and the policy knows, when it writes them,
whether its letters are right. 60% of demonstrations are wrong. Verified answers score 1. 64
completions a step, 8 of each word, one update each (strictly on-policy), no KL.

Arms: mean over tokens of a sequence and then over sequences, with and without the division by the
group's deviation (seq_std is GRPO, seq); mean over all tokens (token); a constant (const is Dr.
GRPO, const_std).

Metrics: `wrong`, `right`: slope of the mean length of wrong and of right answers, in tokens per 100
steps, least squares over all steps, each step weighted by how many such answers it has; `score` at
the end.

Came out, 5 seeds, 2:14 minutes on 2 cores (results/length_bias/table.md). Not reproduced: wrong
answers grow with sequence means, -0.05 [-0.18, 0.06] tokens per 100 steps. Undecided: faster than
with a constant, +0.06 [-0.05, 0.15]. Reproduced: with a constant the slope's interval includes 0,
-0.11 [-0.28, 0.02]. No cause was looked for yet; scores end at 0.73 in all arms, and no slope
differs from 0, so the world may be too short of wrong answers, or 200 steps too few.

    python experiments/sweep.py --config configs/ablations/length_bias.py
"""

import dataclasses

import numpy as np

from rljax.algorithms.grpo import GRPOConfig
from rljax.experiment import GRPOExperiment
from rljax.kl import KLConfig
from rljax.reporting.runs import RunRecord
from rljax.rollout.distribution import SamplingConfig
from rljax.sweeps.nano import NanoGRPO, train_nano
from rljax.sweeps.spec import Claim, Sweep, mean_of_last
from rljax.sweeps.worlds import Slips
from rljax.training.flags import load_config
from rljax.training.optimizer import OptimizerConfig

base = NanoGRPO(
    world=Slips(easy=0.6, hard=0.6, thoughts=3.0, most=12),
    sampling=SamplingConfig(max_new_tokens=24, temperature=1.0),
    optimizer=OptimizerConfig(learning_rate=3e-4, schedule="constant"),
    grpo=GRPOConfig(
        batch_size=64,
        samples_per_prompt=8,
        advantage="group_mean",
        objective="reinforce",
        clip_eps=None,
        kl=KLConfig(coef=0.0),
    ),
    steps=200,
)
arms = {
    "seq_std": {"grpo.advantage": "group_std", "grpo.loss_aggregation": "sequence"},
    "seq": {"grpo.loss_aggregation": "sequence"},
    "token": {"grpo.loss_aggregation": "token"},
    "const": {"grpo.loss_aggregation": "constant"},
    "const_std": {"grpo.advantage": "group_std", "grpo.loss_aggregation": "constant"},
}


def slope(lengths: np.ndarray, shares: np.ndarray) -> float:
    """Fit a line to mean lengths of answers whose share of a batch is given: tokens / 100 steps."""
    steps = np.arange(len(shares)) / 100
    seen = shares > 0
    means = lengths[seen] / shares[seen]
    return float(np.polyfit(steps[seen], means, 1, w=np.sqrt(shares[seen]))[0])


def values(run: RunRecord, tag: str) -> np.ndarray:
    """Return a tag's values."""
    return np.asarray(run.metrics[tag].values)


def wrong_slope(run: RunRecord) -> float:
    """Read how fast wrong answers grow."""
    return slope(values(run, "world/wrong_length"), values(run, "world/wrong"))


def right_slope(run: RunRecord) -> float:
    """Read how fast right answers grow."""
    return slope(values(run, "world/right_length"), 1 - values(run, "world/wrong"))


claims = (
    Claim("with sequence means wrong answers grow", "wrong", "seq", ">", 0.0),
    Claim("and faster than with a constant", "wrong", "seq", ">", "const"),
    Claim("with a constant they neither grow nor shrink", "wrong", "const", "equal", 0.0),
)

cpu = Sweep(
    name="length_bias",
    base=base,
    arms=arms,
    seeds=(0, 1, 2, 3, 4),
    metrics={
        "wrong": wrong_slope,
        "right": right_slope,
        "score": mean_of_last("objective/scores", 0.2),
    },
    claims=claims,
    program=train_nano,
    smoke={"pretrain_steps": 30, "steps": 4, "grpo.batch_size": 16},
)

full = Sweep(
    name="length_bias",
    base=dataclasses.replace(
        load_config("configs/grpo_arithmetic.py", GRPOExperiment),
        sampling=SamplingConfig(max_new_tokens=3000, temperature=1.0),
        optimizer=OptimizerConfig(learning_rate=1e-6, schedule="constant"),
        grpo=dataclasses.replace(base.grpo, batch_size=1024, gradient_accumulation=64),
        steps=400,
    ),
    arms={
        name: {"model.source": "Qwen/Qwen2.5-Math-1.5B", "task.few_shot": 0, **changes}
        for name, changes in arms.items()
    },
    seeds=(0, 1, 2),
    metrics={
        "length": mean_of_last("completion/length", 0.2),
        "score": mean_of_last("objective/scores", 0.2),
    },
    claims=(Claim("sequence means end longer", "length", "seq", ">", "const"),),
    smoke={
        "model.source": "random:tiny-llama",
        "sampling.max_new_tokens": 8,
        "grpo.batch_size": 16,
        "grpo.gradient_accumulation": 1,
        "steps": 2,
        "eval_prompts": 8,
    },
)
"""Qwen2.5-Math-1.5B with 3,000 tokens, on sums and products; lengths of all answers together."""
