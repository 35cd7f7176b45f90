"""Many updates of one rollout: what clipping the ratio does, and what happens without.

PPO's clip (Schulman et al. 2017), the dual clip (Ye et al. 2020, https://arxiv.org/abs/1912.09729),
the clip of whole sequences (GSPO, Zheng et al. 2025, https://arxiv.org/abs/2507.18071) and clipped
weights (CISPO, MiniMax 2025, https://arxiv.org/abs/2506.13585). On the first update of a rollout
all ratios are 1, and these are one and the same gradient; later ones they treat differently.

Arms: each of them and no clip at all, with 1, 4 and 16 updates a rollout (epochs of one minibatch),
100 rollouts of 128 completions in groups of 8, advantages by the group's mean, no KL penalty, one
learning rate. On tasks of 8^4 completions, all listed (rljax.sweeps.enumerable); a seed draws the
task too. Metrics: exact reward and KL of the last policy; share of tokens that the clip acts on;
the largest ratio (of GSPO a sequence's mean one) and the largest approximate KL of a step over all
steps; and of the first update of a rollout how far the gradient is from that of PPO's clip,
|difference| / |gradient|, and the loss.

Came out, 5 seeds, 10 of 14 claims reproduced (results/off_policy_ratios/table.md). The gradients of
the first update are equal, GSPO's to 9e-7 [4e-7, 1.4e-6], the others' to the last bit; CISPO's loss
is another, -0.11 for 2e-9. The last rewards are the same for all after one update a rollout, and
after 16 differ by 0.19 [0.09, 0.29]: CISPO 2.96, no clip 2.94, PPO's clip 2.84, GSPO 2.80. With 16
updates the largest ratio is 2.40 without a clip, 1.94 with PPO's and 1.35 with GSPO's. Undecided:
16 updates against CISPO (2.35; +0.05 [-0.17, 0.31]), which bounds a token's weight and never stops
its gradient; and 4 updates against PPO's, the dual clip and CISPO, where ratios stay below 1.2 and
clips hardly act (2 to 4 tokens of 100,000). No ratio reached 3: the dual clip is PPO's here. 17
minutes beside about eight other programs on 2 cores. `full` has been run as `--smoke` only.

    python experiments/sweep.py --config configs/ablations/off_policy_ratios.py
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.algorithms.grpo import GRPOConfig
from rljax.experiment import GRPOExperiment
from rljax.kl import KLConfig
from rljax.sweeps.enumerable import (
    EnumerableExperiment,
    first_gradient,
    make_sampler,
    make_world,
    train_table,
    with_task,
    world_of,
    write_run,
)
from rljax.sweeps.exact import final_numbers, log_probs_of
from rljax.sweeps.spec import Claim, Sweep, Table, last, maximum, mean_of_last
from rljax.training.flags import load_config
from rljax.training.optimizer import OptimizerConfig

UPDATES = (1, 4, 16)
RATIOS: dict[str, dict[str, Any]] = {
    "clip": {},
    "dual_clip": {"dual_clip": 3.0},
    "gspo": {"ratio": "sequence"},
    "cispo": {"objective": "cispo"},
    "no_clip": {"clip_eps": 1e6},
}
"""What differs from PPO's clip."""
LEARNER = GRPOConfig(
    batch_size=128,
    samples_per_prompt=8,
    advantage="group_mean",
    loss_aggregation="constant",
    kl=KLConfig(coef=0.0),
)


# ------------------------------------------------------------------------------------ Measuring


@functools.lru_cache(maxsize=8)
def _gradient(config: EnumerableExperiment) -> Any:
    """Compile (reference, rewards, key) -> the first update's gradient [S, V], and its loss."""
    tree = make_world(config.vocabulary, config.length, 0, 1.0)
    algorithm = dataclasses.replace(config.grpo, num_epochs=1)

    def run(reference: jax.Array, rewards: jax.Array, key: jax.Array) -> tuple[Any, jax.Array]:
        world = with_task(tree, reference, rewards)
        policy = {"policy": {"table": reference}}
        rollout, scores = make_sampler(world, algorithm, config.sampling)(policy, key)
        gradient, metrics = first_gradient(
            world, algorithm, config.sampling, reference, rollout, scores, key
        )
        return gradient, metrics["policy/loss"]

    # it runs a few times only: XLA's time to optimise it would be most of its time
    return jax.jit(run, compiler_options={"xla_backend_optimization_level": 0})


def first_update(config: EnumerableExperiment) -> dict[str, float]:
    """Compare the first gradient with that of PPO's clip: |difference| / |gradient|."""
    world, key = world_of(config), jax.random.key(config.seed)
    same = dataclasses.replace(config, seed=0, steps=config.log_every, optimizer=OptimizerConfig())
    found = []
    for learner in (LEARNER, config.grpo):
        sizes = {"batch_size": config.grpo.batch_size, "num_epochs": 1}
        own = dataclasses.replace(same, grpo=dataclasses.replace(learner, **sizes))
        found.append(_gradient(own)(world.reference, world.rewards, key))
    (right, _), (other, loss) = found
    gap = jnp.linalg.norm(other - right) / jnp.linalg.norm(right)
    return {"gradients/gap": float(gap), "gradients/loss": float(loss)}


def measure(config: EnumerableExperiment, run_dir: Path) -> None:
    """Train, and write what the module's docstring lists."""
    table, metrics = train_table(config)
    world = world_of(config)
    numbers = final_numbers(world, log_probs_of(world, table), config.beta)
    write_run(config, run_dir, metrics, numbers | first_update(config))


# --------------------------------------------------------------------------------------- Sizes


def arms() -> dict[str, dict[str, Any]]:
    """List the ratios, each with all numbers of updates."""
    return {
        f"{name}_{updates}": {
            "grpo.num_epochs": updates,
            **{f"grpo.{field}": value for field, value in changes.items()},
        }
        for name, changes in RATIOS.items()
        for updates in UPDATES
    }


def spread(updates: int) -> Callable[[Table], np.ndarray]:
    """Return a function of the table: each seed's largest reward less its smallest, over ratios."""

    def of(table: Table) -> np.ndarray:
        rewards = [table.of("reward", f"{name}_{updates}") for name in RATIOS]
        return np.ptp(rewards, axis=0)

    of.__qualname__ = f"spread of {updates} updates"
    return of


cpu = Sweep(
    name="off_policy_ratios",
    base=EnumerableExperiment(
        method="grpo",
        grpo=LEARNER,
        optimizer=OptimizerConfig(learning_rate=0.02, schedule="constant", max_grad_norm=None),
        steps=100,
        log_every=1,
    ),
    arms=arms(),
    seeds=(0, 1, 2, 3, 4),
    metrics={
        "reward": last("exact/reward"),
        "KL": last("exact/kl"),
        "clipped": mean_of_last("policy/clip_fraction", 1.0),
        "largest ratio": maximum("policy/ratio_max"),
        "largest step": maximum("policy/approx_kl"),
        "gradient gap": last("gradients/gap"),
        "first loss": last("gradients/loss"),
    },
    claims=(
        *(
            Claim(f"the first gradient of {name} is that of the clip", "gradient gap",
                  f"{name}_1", "<", 1e-5)
            for name in RATIOS
        ),
        Claim("the rewards differ more after 16 updates a rollout than after one", "reward",
              spread(16), ">", spread(1)),
        *(
            Claim(f"{updates} updates: without a clip the ratio grows larger than with {name}",
                  "largest ratio", f"no_clip_{updates}", ">", f"{name}_{updates}")
            for updates, name in itertools.product((4, 16), [*RATIOS][:-1])
        ),
    ),
    program=measure,
    smoke={"steps": 4, "vocabulary": 3, "length": 2, "grpo.batch_size": 16},
)  # fmt: skip

full = Sweep(
    name="off_policy_ratios",
    base=dataclasses.replace(
        load_config("configs/grpo_arithmetic.py", GRPOExperiment),
        grpo=dataclasses.replace(
            LEARNER, batch_size=256, gradient_accumulation=8, loss_aggregation="token"
        ),
        steps=200,
    ),
    arms={
        name: {"model.source": "Qwen/Qwen2.5-3B", **changes} for name, changes in arms().items()
    },
    seeds=(0, 1, 2),
    metrics={
        "score": last("eval/scores"),
        "KL": last("eval/kl"),
        "clipped": mean_of_last("policy/clip_fraction", 1.0),
        "largest ratio": maximum("policy/ratio_max"),
        "largest step": maximum("policy/approx_kl"),
    },
    claims=tuple(claim for claim in cpu.claims if claim.metric == "largest ratio"),
    smoke={
        "model.source": "random:tiny-llama", "grpo.batch_size": 8, "grpo.samples_per_prompt": 4,
        "grpo.gradient_accumulation": 1, "steps": 2, "eval_prompts": 8,
    },
)  # fmt: skip
