"""Read back what runs have written: config, curves, completions, and what they cost."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rljax.errors import UserError
from rljax.training.config_json import flatten_config
from rljax.training.run import CONFIG_FILE
from rljax.training.writer import read_jsonl

METRICS_FILE, COMPLETIONS_FILE, RESULT_FILE = "metrics.jsonl", "completions.jsonl", "result.json"
SWEEP_FILE, RESULTS_FILE, CELLS = "sweep.json", "results.json", "cells"


class Series(NamedTuple):
    """One metric of a run, in the order in which it was measured."""

    steps: np.ndarray
    """[n] int64: training steps done when it was measured."""
    values: np.ndarray
    """[n] float64; NaN and infinities as they were."""


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """What a run has written so far; it may be going on, or have been killed."""

    directory: Path
    config: dict[str, Any]
    """The resolved config as JSON; empty where the directory has none."""
    metrics: dict[str, Series]
    """By tag, in the order of first appearance."""
    result: dict[str, Any]
    """result.json: the change on held-out prompts; empty while there is none."""

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.directory.name

    @property
    def seed(self) -> int | None:
        """The config's seed; None where it has none."""
        return self.config.get("seed")

    @property
    def last_step(self) -> int:
        """The last step that anything was measured at."""
        return max(int(series.steps[-1]) for series in self.metrics.values())

    def series(self, tag: str) -> Series:
        """Return one metric. Raises UserError, with the nearest names, where there is none."""
        if tag in self.metrics:
            return self.metrics[tag]
        near = difflib.get_close_matches(tag, self.metrics, n=3) or sorted(self.metrics)[:8]
        raise UserError(f"{self.directory} has no metric {tag!r}; there are {', '.join(near)}")

    @functools.cached_property
    def completions(self) -> list[dict[str, Any]]:
        """The stored completions, rows of completions.jsonl, read when they are first asked for.

        Raises UserError for a line, other than a half-written last one, that is not JSON.
        """
        path = self.directory / COMPLETIONS_FILE
        return read_jsonl(path) if path.exists() else []

    @functools.cached_property
    def cost(self) -> Cost:
        """What the run took, of the processes that its metrics are from."""
        return _cost(self.metrics)


class Cost(NamedTuple):
    """What a run took; NaN where its metrics do not say."""

    seconds: float
    """Of all steps; evaluations, checkpoints and the start of the process are not in it."""
    parts: dict[str, float]
    """Seconds of rollout, reward, update ..., as `time/*` names them."""
    tokens: float
    """Tokens that were learnt from."""
    tokens_per_s: float
    """Of the median step."""
    step_s: float
    """The median step."""
    compile_s: float
    """What the first step took beyond the median one: compilation, or loading what was compiled."""
    programs: float
    """Programs that were compiled, or loaded, by the last process."""


def read_run(path: str | Path) -> RunRecord:
    """Read a run directory; a half-written last line of a killed run is left out.

    Raises:
      UserError: there is no run, nothing was measured yet, or a file is not what it should be.
    """
    directory = Path(path)
    file = directory / METRICS_FILE
    if not file.is_file():
        there = "is not there" if not directory.exists() else f"holds no {METRICS_FILE}"
        raise UserError(f"{directory} {there}: give the directory of a run (its --workdir)")
    metrics = columns(read_jsonl(file), file)
    if not metrics:
        raise UserError(f"{file} is empty: the run has not ended its first step yet")
    config = _read_object(directory / CONFIG_FILE)
    return RunRecord(directory, config, metrics, _read_object(directory / RESULT_FILE))


def columns(rows: Sequence[Mapping[str, Any]], where: Path) -> dict[str, Series]:
    """Turn rows {"step": int, tag: number} into one series for each tag.

    Raises UserError, naming the row's place, for a step or a value that is not a number.
    """
    alike: dict[tuple[str, ...], list[int]] = {}  # rows with the same tags become one table
    for number, row in enumerate(rows):
        if not isinstance(row.get("step"), int):
            raise UserError(
                f"{where}, line {number + 1}: step is {row.get('step')!r}, not a whole number"
            )
        alike.setdefault(tuple(row), []).append(number)
    parts: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}
    for tags, numbers in sorted(alike.items(), key=lambda item: item[1][0]):
        values = zip(*(rows[number].values() for number in numbers), strict=True)
        table = {
            tag: _numbers(tag, column, where) for tag, column in zip(tags, values, strict=True)
        }
        steps = table.pop("step")
        for tag, column in table.items():
            parts.setdefault(tag, []).append((np.asarray(numbers), steps, column))
    return {tag: _in_order(found) for tag, found in parts.items()}


def _numbers(tag: str, values: Sequence[Any], where: Path) -> np.ndarray:
    kinds = set(map(type, values))  # of a few types: looking at each value would take most time
    if not kinds <= {float, int, bool}:
        odd = next(value for value in values if type(value) not in (float, int, bool))
        raise UserError(f"{where}: {tag} is {odd!r}, not a number")
    return np.asarray(values, np.int64 if tag == "step" else np.float64)


def _in_order(parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Series:
    """Put the parts of a series, each with its lines' numbers, together as the lines stand."""
    lines, steps, values = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.argsort(lines)
    return Series(steps[order], values[order])


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is a {type(content).__name__}, not an object")
    return content


def _cost(metrics: Mapping[str, Series]) -> Cost:
    timed = {
        tag.removeprefix("time/").removesuffix("_s"): series
        for tag, series in metrics.items()
        if tag.startswith("time/")
    }
    parts = {name: float(np.nansum(series.values)) for name, series in timed.items()}
    programs = metrics.get("perf/compile_count")
    count = float(programs.values[-1]) if programs is not None else float("nan")
    if "step" in timed:  # the whole, of which other times are parts
        timed = {"step": timed["step"]}
    lengths = {series.steps.size for series in timed.values()}
    if len(lengths) != 1:  # nothing was timed, or parts of other steps
        nothing = float("nan")
        total = sum(parts.values()) if parts else nothing
        return Cost(total, parts, nothing, nothing, nothing, nothing, count)
    per_step = np.sum([series.values for series in timed.values()], axis=0)
    seconds, median = float(np.sum(per_step)), float(np.median(per_step))
    tokens = rate = float("nan")
    rates = metrics.get("perf/tokens_per_s")
    if rates is not None and rates.values.size == per_step.size:
        tokens, rate = float(np.sum(rates.values * per_step)), float(np.median(rates.values))
    later = float(np.median(per_step[1:])) if per_step.size > 1 else float("nan")
    compiling = float(per_step[0]) - later
    return Cost(seconds, parts, tokens, rate, median, compiling, count)


def flat_config(record: RunRecord) -> dict[str, Any]:
    """Return {"ppo.clip_eps": 0.2, ...} of a run, without where it was written."""
    flat = flatten_config(record.config)
    return {name: value for name, value in flat.items() if name != "workdir"}


def differing(flats: Sequence[Mapping[str, Any]], ignore: Sequence[str] = ()) -> list[str]:
    """List the fields of flat configs whose values are not the same in all, in their order.

    A field that only some have differs. ignore: fields left out, such as "seed".
    """
    names = dict.fromkeys(name for flat in flats for name in flat if name not in ignore)
    missing = object()

    def values(name: str) -> list[Any]:
        return [flat.get(name, missing) for flat in flats]

    return [name for name in names if any(value != values(name)[0] for value in values(name))]


@dataclasses.dataclass(frozen=True)
class SweepRecord:
    """What a sweep has written so far."""

    directory: Path
    name: str
    """The sweep's own name, or its directory's."""
    arms: dict[str, tuple[RunRecord, ...]]
    """The runs that have measured something, by arm, in the sweep's order, by seed."""
    results: dict[str, Any]
    """results.json: metrics by arm with intervals, and claims; empty while there is none."""
    missing: tuple[str, ...]
    """Cells that have measured nothing yet."""


def read_sweep(path: str | Path) -> SweepRecord:
    """Read a sweep's directory; cells that have not ended a step yet are listed as missing.

    Where only results.json is left, as where the results are kept in a repository, it alone is
    read. Raises UserError where there is neither, no cell has measured anything, or a file is
    broken.
    """
    directory = Path(path)
    cells, results = directory / CELLS, _read_object(directory / RESULTS_FILE)
    if not cells.is_dir():
        if "metrics" in results and "arms" in results:
            return SweepRecord(directory, results.get("name", directory.name), {}, results, ())
        raise UserError(
            f"{directory} holds neither {CELLS}/ nor a sweep's {RESULTS_FILE}: give the directory "
            "of a sweep"
        )
    described = _read_object(directory / SWEEP_FILE)
    found = {folder.name: folder for folder in sorted(cells.iterdir()) if folder.is_dir()}
    order = [*described.get("arms", {}), *results.get("arms", {}), *found]
    arms: dict[str, tuple[RunRecord, ...]] = {}
    missing = []
    for arm in dict.fromkeys(order):
        runs = []
        for run in sorted(found[arm].iterdir() if arm in found else (), key=_by_seed):
            if not run.is_dir():
                continue
            if has_measured(run):
                runs.append(read_run(run))
            else:
                missing.append(f"{arm}/{run.name}")
        if runs:
            arms[arm] = tuple(runs)
    if not arms:
        raise UserError(f"{cells}: no cell has measured anything yet")
    name = described.get("name") or results.get("name", directory.name)
    return SweepRecord(directory, name, arms, results, tuple(missing))


def _by_seed(path: Path) -> tuple[int, str]:
    digits = path.name.removeprefix("seed")
    return (int(digits) if digits.isdigit() else -1, path.name)


def has_measured(path: Path) -> bool:
    """Say whether a directory is a run's that has ended a step."""
    file = path / METRICS_FILE
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.readline().endswith(b"\n")
