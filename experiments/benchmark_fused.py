"""Measure fused training here: a step of the loop and of the fused program, and many seeds at once.

    python experiments/benchmark_fused.py
    python experiments/benchmark_fused.py --batch 256 --new 8 --json numbers.json
    python experiments/benchmark_fused.py --batch 16 --devices 2

GRPO on sums with a token reward, on a model of random weights, whose completions seldom end early.
The rows are measured in turn, round after round, so that a busy machine slows all of them:

loop       the functions of the unfused loop, called step by step, with the text reward on the host
fused      the same steps as one program
one by one all seeds, each by a call of the fused program of a whole run
vmap, map  all seeds in one program, as one batch or one after the other; over `--devices`

Writing metrics and checkpoints is in none of them. Times are medians after a warm-up round.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from rljax.algorithms.checks import require_positive
from rljax.algorithms.grpo import GRPOConfig, make_update
from rljax.experiment import GRPOExperiment, ModelConfig
from rljax.kl import KLConfig
from rljax.reporting.files import write_json
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.keys import Role, role_key
from rljax.tasks import TaskConfig
from rljax.training.batches import collect
from rljax.training.compilation import enable_compilation_cache
from rljax.training.flags import plain_errors, validate
from rljax.training.fused import batch_order, make_table
from rljax.training.fused_runs import make_program, map_runs
from rljax.training.mesh import MeshConfig, open_mesh
from rljax.training.setup import OnPolicy
from rljax.types import TrainState


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Measure fused training."""

    model: str = "random:tiny-llama"
    """The policy, as in the other scripts; with a byte tokenizer."""
    batch: int = 64
    """Completions a step, 8 of each prompt."""
    new: int = 4
    """Completion tokens."""
    steps: int = 5
    """Training steps of a run."""
    seeds: int = 8
    """Runs."""
    devices: int = 1
    """Devices that vmap and map share the seeds out to; a CPU is split into so many."""
    repeats: int = 5
    """Timed rounds."""
    cache: bool = True
    """Load programs that were compiled before."""
    json: str | None = None
    """Also write the numbers to this file."""

    def validate(self) -> None:
        """Raise ValueError for sizes that mean nothing."""
        require_positive(self, ("batch", "new", "steps", "seeds", "devices", "repeats"))
        if self.batch % 16:
            raise ValueError(f"batch is {self.batch}; it must be a multiple of 16")
        if self.seeds % self.devices:
            raise ValueError(f"devices {self.devices} does not divide seeds {self.seeds}")

    def experiment(self, reward: str) -> GRPOExperiment:
        """Make the experiment that is measured."""
        return GRPOExperiment(
            model=ModelConfig(source=self.model),
            task=TaskConfig(prompts="arithmetic:50", prompt_tokens=None, reward=reward),
            sampling=SamplingConfig(max_new_tokens=self.new, temperature=1.0),
            grpo=GRPOConfig(
                batch_size=self.batch,
                samples_per_prompt=8,
                num_minibatches=2,
                kl=KLConfig(coef=0.0),
            ),
            steps=self.steps,
            eval_prompts=0,
            prompt_multiple=8,
        )


def run_loop(setup: OnPolicy, start: TrainState) -> None:
    """Train for all steps as the unfused loop does, without writing anything."""
    state = jax.tree.map(jnp.copy, start)  # the update takes its buffers
    for step in range(setup.config.steps):
        batch = collect(setup, state, step)
        key = role_key(setup.config.seed, Role.SHUFFLING, step)
        state, metrics = setup.programs.update(state, batch.rollout, jnp.asarray(batch.scores), key)
        jax.device_get(metrics)


class Runs:
    """Programs of one run and of many, and their arguments."""

    def __init__(self, flags: Benchmark) -> None:
        self.flags = flags
        self.setup = setup = OnPolicy(flags.experiment("exact_match_tokens"), make_update, "none")
        train = setup.task.train
        table = make_table(train, pad_id=setup.pretrained.pad_token_id, multiple=8)
        orders = [
            batch_order(0, flags.steps, size=len(train), batch_size=flags.batch, group=8, seed=seed)
            for seed in range(flags.seeds)
        ]
        self.fixed = (setup.pretrained.params, table)
        self.many = (
            {"seed": np.arange(flags.seeds, dtype=np.int32)},
            jax.tree.map(lambda *x: np.stack(x), *orders),
        )

    def build(self, over: Any = None) -> tuple[Any, float]:
        """Compile the program of one run, or of all of them: it, and the seconds."""
        run = make_program(self.setup, self.flags.steps)
        arguments = self.one(0) if over is None else self.many
        mapped = run if over is None else map_runs(run, over, self.flags.devices)
        started = time.perf_counter()
        program = jax.jit(mapped).lower(*self.fixed, *arguments).compile()
        return program, time.perf_counter() - started

    def one(self, seed: int) -> Any:
        """Return the arguments of one run."""
        return jax.tree.map(lambda x: x[seed], self.many)


def measure(flags: Benchmark) -> dict[str, Any]:
    """Time every row, in turn."""
    runs = Runs(flags)
    loop = OnPolicy(flags.experiment("exact_match"), make_update, "none")
    start = loop.first_state()
    single, single_s = runs.build()
    calls: dict[str, Callable[[], Any]] = {
        "loop": lambda: run_loop(loop, start),
        "fused": lambda: single(*runs.fixed, *runs.one(0)),
        "one by one": lambda: [
            jax.block_until_ready(single(*runs.fixed, *runs.one(seed)))
            for seed in range(flags.seeds)
        ],
    }
    compiled = {"fused": single_s, "one by one": single_s}
    for over in ("vmap", "map"):
        program, compiled[over] = runs.build(over)
        calls[over] = lambda program=program: program(*runs.fixed, *runs.many)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(flags.repeats + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append(time.perf_counter() - started)
    compiled["loop"] = times["loop"][0]
    medians = {name: statistics.median(seconds[1:]) for name, seconds in times.items()}
    return {
        "flags": dataclasses.asdict(flags),
        "device": jax.devices()[0].device_kind,
        "devices": flags.devices,
        "cpus": os.cpu_count(),
        "jax": jax.__version__,
        "results": {
            name: {
                "compile_s": compiled[name],
                "median_s": medians[name],
                "min_s": min(times[name][1:]),
                "max_s": max(times[name][1:]),
                "runs": 1 if name in ("loop", "fused") else flags.seeds,
                "ratio": medians[name]
                / medians["loop" if name in ("loop", "fused") else "one by one"],
            }
            for name in calls
        },
    }


def print_table(numbers: dict[str, Any]) -> None:
    """Print a line for each row, and what it is compared with."""
    flags = numbers["flags"]
    print(
        f"{flags['model']}, {flags['batch']} completions of {flags['new']} tokens, "
        f"{flags['steps']} steps, {flags['seeds']} seeds; {numbers['devices']} x "
        f"{numbers['device']}, {numbers['cpus']} CPUs, jax {numbers['jax']}"
    )
    print(
        f"{'row':<12}{'compile s':>10}{'median s':>10}{'min-max s':>16}{'step ms':>9}{'ratio':>8}"
    )
    for name, row in numbers["results"].items():
        spread = f"{row['min_s']:.3f}-{row['max_s']:.3f}"
        step = 1000 * row["median_s"] / flags["steps"] / row["runs"]
        print(
            f"{name:<12}{row['compile_s']:>10.1f}{row['median_s']:>10.3f}{spread:>16}{step:>9.2f}"
            f"{row['ratio']:>8.2f}"
        )
    print("compile: of the loop its first run; ratio: fused to loop, vmap and map to one by one")


def main(argv: list[str] | None = None) -> None:
    flags = tyro.cli(Benchmark, args=argv, description=__doc__)
    with plain_errors():
        validate(flags)
        if flags.cache:
            enable_compilation_cache()
        open_mesh(MeshConfig(data=flags.devices))
        numbers = measure(flags)
        print_table(numbers)
        if flags.json is not None:
            write_json(Path(flags.json), numbers)


if __name__ == "__main__":
    main()
