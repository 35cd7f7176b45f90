"""Where the KL is charged, and by which estimator: what that does to the policy that is learnt.

Schulman 2020 (http://joschu.net/blog/kl-approx.html) and Tang and Munos 2025
(https://arxiv.org/abs/2506.09477): an estimator that is right as a number may have the wrong
gradient. On-policy, of each token given its prefix, k1 in the loss has no expected gradient, k2 has
that of KL(policy || reference), k3 that of KL(reference || policy); only what is charged on whole
completions also carries what a token does to the KL of later ones.

Arms, one update a rollout, beta 0.1, RLOO with 4 samples:

    none         no KL
    k1_reward    k1 of the whole completion, on its score
    k1_loss, k2_loss, k3_loss    of each token, in the loss
    exact_loss   the exact gradient of KL(policy || reference), over all completions

on tasks of 8^4 completions, all listed (rljax.sweeps.enumerable); a seed draws the task too. The
metrics are exact: KL and reward of the last policy, its objective reward - 0.1 KL, and the standard
deviation over completions of each estimator's sum, in units of the KL. Beside them, the same in all
arms: the estimators' table for two normal distributions (KL 0.005 and 0.5) from 10^6 samples, and
by how much the gradient of k2 in the loss differs from that of k1 in the reward, on one batch, for
completions of one token (a bandit) and of four.

Came out, 5 seeds, all 15 claims reproduced (results/kl_placement/table.md); 95% intervals:

                KL                   objective            std / KL of k1, k2, k3
    none        7.48 [6.09, 8.86]    2.26 [1.89, 2.77]    0.17, 0.14, 5.2
    k1_loss     7.50 [6.15, 8.86]    2.26 [1.89, 2.77]    0.17, 0.14, 5.1
    k2_loss     6.37 [4.96, 7.64]    2.29 [1.93, 2.77]    0.28, 0.28, 3.7
    k1_reward   6.23 [5.27, 7.21]    2.29 [1.94, 2.77]    0.34, 0.34, 3.3
    exact_loss  6.20 [5.09, 7.24]    2.29 [1.95, 2.77]    0.34, 0.33, 3.1
    k3_loss     5.35 [4.26, 6.35]    2.20 [1.84, 2.69]    0.54, 0.34, 0.6

The KL of k1_loss less that of none is +0.024 [-0.009, 0.084]; the objective of k3_loss less that of
k1_reward -0.096 [-0.112, -0.084]. The intervals of the table are wide because tasks differ; these
are paired. The bandit's two gradients are equal to float32's rounding of the parameters; of four
tokens they differ by 0.109 of the gradient. In the policies that come out k3 has by far the largest
spread as a number, and the smallest where it was the loss. 8.5 minutes beside about ten other
programs on 2 cores. `full` has no exact_loss, and has been run as `--smoke` only.

    python experiments/sweep.py --config configs/ablations/kl_placement.py
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.algorithms.grpo import GRPOConfig
from rljax.experiment import GRPOExperiment
from rljax.kl import KLConfig, kl_estimate
from rljax.sweeps.enumerable import (
    EnumerableExperiment,
    first_gradient,
    make_sampler,
    make_world,
    train_table,
    world_of,
    write_run,
)
from rljax.sweeps.exact import final_numbers, log_probs_of
from rljax.sweeps.spec import Claim, Sweep, last
from rljax.training.flags import load_config

ESTIMATORS = ("k1", "k2", "k3")
BETA = 0.1
SHIFTS = {"small": 0.1, "large": 1.0}
"""Distance of two normal distributions of variance 1: KL 0.005 and 0.5."""


def in_loss(estimator: str) -> dict[str, Any]:
    """Charge an estimator as a term of the loss."""
    return {"kl_place": "loss", "kl": KLConfig(coef=BETA, estimator=estimator)}


LEARNER = GRPOConfig(
    batch_size=128,
    samples_per_prompt=4,
    advantage="leave_one_out",
    objective="reinforce",
    clip_eps=None,
    loss_aggregation="constant",
    **in_loss("k1"),
)
ON_SCORE = {"kl_place": "score", "kl": KLConfig(coef=BETA, estimator="k1")}
OFF = {"kl_place": "loss", "kl": KLConfig(coef=0.0, estimator="k1")}


def arm(changes: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return overrides of an arm."""
    return {f"grpo.{name}": value for name, value in changes.items()} | more


ARMS = {
    "none": arm(OFF),
    "k1_reward": arm(ON_SCORE),
    "k1_loss": arm(in_loss("k1")),
    "k2_loss": arm(in_loss("k2")),
    "k3_loss": arm(in_loss("k3")),
}


# ------------------------------------------------------------------------------------ Measuring


def spreads(table: jax.Array, config: EnumerableExperiment) -> dict[str, float]:
    """Compute std / KL of each estimator, summed over a completion of the policy, exactly."""
    world = world_of(config)
    policy, reference = (
        np.asarray(world.token_log_probs(x), np.float64) for x in (table, world.reference)
    )
    weights = np.exp(log_probs_of(world, table))
    kl = float(weights @ np.sum(policy - reference, axis=1))
    found = {}
    for name in ESTIMATORS:
        sums = np.sum(np.asarray(kl_estimate(policy, reference, name), np.float64), axis=1)
        mean = float(weights @ sums)
        found[f"estimators/{name}_std"] = float(np.sqrt(weights @ (sums - mean) ** 2)) / kl
    return found


def normal_table(seed: int) -> dict[str, float]:
    """Estimate KL(N(0, 1) || N(shift, 1)) from samples: std / KL, and bias / KL."""
    x = np.random.default_rng(seed).normal(size=1_000_000)
    found = {}
    for size, shift in SHIFTS.items():
        kl = 0.5 * shift**2
        difference = 0.5 * ((x - shift) ** 2 - x**2)  # log q - log p
        for name in ESTIMATORS:
            made = np.asarray(kl_estimate(difference, np.zeros_like(x), name), np.float64)
            found[f"normal/{name}_std_{size}"] = float(np.std(made)) / kl
            found[f"normal/{name}_bias_{size}"] = float(np.mean(made)) / kl - 1
    return found


@functools.lru_cache(maxsize=2)
def gradient_gap(length: int) -> float:
    """Compare k2 in the loss with k1 in the reward on one batch: |difference| / |gradient|.

    The policy is the reference of another task, so that the KL is not 0; nothing is subtracted from
    the scores, so that both losses are sums over the same tokens.
    """
    world = make_world(8, length, 0, 1.0)
    policy = {"table": make_world(8, length, 1, 1.0).reference}
    sampling = EnumerableExperiment(length=length).sampling
    plain = dataclasses.replace(LEARNER, advantage="none", batch_size=512)
    rollout, scores = jax.jit(make_sampler(world, plain, sampling))(
        {"policy": policy}, jax.random.key(0)
    )
    tables = []
    for changes in (ON_SCORE, in_loss("k2")):
        config = dataclasses.replace(plain, **changes)
        gradient = functools.partial(first_gradient, world, config, sampling)
        # it runs once: XLA's time to optimise it would be all of its time
        once = jax.jit(gradient, compiler_options={"xla_backend_optimization_level": 0})
        tables.append(once(policy["table"], rollout, scores, jax.random.key(0))[0])
    return float(jnp.linalg.norm(tables[0] - tables[1]) / jnp.linalg.norm(tables[0]))


def measure(config: EnumerableExperiment, run_dir: Path) -> None:
    """Train, and write what the module's docstring lists."""
    table, metrics = train_table(config)
    world = world_of(config)
    numbers = final_numbers(world, log_probs_of(world, table), config.beta)
    numbers |= spreads(table, config) | normal_table(config.seed)
    numbers |= {
        "gradients/bandit": gradient_gap(1),
        "gradients/sequence": gradient_gap(config.length),
    }
    write_run(config, run_dir, metrics, numbers)


# --------------------------------------------------------------------------------------- Sizes


NORMAL = {
    "small": {"k1": (20.0, 0.0), "k2": (1.42, 0.0025), "k3": (1.42, 0.0)},
    "large": {"k1": (2.0, 0.0), "k2": (1.73, 0.25), "k3": (1.70, 0.0)},
}
"""Schulman's table: standard deviation and bias in units of the KL."""


def normal_claims() -> tuple[Claim, ...]:
    """Expect the published table, within 3% of a deviation and 0.1 of a bias."""
    made = []
    for size, rows in NORMAL.items():
        for name, (std, bias) in rows.items():
            text = f"{name} at the {size} KL"
            made.append(
                Claim(f"{text}: std", f"normal {name} std {size}", "none", "within", std,
                      margin=0.03 * std)
            )  # fmt: skip
            made.append(
                Claim(f"{text}: bias", f"normal {name} bias {size}", "none", "within", bias,
                      margin=0.1)
            )  # fmt: skip
    return tuple(made)


cpu = Sweep(
    name="kl_placement",
    base=EnumerableExperiment(method="grpo", grpo=LEARNER, beta=BETA, steps=400, log_every=10),
    arms={**ARMS, "exact_loss": arm(OFF, exact_kl_coef=BETA)},
    seeds=(0, 1, 2, 3, 4),
    metrics={
        "KL": last("exact/kl"),
        "reward": last("exact/reward"),
        "objective": last("exact/objective"),
        "closed": last("exact/closed"),
        **{f"{name} std": last(f"estimators/{name}_std") for name in ESTIMATORS},
        "bandit gradients": last("gradients/bandit"),
        "sequence gradients": last("gradients/sequence"),
        **{
            f"normal {name} {kind} {size}": last(f"normal/{name}_{kind}_{size}")
            for size in SHIFTS
            for name in ESTIMATORS
            for kind in ("std", "bias")
        },
    },
    claims=(
        Claim("k1 in the loss: the KL of no penalty", "KL", "k1_loss", "equal", "none"),
        Claim(
            "one token: k2 in the loss has the gradient of k1 in the reward",
            "bandit gradients", "none", "<", 1e-5,
        ),
        Claim(
            "k3 in the loss departs: it ends below k1 in the reward",
            "objective", "k3_loss", "<", "k1_reward",
        ),
        *normal_claims(),
    ),
    program=measure,
    smoke={"steps": 10, "vocabulary": 3, "length": 2, "grpo.batch_size": 16},
)  # fmt: skip

full = Sweep(
    name="kl_placement",
    base=dataclasses.replace(
        load_config("configs/grpo_arithmetic.py", GRPOExperiment),
        grpo=dataclasses.replace(
            LEARNER, batch_size=256, samples_per_prompt=8, gradient_accumulation=8
        ),
        steps=200,
    ),
    arms={name: {"model.source": "Qwen/Qwen2.5-0.5B", **changes} for name, changes in ARMS.items()},
    seeds=(0, 1, 2),
    metrics={"KL": last("eval/kl"), "score": last("eval/scores")},
    claims=(cpu.claims[0],),
    smoke={
        "model.source": "random:tiny-llama", "grpo.batch_size": 8, "grpo.samples_per_prompt": 4,
        "grpo.gradient_accumulation": 1, "steps": 2, "eval_prompts": 8,
    },
)  # fmt: skip
