"""Several runs of one compiled program, each with its own run directory.

Every run goes through `rljax.training.on_policy.train` in a thread of its own, as if it were alone:
it evaluates, writes, saves and resumes. Only what it would ask the device for it asks of the group,
which waits until all runs ask, and answers those that are least far in one program, `vmap`ped over
the runs and shared out over the devices. One thread works at a time.

A run that is over, or ahead of the others, leaves its row of the program to another's numbers: a
row's numbers do not depend on the other rows, so that runs that were killed at different steps end
as they would have together.

R rows.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from rljax import compiler
from rljax.experiment import OnPolicyExperiment
from rljax.traced import set_traced
from rljax.training.fused import Fused, Order, Record, Table
from rljax.training.fused_runs import over_devices, runs_mesh
from rljax.training.setup import OnPolicy
from rljax.types import Completions, Prompts, TrainState


class _Request(NamedTuple):
    """What a run asks of the group."""

    name: str
    arrays: tuple[Any, ...]
    """Its own: a row of the program's arguments."""
    common: tuple[int, ...]
    """What has to be the same in all rows."""
    reached: int
    """Steps that the run has done."""


class Group:
    """The device's side of runs that differ in seeds and numbers only.

    Args:
      shared: the setup of one of them.
      settings: for each run its "seed" and the numbers in which they differ, by dotted path, out of
        `rljax.training.fused_runs.NUMBERS`.
    """

    def __init__(self, shared: OnPolicy, settings: Sequence[Mapping[str, float]]) -> None:
        self.shared, self.table = shared, Fused.make_table(shared)
        self.devices = jax.device_count() if len(settings) > 1 else 1
        self.rows = -(-len(settings) // self.devices) * self.devices
        filled = [*settings, *[settings[0]] * (self.rows - len(settings))]
        self._numbers = {
            name: np.asarray([s[name] for s in filled], np.int32 if name == "seed" else np.float32)
            for name in settings[0]
        }
        self.lock = threading.Condition()
        """Held by the run that works."""
        self._live: set[int] = set()
        self._waiting: dict[int, _Request] = {}
        self._answers: dict[int, Any] = {}
        self._programs: dict[str, Any] = {}

    def enter(self, rows: Sequence[int]) -> None:
        """Say which rows have a run. Call it before any of them begins."""
        self._live = set(rows)

    def leave(self, row: int) -> None:
        """A run is over; the others no longer wait for it. Call it with the lock held."""
        self._live.discard(row)
        self.lock.notify_all()

    def ask(
        self, row: int, name: str, arrays: tuple[Any, ...], common: tuple[int, ...], reached: int
    ) -> Any:
        """Return what a program makes of a run's arrays; with the lock held, which others get.

        Raises what the program raised.
        """
        self._waiting[row] = _Request(name, arrays, common, reached)
        while row not in self._answers:
            if self._waiting.keys() == self._live:
                self._answer()
                self.lock.notify_all()
            else:
                self.lock.wait()
        answer = self._answers.pop(row)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _answer(self) -> None:
        """Run the program that the runs ask for that are least far."""
        row = min(self._waiting, key=lambda row: (self._waiting[row].reached, row))
        first = self._waiting[row]
        alike = (first.name, first.common, first.reached)
        asked = {
            row: request
            for row, request in self._waiting.items()
            if (request.name, request.common, request.reached) == alike
        }
        for row in asked:
            del self._waiting[row]
        rows = [asked.get(row, first).arrays for row in range(self.rows)]
        try:
            stacked = jax.tree.map(lambda *x: jnp.stack(x), *rows)
            fixed = (self.shared.pretrained.params, self.table)
            spread = self._place(fixed, self._numbers, stacked)
            found = self._program(first.name)(*spread, *first.common)
            self._answers |= {row: self._row(found, row) for row in asked}
        except Exception as error:  # each of the runs raises it, where it asked
            self._answers |= dict.fromkeys(asked, error)

    def _place(self, fixed: Any, numbers: Any, arrays: Any) -> tuple[Any, Any, Any]:
        """Put a program's arguments where it wants them: the rows shared out over the devices."""
        if self.devices == 1:
            return fixed, numbers, arrays
        mesh = runs_mesh(self.devices)
        whole = NamedSharding(mesh, PartitionSpec())
        split = NamedSharding(mesh, PartitionSpec("runs"))
        return jax.device_put(fixed, whole), *jax.device_put((numbers, arrays), split)

    def _row(self, tree: Any, row: int) -> Any:
        """Take one run's share of a result."""
        one = jax.tree.map(lambda x: x[row], tree)
        return one if self.devices == 1 else jax.device_put(one, jax.devices()[0])

    def _program(self, name: str) -> Any:
        if name not in self._programs:
            self._programs[name] = compiler.jit(self._spread(_PROGRAMS[name]))
        return self._programs[name]

    def _spread(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Map function(setup, table, *arrays, *common) over the rows of numbers and arrays."""
        shared = self.shared

        def one(fixed: Any, numbers: dict[str, Any], arrays: Any, *common: Any) -> Any:
            params, table = fixed
            own = shared.with_numbers(set_traced(shared.config, numbers), params)
            return function(own, table, *arrays, *common)

        def many(fixed: Any, numbers: dict[str, Any], arrays: Any, *common: Any) -> Any:
            axes = (None, 0, 0, *(None,) * len(common))
            return jax.vmap(one, in_axes=axes)(fixed, numbers, arrays, *common)

        def spread(*arguments: Any) -> Any:
            rows = (False, True, True, *(False,) * (len(arguments) - 3))
            return over_devices(many, self.devices, rows)(*arguments)

        return spread


def _first_state(setup: OnPolicy, table: Table) -> TrainState:
    return setup.first_state()


def _advance(
    setup: OnPolicy, table: Table, state: TrainState, order: Order, first: Any, count: Any
) -> tuple[TrainState, Record]:
    return Fused.steps(setup, table, state, first, count, order)


def _act_exactly(
    setup: OnPolicy, table: Table, state: TrainState, prompts: Prompts, key: jax.Array
) -> Completions:
    return setup.act_exactly(state, prompts, key)


def _refer_exactly(
    setup: OnPolicy, table: Table, state: TrainState, prompts: Prompts, made: Completions
) -> jax.Array:
    return setup.refer_exactly(state, prompts, made)


_PROGRAMS: dict[str, Callable[..., Any]] = {
    "first_state": _first_state,
    "advance": _advance,
    "act_exactly": _act_exactly,
    "refer_exactly": _refer_exactly,
}


class Member(OnPolicy):
    """The setup of one run of a group: what it asks of the device, the group answers.

    Args:
      group: the group.
      row: which run it is.
      config: its config.
      fused_steps: most steps of one program.
    """

    def __init__(
        self, group: Group, row: int, config: OnPolicyExperiment, fused_steps: int
    ) -> None:
        group.shared.peak  # noqa: B018 - measured once for all
        self.__dict__.update(group.shared.__dict__)
        self.config = dataclasses.replace(config, fused_steps=fused_steps)
        self.algorithm = self.config.algorithm
        self._group, self._row, self._reached = group, row, 0
        self.fused = MemberSteps(self, group.table)

    def _ask(self, name: str, arrays: tuple[Any, ...], common: tuple[int, ...] = ()) -> Any:
        return self._group.ask(self._row, name, arrays, common, self._reached)

    def first_state(self) -> TrainState:
        """Make the state of step 0."""
        state: TrainState = self._ask("first_state", ())
        return state

    def advance(
        self, table: Table, state: TrainState, first: int, count: int, order: Order
    ) -> tuple[TrainState, Record]:
        """Train for some steps, as `Fused` does."""
        self._reached = first
        found: tuple[TrainState, Record] = self._ask("advance", (state, order), (first, count))
        self._reached = first + count
        return found

    def act_exactly(self, state: TrainState, prompts: Prompts, key: jax.Array) -> Completions:
        """Sample as `OnPolicy.act_exactly` does."""
        made: Completions = self._ask("act_exactly", (state, prompts, key))
        return made

    def refer_exactly(self, state: TrainState, prompts: Prompts, made: Completions) -> jax.Array:
        """Score as `OnPolicy.refer_exactly` does."""
        scored: jax.Array = self._ask("refer_exactly", (state, prompts, made))
        return scored


class MemberSteps(Fused):
    """The fused steps of one run of a group."""

    def __init__(self, member: Member, table: Table) -> None:
        self.table = table
        self.run = member.advance
