"""Train many runs at once: seeds and numbers of the config are axes of one compiled program.

    rates = {"optimizer.learning_rate": [1e-4, 3e-4]}
    runs = run_fused(config, make_update, "none", seeds=range(8), numbers=rates)
    runs.metrics["objective/scores"]  # [16, steps]

R runs, S steps.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, PartitionSpec

from rljax import compiler
from rljax.algorithms.metrics import split_tokens
from rljax.errors import UserError
from rljax.experiment import OnPolicyExperiment
from rljax.masking import masked_mean
from rljax.rewards.combined import require_token_rewards
from rljax.traced import set_numbers, set_traced
from rljax.training.flags import validate
from rljax.training.fused import (
    Metrics,
    Order,
    Table,
    batch_order,
    loop_steps,
    make_table,
    train_step,
)
from rljax.training.setup import OnPolicy
from rljax.types import TrainState

COMMON = (
    "clip_eps", "clip_eps_high", "entropy_coef", "target_entropy", "entropy_rate", "kl.coef",
    "kl.target", "kl.horizon",
)  # fmt: skip
NUMBERS = (
    "optimizer.learning_rate",
    "optimizer.critic_learning_rate",
    "sampling.temperature",
    "exploration.temperature_start",
    "exploration.top_p_start",
    "exploration.epsilon",
    *(f"grpo.{name}" for name in COMMON),
    *(f"ppo.{name}" for name in COMMON),
    *(f"ppo.{name}" for name in ("value_clip_eps", "value_coef", "gamma", "gae_lambda")),
)
"""What may differ between the runs of one program: numbers that only arithmetic reads."""


@dataclasses.dataclass(frozen=True)
class Runs:
    """What came of R runs."""

    settings: tuple[dict[str, float], ...]
    """Of each run: "seed", and its own numbers by name."""
    metrics: dict[str, np.ndarray]
    """[R, S] each, under the names of metrics.jsonl."""
    states: TrainState
    """The states at the end; every array leads with R."""

    def state(self, run: int) -> TrainState:
        """Return the last state of one run."""
        return jax.tree.map(lambda x: x[run], self.states)


def list_settings(
    config: OnPolicyExperiment, seeds: Sequence[int], numbers: Mapping[str, Sequence[float]]
) -> tuple[dict[str, float], ...]:
    """List every seed with every combination of numbers, seeds first; check each of them.

    Raises UserError for a field that cannot differ within a program, and for a config that cannot
    work, as the scripts do.
    """
    if not seeds:
        raise UserError("run_fused needs at least one seed")
    for name, values in numbers.items():
        known = [field for field in NUMBERS if hasattr(config, field.partition(".")[0])]
        if name not in known or not values:
            raise UserError(
                f"{name} cannot differ between the runs of one program, or has no values; these "
                f"can: {', '.join(known)}. Start one program for each value of another field"
            )
    settings = []
    for *chosen, seed in itertools.product(*numbers.values(), seeds):
        setting = dict(zip(numbers, chosen, strict=True))
        try:
            made = set_numbers(config, setting | {"seed": seed})
        except ValueError as error:
            raise UserError(f"{setting}: {error}") from error
        validate(made)
        settings.append({"seed": seed} | setting)
    return tuple(settings)


def make_program(setup: OnPolicy, steps: int) -> Callable[..., tuple[TrainState, Metrics]]:
    """Build run(params, table, setting {name: number}, order [S]) -> state, metrics [S].

    One whole run as a pure function of arrays; numbers and seed may be traced.
    """

    def run(
        params: Any, table: Table, setting: dict[str, jax.Array], order: Order
    ) -> tuple[TrainState, Metrics]:
        own = setup.with_numbers(set_traced(setup.config, setting), params)

        def step(state: TrainState, *arguments: jax.Array) -> tuple[TrainState, Metrics]:
            state, told, batch = train_step(own, table, state, *arguments)
            metrics, _ = split_tokens(told)
            rewards = {
                f"rewards/{name}": masked_mean(scores, jnp.isfinite(scores))
                for name, scores in batch.components.items()
            }
            rate = own.learning_rate(arguments[0]) * own.config.optimizer.learning_rate
            explored = own.exploration_metrics(arguments[0]) | {"optim/learning_rate": rate}
            return state, metrics | rewards | explored

        return loop_steps(step, own.first_state(), jnp.int32(0), jnp.int32(steps), order)

    return run


def runs_mesh(devices: int) -> Mesh:
    """Make the mesh over which runs are shared out."""
    return jax.make_mesh((devices,), ("runs",), axis_types=(AxisType.Auto,))


def over_devices(
    function: Callable[..., Any], devices: int, shared_out: Sequence[bool]
) -> Callable[..., Any]:
    """Give each device its share of the rows of a function that has some for every run.

    shared_out: of each argument whether its leading axis is that of the runs, as the result's is.
    """
    if devices == 1:
        return function
    whole, split = PartitionSpec(), PartitionSpec("runs")
    specs = tuple(split if rows else whole for rows in shared_out)
    return jax.shard_map(
        function, mesh=runs_mesh(devices), in_specs=specs, out_specs=split, check_vma=False
    )


def map_runs(
    run: Callable[..., Any], over: Literal["vmap", "map"], devices: int
) -> Callable[..., Any]:
    """Map run(params, table, setting, order) over a leading axis R of setting and order.

    vmap: all at once, as one batch; map: one after the other, within one program. With several
    devices each takes R / devices of the runs, and none waits for another's.
    """

    def many(params: Any, table: Table, settings: Any, orders: Order) -> Any:
        if over == "vmap":
            return jax.vmap(run, in_axes=(None, None, 0, 0))(params, table, settings, orders)
        return jax.lax.map(lambda one: run(params, table, *one), (settings, orders))

    return over_devices(many, devices, (False, False, True, True))


def run_fused(
    config: OnPolicyExperiment,
    make_update: Callable[..., Any],
    critic: Literal["shared", "separate", "none"],
    *,
    seeds: Sequence[int] = (0,),
    numbers: Mapping[str, Sequence[float]] | None = None,
    over: Literal["vmap", "map"] = "vmap",
) -> Runs:
    """Train a config with every seed and every combination of numbers, in one compiled program.

    Each run has the numbers of the script with that seed and those flags; nothing is written.
    Needs token rewards. On D devices that divide the runs each device takes its share.

    Args:
      config: the experiment; its seed, workdir, evaluations and checkpoints are not read.
      make_update, critic: as `OnPolicy`'s.
      seeds: of data order, sampling and minibatches.
      numbers: {name: values}, names out of `NUMBERS`.
      over: how the runs of one device go, see `map_runs`.

    Raises UserError for what cannot be fused, or cannot work, before anything is compiled.
    """
    numbers = dict(numbers or {})
    settings = list_settings(config, list(seeds), numbers)
    require_token_rewards(config.task.rewards)
    setup = OnPolicy(dataclasses.replace(config, eval_prompts=0), make_update, critic)
    algorithm, task = setup.algorithm, setup.task
    if algorithm.further_batches:
        raise UserError("runs of one program need batches of one sampling: no dynamic_sampling")
    if over == "vmap" and algorithm.length_buckets > 1:
        raise UserError(
            f"length_buckets is {algorithm.length_buckets}: runs that go together (over='vmap') "
            "would compute every width; set it to 1, or take over='map'"
        )
    table = make_table(
        task.train, pad_id=setup.pretrained.pad_token_id, multiple=config.prompt_multiple
    )
    orders = {
        seed: batch_order(
            0,
            config.steps,
            size=len(task.train),
            batch_size=algorithm.batch_size,
            group=algorithm.samples_per_prompt,
            seed=seed,
        )
        for seed in seeds
    }
    order = jax.tree.map(lambda *x: np.stack(x), *(orders[int(s["seed"])] for s in settings))
    arrays = {
        name: np.asarray([s[name] for s in settings], np.int32 if name == "seed" else np.float32)
        for name in settings[0]
    }
    devices = jax.device_count() if len(settings) % jax.device_count() == 0 else 1
    run = map_runs(make_program(setup, config.steps), over, devices)
    states, metrics = compiler.jit(run)(setup.pretrained.params, table, arrays, order)
    return Runs(settings, jax.device_get(metrics), states)
