"""Runs of a sweep that one compiled program can make together, and how it makes them.

They differ in seeds and in numbers that only arithmetic reads (`fused_runs.NUMBERS`), and their
reward judges tokens. Which runs go together is a matter of the sweep, not of what is
missing of it, so that a sweep that was killed ends with the same numbers.
"""

from __future__ import annotations

import dataclasses
import json
import threading
import time
import traceback
from collections.abc import Sequence
from typing import Any

from rljax.algorithms import grpo, ppo
from rljax.errors import UserError
from rljax.experiment import CHANGEABLE, GRPOExperiment, OnPolicyExperiment, PPOExperiment
from rljax.rewards.combined import require_token_rewards
from rljax.rewards.protocol import RewardError
from rljax.sweeps.board import write_fields
from rljax.sweeps.cells import SweepRuns
from rljax.sweeps.worker import Stopped, complete, require_whole
from rljax.training.config_json import flatten_config
from rljax.training.fused_group import Group, Member
from rljax.training.fused_runs import NUMBERS
from rljax.training.mesh import MeshConfig
from rljax.training.on_policy import train
from rljax.training.run import open_run
from rljax.training.setup import OnPolicy

STEPS = 50
"""Most steps of one program, where the config has no fused_steps."""


def groups(runs: SweepRuns, most: int) -> list[tuple[str, ...]]:
    """Put the cells together that one program can make, at most so many, in the sweep's order.

    most: 0 or 1 puts none together. A run that goes with no other is alone.
    """
    found: dict[str, list[str]] = {}
    for name, cell in runs.cells.items():
        alike = runs.sweep.program is None and most > 1 and can_fuse(cell.config)
        found.setdefault(_rest(cell.config) if alike else name, []).append(name)
    made = []
    for names in found.values():
        made += [tuple(names[i : i + max(most, 1)]) for i in range(0, len(names), max(most, 1))]
    return made


def can_fuse(config: Any) -> bool:
    """Say whether a run can be one row of a program over many runs."""
    if type(config) not in (GRPOExperiment, PPOExperiment):
        return False
    algorithm = config.algorithm
    fits = (
        config.environment.name is None
        and not config.overlap
        and config.mesh == MeshConfig()
        and not algorithm.further_batches
        and algorithm.length_buckets == 1
    )
    if not fits:
        return False
    try:
        require_token_rewards(config.task.rewards)
    except RewardError:  # it judges texts, or what is wrong with it is said when it is loaded
        return False
    return True


def _numbers(config: OnPolicyExperiment) -> dict[str, float]:
    """Return the numbers of a config that may differ within a program, those that are set."""
    flat = flatten_config(config)
    return {
        name: flat[name]
        for name in NUMBERS
        if isinstance(flat.get(name), int | float) and not isinstance(flat[name], bool)
    }


def _rest(config: OnPolicyExperiment) -> str:
    """Spell all of a config that has to be the same within a program."""
    numbers = _numbers(config)
    flat = flatten_config(config)
    kept = {k: v for k, v in flat.items() if k not in numbers and k not in ("seed", "workdir")}
    return json.dumps([type(config).__name__, sorted(numbers), kept], sort_keys=True)


def settings(configs: Sequence[OnPolicyExperiment]) -> list[dict[str, float]]:
    """Return of each config its seed, and the numbers in which the configs differ."""
    listed = [_numbers(config) for config in configs]
    differ = [name for name in listed[0] if len({numbers[name] for numbers in listed}) > 1]
    return [
        {"seed": config.seed, **{name: numbers[name] for name in differ}}
        for config, numbers in zip(configs, listed, strict=True)
    ]


def make_setup(config: OnPolicyExperiment) -> OnPolicy:
    """Load what the runs of a group share."""
    if isinstance(config, PPOExperiment):
        return OnPolicy(config, ppo.make_update, config.ppo.critic)
    return OnPolicy(config, grpo.make_update, "none")


class GroupRun:
    """Makes the missing runs of a group.

    Attributes:
      done: the seconds of each run that is whole now: its share of the group's.
      stopped, failed: why, of the others.
    """

    def __init__(self, runs: SweepRuns, names: Sequence[str]) -> None:
        self.runs, self.names = runs, names
        self.done: dict[str, float] = {}
        self.stopped: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self._started = time.monotonic()
        configs = [runs.task(name).config for name in names]
        self._missing = {row: n for row, n in enumerate(names) if not runs.is_done(n)}
        self._steps = configs[0].fused_steps or min(STEPS, configs[0].steps)
        for name in self._missing.values():
            runs.write_config(name)
            write_fields(runs, name)
        self._configs = configs
        self._group = Group(make_setup(_unfused(configs[0])), settings(configs))

    def make(self) -> None:
        """Make them."""
        group = self._group
        group.enter(list(self._missing))
        threads = [
            threading.Thread(target=self._make, args=(row, name), name=name)
            for row, name in self._missing.items()
        ]
        with group.lock:  # none begins before all are there
            for thread in threads:
                thread.start()
        for thread in threads:
            thread.join()

    def _make(self, row: int, name: str) -> None:
        group = self._group
        with group.lock:
            try:
                self._train(row, name)
            except Stopped as error:
                self.stopped[name] = str(error)
            except UserError as error:
                self.failed[name] = str(error)
            except Exception as error:  # the other runs go on; this one is said to have failed
                traceback.print_exc()
                self.failed[name] = f"{type(error).__name__}: {error}"
            finally:
                group.leave(row)

    def _train(self, row: int, name: str) -> None:
        config = self._configs[row]
        member = Member(self._group, row, config, self._steps)
        with open_run(config.workdir, config, ignore=CHANGEABLE) as run:
            train(member, run)
        require_whole(self.runs.task(name), run.directory)
        seconds = (time.monotonic() - self._started) / len(self._missing)
        complete(self.runs, name, seconds)
        self.done[name] = seconds


def _unfused(config: OnPolicyExperiment) -> OnPolicyExperiment:
    """Return a config whose own program is not built: the group has another."""
    return dataclasses.replace(config, fused_steps=0)
