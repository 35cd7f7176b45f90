"""Run the trials of a search in this process, one after the other, and stop those that are behind.

What a trial is worth after a step is the mean of its metric's last values: of an evaluation the
last one, of other metrics a share of the run's steps. The same number, at the last step, is what
the trial came to. Several seeds go one after the other; what counts is then the mean of those that
are done and the one that is under way.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import gc
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from optuna.trial import Trial

from rljax.errors import UserError
from rljax.search.space import Axis, apply
from rljax.search.trials import Trials
from rljax.sweeps.overrides import override
from rljax.training.config_json import config_to_json
from rljax.training.errors import ConfigError
from rljax.training.manifest import write_text_atomically
from rljax.training.run import CONFIG_FILE
from rljax.training.writer import listening, read_jsonl

LOG_FILE = "log.txt"
Launch = Callable[[Path], None]
"""Make the run whose config.json this is, in its directory. Raises UserError."""


class Pruned(Exception):
    """A trial is behind the others."""


class Stopped(Exception):
    """A run was asked to end before its last step, and has saved what it had."""


@dataclasses.dataclass(frozen=True)
class Measure:
    """What trials are compared by."""

    metric: str
    """A tag of metrics.jsonl, such as eval/scores."""
    average: float
    """Share of the run's steps that the mean is over; evaluations count one by one."""

    def size(self, steps: int) -> int:
        """Return how many values the mean is over."""
        return 1 if self.metric.startswith("eval/") else max(1, round(self.average * steps))


class Stream:
    """A run's metric as it is written, or read back: its mean so far."""

    def __init__(self, measure: Measure, steps: int) -> None:
        self.metric, self.step = measure.metric, 0
        self._last: collections.deque[float] = collections.deque(maxlen=measure.size(steps))

    def take(self, step: int, metrics: Mapping[str, Any]) -> float | None:
        """Take a line of metrics; return the mean where it has the metric, after step 0."""
        self.step = max(self.step, step)
        if step == 0 or self.metric not in metrics:
            return None
        self._last.append(float(metrics[self.metric]))
        return self.value

    @property
    def value(self) -> float:
        """The mean of the last values; NaN while there are none."""
        return sum(self._last) / len(self._last) if self._last else math.nan


class Watcher:
    """Reports a run of a trial to Optuna, step by step, and ends it where it is behind."""

    def __init__(
        self, trial: Trial, stream: Stream, directory: Path, before: Sequence[float], offset: int
    ) -> None:
        """before: what the trial's other seeds came to; offset: the steps that they took."""
        self._trial, self._stream, self._directory = trial, stream, directory
        self._before, self._offset = tuple(before), offset
        self._new = True

    def __call__(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Hear a line of metrics. Raises Pruned."""
        if self._new:
            self._new = False
            self._read_back(step)
        if self._report(step, metrics) and self._trial.should_prune():
            raise Pruned

    def _read_back(self, step: int) -> None:
        """Take what the run wrote before it went on."""
        for row in read_jsonl(self._directory / "metrics.jsonl"):
            if row["step"] < step:
                self._report(int(row["step"]), row)

    def _report(self, step: int, metrics: Mapping[str, Any]) -> bool:
        value = self._stream.take(step, metrics)
        if value is None or not math.isfinite(value):
            return False
        values = [*self._before, value]
        self._trial.report(sum(values) / len(values), self._offset + step)
        return True


@dataclasses.dataclass(frozen=True)
class Search:
    """What all trials of a search have in common."""

    config: Any
    """What is not searched; the workdir is each trial's own."""
    axes: tuple[Axis, ...]
    measure: Measure
    seeds: tuple[int, ...]
    launch: Launch

    def run(self, trials: Trials, trial: Trial) -> str:
        """Make the runs of a trial and tell its end; return how it ended, in words.

        Raises Stopped, when the trial is back in the queue.
        """
        values = {axis.path: trial.params[axis.path] for axis in self.axes}
        found: list[float] = []
        try:
            config = apply(self.config, values)
            for number, seed in enumerate(self.seeds):
                found.append(self._one(trials, trial, config, number, seed, found))
        except Pruned:
            trials.prune(trial)
            return "pruned"
        except Stopped:
            trials.stop(trial)
            raise
        except UserError as error:
            trials.fail(trial, str(error))
            return f"failed: {error}"
        finally:
            jax.clear_caches()  # the programs of a trial are not those of the next
            gc.collect()
        value = sum(found) / len(found)
        if not math.isfinite(value):
            reason = f"it has measured no finite {self.measure.metric}"
            trials.fail(trial, reason)
            return f"failed: {reason}"
        trials.finish(trial, value)
        return f"{self.measure.metric} {value:.4g}"

    def _one(
        self,
        trials: Trials,
        trial: Trial,
        config: Any,
        number: int,
        seed: int,
        before: Sequence[float],
    ) -> float:
        """Make one run of a trial, or go on with it; return what it came to."""
        path = trials.path(trial)
        directory = path if len(self.seeds) == 1 else path / f"seed{seed}"
        directory.mkdir(parents=True, exist_ok=True)
        own = override(config, {"seed": seed, "workdir": str(directory)})
        file = directory / CONFIG_FILE
        if not file.exists():
            write_text_atomically(file, json.dumps(config_to_json(own), indent=2) + "\n")
        stream = Stream(self.measure, own.steps)
        watcher = Watcher(trial, stream, directory, before, number * own.steps)
        with (
            (directory / LOG_FILE).open("a", encoding="utf-8") as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
            listening(watcher),
        ):
            self.launch(file)
        done = Stream(self.measure, own.steps)
        for row in read_jsonl(directory / "metrics.jsonl"):
            done.take(int(row["step"]), row)
        if done.step < own.steps:
            raise Stopped(str(directory))
        return done.value


def work(search: Search, trials: Trials, say: Callable[[str], None]) -> None:
    """Make trials until there are enough, all processes together. Raises Stopped."""

    def suggest(trial: Trial) -> None:
        for axis in search.axes:
            axis.suggest(trial)

    while (trial := trials.draw(suggest)) is not None:
        started = time.monotonic()
        ended = search.run(trials, trial)
        seconds = time.monotonic() - started
        shown = "  ".join(f"{path} {_short(value)}" for path, value in trial.params.items())
        say(f"trial {trial.number + 1} ({trials.counted()}/{trials.wanted})  {ended}  "
            f"{shown}  {seconds:.1f} s")  # fmt: skip


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def require_metric(measure: Measure, config: Any) -> None:
    """Raise ConfigError where a run of this config can never write the metric, as far as one knows.

    Evaluations need something to evaluate.
    """
    if not measure.metric.startswith("eval/"):
        return
    judged = getattr(config, "eval_prompts", None)
    if judged == 0 or (judged is None and not config.judges):
        raise ConfigError(
            f"--metric {measure.metric} is an evaluation's, but this config has none: set "
            "--eval-prompts (or --eval-batches) behind --, or take another metric"
        )
