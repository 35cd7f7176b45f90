"""Put runs that differ in their seed only together, and name what the others differ in."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from rljax.errors import UserError
from rljax.reporting.runs import (
    CELLS,
    METRICS_FILE,
    RESULTS_FILE,
    RunRecord,
    SweepRecord,
    differing,
    flat_config,
    has_measured,
)

_LONGEST = 60


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one config and several seeds: one line of a plot, one row of a table."""

    label: str
    runs: tuple[RunRecord, ...]

    @property
    def seeds(self) -> list[int]:
        """The seeds of its runs, those that have one."""
        return [run.seed for run in self.runs if run.seed is not None]


def is_sweep(path: Path) -> bool:
    """Say whether a directory is a sweep's, or holds its results."""
    return (path / CELLS).is_dir() or (
        (path / RESULTS_FILE).is_file() and not (path / METRICS_FILE).is_file()
    )


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """List the run directories that are given, or that stand directly in what is given.

    Raises UserError for a place where there is neither.
    """
    found: list[Path] = []
    for path in paths:
        if (path / METRICS_FILE).is_file():
            inside = [path]
        elif path.is_dir():
            inside = sorted(run for run in path.iterdir() if has_measured(run))
        else:
            inside = []
        if not inside:
            there = "is not there" if not path.exists() else f"holds no run with a {METRICS_FILE}"
            raise UserError(
                f"{path} {there}: give directories of runs (their --workdir), a folder of them, or "
                "the directory of a sweep"
            )
        found += inside
    return list(dict.fromkeys(run.resolve() for run in found))


def group_runs(records: Sequence[RunRecord]) -> list[Group]:
    """Put runs whose configs differ in the seed only together, in the order of the runs.

    A run without a config stands alone. Runs of one config and one seed stand together too: they
    are repeats. A group is called by its one run, or by the fields in which it differs.
    """
    alike: dict[str, list[RunRecord]] = {}
    for record in records:
        flat = {name: value for name, value in flat_config(record).items() if name != "seed"}
        key = (
            json.dumps(flat, sort_keys=True, default=str)
            if record.config
            else str(record.directory)
        )
        alike.setdefault(key, []).append(record)
    groups = list(alike.values())
    fields = differing([flat_config(runs[0]) for runs in groups], ignore=["seed"])
    labels = [_label(runs, fields) for runs in groups]
    told_apart = [
        _place(runs[0]) if labels.count(label) > 1 else label
        for label, runs in zip(labels, groups, strict=True)
    ]
    return [Group(label, tuple(runs)) for label, runs in zip(told_apart, groups, strict=True)]


def _place(record: RunRecord) -> str:
    return f"{record.directory.parent.name}/{record.name}"


def _label(runs: Sequence[RunRecord], fields: Sequence[str]) -> str:
    if len(runs) == 1:
        return runs[0].name
    flat = flat_config(runs[0])
    label = ", ".join(f"{name.rpartition('.')[2]}={flat[name]}" for name in fields if name in flat)
    if 0 < len(label) <= _LONGEST:
        return label
    shared = os.path.commonprefix([run.name for run in runs])
    shared = re.sub(r"[-_.]*(seed|s)?[-_.]*\d*$", "", shared)
    return shared or f"{runs[0].name} and {len(runs) - 1} more"


def groups_of_sweep(sweep: SweepRecord) -> list[Group]:
    """Make a group of each arm."""
    return [Group(arm, runs) for arm, runs in sweep.arms.items()]
