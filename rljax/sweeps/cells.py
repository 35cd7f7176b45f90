"""The directory of a sweep: where its runs are, and which of them are whole.

DIR/sweep.json              what is run, resolved
DIR/stages/NAME/            run directories of the stages
DIR/cells/ARM/seedN/        run directories, each with log.txt, what its script printed
DIR/.../done.json           in a run directory whose run is whole, written last
DIR/results.json, table.md, cost.json     see results.py
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from rljax.errors import UserError
from rljax.reporting.runs import RunRecord, read_run
from rljax.sweeps.overrides import has_field
from rljax.sweeps.spec import Cell, Sweep, place
from rljax.training.config_json import config_to_json, differences
from rljax.training.errors import ConfigMismatch
from rljax.training.manifest import write_text_atomically
from rljax.training.run import CONFIG_FILE, read_json

DONE_FILE, LOG_FILE, SWEEP_FILE = "done.json", "log.txt", "sweep.json"
_IGNORED = ("workdir",)


@dataclasses.dataclass(frozen=True)
class Task:
    """One run to make: a stage or a cell."""

    name: str
    """Of its directory below the sweep's: "stages/base", "cells/ARM/seed0"."""
    config: Any
    """With the sweep's directory in it."""
    trains: bool
    """Whether the script of the config runs it, and not the sweep's own program."""


class SweepRuns:
    """The runs of a sweep in a directory.

    Raises ConfigError for what cannot be run, before anything is.
    """

    def __init__(self, sweep: Sweep, directory: Path) -> None:
        self.sweep, self.directory = sweep, directory
        self.cells = {f"cells/{cell.name}": cell for cell in sweep.cells()}
        self.stages = {f"stages/{name}": config for name, config in sweep.stage_configs().items()}

    def task(self, name: str) -> Task:
        """Return a stage or a cell by its directory's name."""
        if name in self.stages:
            return self._task(name, self.stages[name], True)
        return self._task(name, self.cells[name].config, self.sweep.program is None)

    def _task(self, name: str, config: Any, trains: bool) -> Task:
        config = place(config, self.directory)
        if has_field(config, "workdir"):
            config = dataclasses.replace(config, workdir=str(self.path(name)))
        return Task(name, config, trains)

    def path(self, name: str) -> Path:
        """Return the run directory of a stage or a cell."""
        return self.directory / name

    def is_done(self, name: str) -> bool:
        """Say whether a run is whole."""
        return (self.path(name) / DONE_FILE).is_file()

    def missing(self, names: Any) -> list[str]:
        """Return those of some runs that are not whole."""
        return [name for name in names if not self.is_done(name)]

    def check(self) -> None:
        """Compare the runs that are there with what the sweep asks for.

        A run without results is cleared away. Raises ConfigMismatch, with the fields, for one of
        another config.
        """
        for name in (*self.stages, *self.cells):
            path = self.path(name)
            if not (path / CONFIG_FILE).is_file():
                continue
            rows = differences(read_json(path), self.task(name).config, _IGNORED)
            if not rows:
                continue
            if not _has_results(path):
                shutil.rmtree(path)
                continue
            table = "\n".join(f"  {field}: there {old}, now {new}" for field, old, new in rows)
            raise ConfigMismatch(
                f"{path} holds a run of another config:\n{table}\n"
                "Choose another --workdir, or remove that directory to run it anew"
            )

    def write_config(self, name: str) -> Path:
        """Write the config of a run that has none yet; return the file."""
        file = self.path(name) / CONFIG_FILE
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomically(file, to_text(config_to_json(self.task(name).config)))
        return file

    def mark_done(self, name: str, seconds: float, **more: Any) -> None:
        """Say that a run is whole, and how long its last process took."""
        content = {"seconds": round(seconds, 3), **more}
        write_text_atomically(self.path(name) / DONE_FILE, to_text(content))

    def seconds(self, name: str) -> float:
        """Return how long the last process of a whole run took."""
        return float(json.loads((self.path(name) / DONE_FILE).read_text())["seconds"])

    def write_description(self) -> None:
        """Write sweep.json."""
        self.directory.mkdir(parents=True, exist_ok=True)
        write_text_atomically(self.directory / SWEEP_FILE, to_text(describe(self.sweep)))

    def measure(self, name: str) -> dict[str, float]:
        """Read the sweep's metrics of a run. Raises UserError naming the run and the metric."""
        record = read_run(self.path(name))
        values = {}
        for metric, reader in self.sweep.metrics.items():
            try:
                values[metric] = float(reader(record))
            except UserError as error:
                raise UserError(f"metric {metric!r} of {self.path(name)}: {error}") from error
        return values

    def record(self, name: str) -> RunRecord:
        """Read what a run has written so far."""
        return read_run(self.path(name))


def _has_results(path: Path) -> bool:
    metrics = path / "metrics.jsonl"
    return metrics.is_file() and metrics.stat().st_size > 0


def to_text(content: Any) -> str:
    """Spell JSON as all files of a sweep have it."""
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def spell(value: Any) -> str:
    """Spell a reader, a program or a claim's function."""
    if dataclasses.is_dataclass(value):
        return repr(value)
    return getattr(value, "__qualname__", None) or str(value)


def describe(sweep: Sweep) -> dict[str, Any]:
    """Return a sweep as JSON holds it."""
    return {
        "name": sweep.name,
        "seeds": list(sweep.seeds),
        "arms": {
            arm: {
                "overrides": overrides(sweep, arm),
                "config": config_to_json(sweep.arm_config(arm)),
            }
            for arm in sweep.arms
        },
        "metrics": {name: spell(reader) for name, reader in sweep.metrics.items()},
        "claims": [describe_claim(claim) for claim in sweep.claims],
        "program": None if sweep.program is None else spell(sweep.program),
        "stages": {name: config_to_json(c) for name, c in sweep.stage_configs().items()},
    }


def overrides(sweep: Sweep, arm: str) -> dict[str, Any]:
    """Return what an arm changes, as JSON; of another base its type."""
    changes = dict(sweep.arms[arm])
    base = changes.pop("base", None)
    made = {path: config_to_json(value) for path, value in changes.items()}
    return made if base is None else {"base": type(base).__name__, **made}


def describe_claim(claim: Any) -> dict[str, Any]:
    """Return a claim as JSON holds it; a function by its name."""
    sides = {
        side: value if isinstance(value, str | int | float) else spell(value)
        for side, value in (("left", claim.left), ("right", claim.right))
    }
    return {
        "text": claim.text,
        "metric": claim.metric,
        "left": sides["left"],
        "relation": claim.relation,
        "right": sides["right"],
        "margin": claim.margin,
        "margin_se": claim.margin_se,
        "paired": claim.paired,
    }


def cell_of(sweep: Sweep, arm: str, seed: int) -> str:
    """Return the directory's name of a cell."""
    return f"cells/{Cell(arm, seed, None).name}"
