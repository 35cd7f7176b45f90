"""Show how far a sweep is: one live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table as RichTable

from rljax.errors import UserError
from rljax.sweeps.cells import SweepRuns, cell_of
from rljax.training.progress import format_duration

_TAIL_BYTES = 1 << 16


def last_step(directory: Path) -> int:
    """Read the last step that a run has written, from the end of its metrics; 0 for none."""
    file = directory / "metrics.jsonl"
    try:
        with file.open("rb") as lines:
            lines.seek(max(os.fstat(lines.fileno()).st_size - _TAIL_BYTES, 0))
            tail = lines.read().split(b"\n")
    except FileNotFoundError:
        return 0
    for line in reversed(tail):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue  # half a line, or none
    return 0


class Board:
    """Shows every run of a sweep: waiting, how far, its first metric when it is whole, failed.

    On a terminal one table, arms by seeds; elsewhere a line when a run begins or ends, and one for
    the runs under way every `interval` seconds.
    """

    def __init__(
        self, runs: SweepRuns, jobs: int, console: Console | None = None, interval: float = 30.0
    ) -> None:
        self.runs, self.jobs, self.interval = runs, jobs, interval
        self._console = console or Console()
        self._live: Live | None = None
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(console=self._console, auto_refresh=False)
        self._running: dict[str, tuple[float, int]] = {}
        self._failed: dict[str, str] = {}
        self._seconds: list[float] = []
        self._values: dict[str, str] = {}
        self._last_line = time.monotonic()

    def __enter__(self) -> Board:
        if self._live is not None:
            self._live.start()
        self.refresh()
        return self

    def __exit__(self, *unused: object) -> None:
        self.refresh()
        if self._live is not None:
            self._live.stop()

    def begin(self, name: str) -> None:
        """A run begins, or goes on."""
        step = last_step(self.runs.path(name))
        self._running[name] = (time.monotonic(), step)
        self._say(f"{name}: {'goes on at step ' + str(step) if step else 'begins'}")

    def end(self, name: str, seconds: float) -> None:
        """A run is whole."""
        self._running.pop(name, None)
        if name in self.runs.cells:
            self._seconds.append(seconds)
            self._say(
                f"{name}: {self._value(name)}, {format_duration(seconds)}; "
                f"{self._count()} runs, {self.time_left() or 'no time'} left"
            )
        else:
            self._say(f"{name}: done, {format_duration(seconds)}")

    def fail(self, name: str, reason: str) -> None:
        """A run has failed, or was stopped."""
        self._running.pop(name, None)
        self._failed[name] = reason
        self._say(f"{name}: {reason}")

    def refresh(self) -> None:
        """Show what has changed."""
        if self._live is not None:
            self._live.update(self.table(), refresh=True)
        elif self._running and time.monotonic() - self._last_line > self.interval:
            shown = "; ".join(f"{name} {self._progress(name)}" for name in self._running)
            self._say(f"{shown}; {self._count()} runs, {self.time_left() or '?'} left")

    def table(self) -> RichTable:
        """Make the table of arms and seeds."""
        sweep = self.runs.sweep
        metric = next(iter(sweep.metrics))
        made = RichTable(title=f"{sweep.name}: {metric}", caption=self._caption())
        made.add_column("arm", no_wrap=True)
        for seed in sweep.seeds:
            made.add_column(f"seed {seed}", justify="right", no_wrap=True)
        for arm in sweep.arms:
            made.add_row(arm, *(self.cell(cell_of(sweep, arm, seed)) for seed in sweep.seeds))
        return made

    def cell(self, name: str) -> str:
        """Say how a run stands."""
        if name in self._running:
            return self._progress(name)
        if self.runs.is_done(name):
            return self._value(name)
        return "failed" if name in self._failed else "."

    def time_left(self) -> str:
        """Reckon the time that the missing runs take, by the mean of those that were made."""
        if not self._seconds:
            return ""
        mean = sum(self._seconds) / len(self._seconds)
        now = time.monotonic()
        under_way = sum(min(now - since, mean) for since, _ in self._running.values())
        missing = len(self.runs.missing(self.runs.cells))
        return format_duration(max(missing * mean - under_way, 0) / self.jobs)

    def _progress(self, name: str) -> str:
        since, first = self._running[name]
        step, now = last_step(self.runs.path(name)), time.monotonic()
        total = getattr(self.runs.task(name).config, "steps", None)
        if total is None:
            return f"{format_duration(now - since)} so far"
        text = f"{step}/{total}"
        if step > first:
            left = (now - since) / (step - first) * max(total - step, 0)
            text += f" {format_duration(left)}"
        return text

    def _value(self, name: str) -> str:
        """Spell the first metric of a whole run."""
        if name not in self._values:
            metric = next(iter(self.runs.sweep.metrics))
            try:
                self._values[name] = f"{metric} {self.runs.measure(name)[metric]:.4g}"
            except UserError as error:  # the results cannot be made: said now, raised at the end
                self._values[name] = f"no {metric}"
                self._say(str(error))
        text = self._values[name]
        return text.rpartition(" ")[2] if self._live is not None else text

    def _count(self) -> str:
        whole = len(self.runs.cells) - len(self.runs.missing(self.runs.cells))
        return f"{whole}/{len(self.runs.cells)}"

    def _caption(self) -> str:
        left = self.time_left()
        stages = [name for name in self._running if name in self.runs.stages]
        doing = f"{stages[0]} {self._progress(stages[0])}; " if stages else ""
        return f"{doing}{self._count()} runs" + (f", {left} left" if left else "")

    def _say(self, text: str) -> None:
        self._last_line = time.monotonic()
        if self._live is not None:
            if ": " in text and any(name in text for name in self._failed):
                self._live.console.print(text, markup=False, highlight=False)
            self.refresh()
            return
        print(text, file=self._console.file, flush=True)


def plan_lines(runs: SweepRuns) -> list[str]:
    """Say what a sweep would do: its stages, arms, seeds, and the runs that are missing."""
    sweep = runs.sweep
    lines = [f"sweep {sweep.name} in {runs.directory}"]
    for name in runs.stages:
        lines.append(f"  {name}: {'done' if runs.is_done(name) else 'to do'}")
    for arm in sweep.arms:
        missing = [s for s in sweep.seeds if not runs.is_done(cell_of(sweep, arm, s))]
        state = f"to do: seeds {', '.join(map(str, missing))}" if missing else "done"
        lines.append(f"  {arm}: {state}; {_changes(sweep.arms[arm])}")
    lines.append(f"  metrics: {', '.join(sweep.metrics)}")
    lines += [f"  claim: {claim.text}" for claim in sweep.claims]
    cells, missing_cells = len(runs.cells), len(runs.missing(runs.cells))
    lines.append(f"{cells} runs, {missing_cells} of them to do")
    return lines


def _changes(arm: Any) -> str:
    parts = []
    for path, value in arm.items():
        parts.append(type(value).__name__ if path == "base" else f"{path} {value}")
    return ", ".join(parts) or "the base"
