"""A8. From GRPO to DAPO, a rung at a time, against steps and against samples.

Yu et al. 2025 (https://arxiv.org/abs/2503.14476), table 1: AIME 30 (GRPO) -> 36 (overlong filter)
-> 38 (clip-higher) -> 41 (soft punishment) -> 42 (token loss) -> 50 (dynamic sampling), at equal
numbers of steps. Dynamic sampling draws more samples a step, so both axes are shown; in a toy of
this size (a running-sum task, 51,200 samples) a like ladder ended below GRPO at equal samples.

Task: the nano task of `rljax.sweeps.worlds`, thoughts before the answer ("....abcd", 4 dots in the
mean, 14 at most) in 12 slots: about one completion in six is cut off before its answer, and scores
0 although nothing in it is wrong. Easy and hard words, so that many groups score alike. 128
completions a step, 8 of each word, 8 updates each, no KL.

Arms, each the one before and one thing more: grpo, filter (nothing is learnt from what was cut
off), higher (clip 0.2 below, 0.28 above), soft (the score falls over the last 4 slots), token
(mean over tokens), dynamic (up to 5 further batches replace groups of equal scores).

Metrics: `score` (of all that is sampled, with what dynamic sampling leaves out) and `entropy`
(nats a token), means of the last fifth of the steps; `at_samples`: the score, mean of the 10 steps
up to the one at which an arm has drawn 80 x 128 samples; `zero`: share of tokens without an
advantage, mean of all steps; `cut`: share cut off, last fifth.

Came out, 5 seeds, 1:50 minutes on 2 cores (results/dapo_ladder/table.md). Reproduced: the top is
above the foot at equal steps, 0.733 against 0.723, +0.010 [0.002, 0.017]; at equal samples it is
below it, 0.662 against 0.728. Not reproduced: clip-higher raises the entropy, -0.008 [-0.020,
0.003] against the rung before. Reversed: with dynamic sampling no token is without an advantage;
0.2% [0.1, 0.3] are, where 5 further batches did not suffice (GRPO: 8.1%).

    python experiments/sweep.py --config configs/ablations/dapo_ladder.py
"""

import dataclasses

import numpy as np

from rljax.algorithms.grpo import GRPOConfig
from rljax.experiment import GRPOExperiment
from rljax.kl import KLConfig
from rljax.reporting.runs import RunRecord
from rljax.rollout.distribution import SamplingConfig
from rljax.sweeps.nano import NanoGRPO, train_nano
from rljax.sweeps.spec import Claim, Sweep, chain, mean_of_last
from rljax.sweeps.worlds import Slips
from rljax.training.flags import load_config
from rljax.training.optimizer import OptimizerConfig

STEPS, BATCH = 80, 128

base = NanoGRPO(
    world=Slips(thoughts=4.0, most=14, before=True),
    sampling=SamplingConfig(max_new_tokens=12, temperature=1.0),
    optimizer=OptimizerConfig(learning_rate=1e-3, schedule="constant", warmup_steps=5),
    grpo=GRPOConfig(
        batch_size=BATCH,
        samples_per_prompt=8,
        num_minibatches=8,
        advantage="group_std",
        loss_aggregation="sequence",
        kl=KLConfig(coef=0.0),
    ),
    steps=STEPS,
)
RUNGS = {
    "grpo": {},
    "filter": {"grpo.mask_truncated": True},
    "higher": {"grpo.clip_eps_high": 0.28},
    "soft": {"grpo.overlong_buffer": 4},
    "token": {"grpo.loss_aggregation": "token"},
    "dynamic": {"grpo.dynamic_sampling": 5},
}


def entropy(run: RunRecord) -> float:
    """Read the policy's entropy in nats a token, mean of the last fifth of the steps."""
    nats, lengths = (
        np.asarray(run.metrics[tag].values) for tag in ("objective/entropy", "completion/length")
    )
    return float(np.mean((nats / lengths)[-max(len(nats) // 5, 1) :]))


def at_samples(run: RunRecord) -> float:
    """Read the score by the time that STEPS x BATCH samples are drawn, mean of 10 steps."""
    drawn = np.cumsum(run.metrics["objective/samples"].values)
    end = int(np.searchsorted(drawn, STEPS * BATCH, side="right"))
    return float(np.mean(run.metrics["world/score"].values[max(end - 10, 0) : max(end, 1)]))


claims = (
    Claim("the ladder's top is above its foot, at equal steps", "score", "dynamic", ">", "grpo"),
    Claim("clip-higher keeps the entropy up", "entropy", "higher", ">", "filter"),
    Claim(
        "with dynamic sampling every token has an advantage",
        "zero", "dynamic", "<=", 0.0, margin=1e-6,
    ),
)  # fmt: skip

cpu = Sweep(
    name="dapo_ladder",
    base=base,
    arms=chain(RUNGS),
    seeds=(0, 1, 2, 3, 4),
    metrics={
        "score": mean_of_last("world/score", 0.2),
        "at_samples": at_samples,
        "entropy": entropy,
        "zero": mean_of_last("health/zero_advantage_fraction", 1.0),
        "cut": mean_of_last("world/cut", 0.2),
    },
    claims=claims,
    program=train_nano,
    smoke={"pretrain_steps": 30, "steps": 6, "grpo.batch_size": 64},
)

full = Sweep(
    name="dapo_ladder",
    base=dataclasses.replace(
        load_config("configs/grpo_arithmetic.py", GRPOExperiment),
        sampling=SamplingConfig(max_new_tokens=1024, temperature=1.0),
        optimizer=OptimizerConfig(learning_rate=1e-6, schedule="constant", warmup_steps=20),
        grpo=dataclasses.replace(
            base.grpo, batch_size=1024, samples_per_prompt=16, gradient_accumulation=8
        ),
        steps=300,
    ),
    arms={
        name: {"model.source": "Qwen/Qwen2.5-1.5B", "task.few_shot": 0, **changes}
        for name, changes in chain(RUNGS | {"soft": {"grpo.overlong_buffer": 256}}).items()
    },
    seeds=(0, 1, 2),
    metrics={
        "score": mean_of_last("eval/scores", 0.1),
        "zero": mean_of_last("health/zero_advantage_fraction", 1.0),
    },
    claims=(claims[0], claims[2]),
    smoke={
        "model.source": "random:tiny-llama",
        "task.max_reward_failures": 1.0,
        "sampling.max_new_tokens": 8,
        "optimizer.warmup_steps": 0,
        "grpo.batch_size": 16,
        "grpo.samples_per_prompt": 2,
        "grpo.gradient_accumulation": 1,
        "grpo.overlong_buffer": 4,
        "steps": 2,
        "eval_prompts": 8,
    },
)
"""Qwen2.5-1.5B on sums and products (countdown needs the extra `reasoning`: set task.prompts)."""
