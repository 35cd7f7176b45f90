"""What came out of a sweep: results.json, table.md, and apart from them cost.json.

results.json is a pure function of the runs' records: it holds no time and no place, and is the same
bytes however often the sweep was killed. What was not measured, or is not finite, is null.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from rljax.reporting.statistics import Interval, interquartile_mean, stratified_bootstrap
from rljax.sweeps.cells import (
    SweepRuns,
    cell_of,
    describe_claim,
    overrides,
    to_text,
)
from rljax.sweeps.claims import Judged, Table, judge
from rljax.training.manifest import write_text_atomically

RESULTS_FILE, TABLE_FILE, COST_FILE = "results.json", "table.md", "cost.json"


def make_table(runs: SweepRuns) -> Table:
    """Read every metric of every run that is whole; NaN stands for the others.

    Raises UserError for a metric that a run has not measured.
    """
    sweep = runs.sweep
    shape = {arm: np.full(len(sweep.seeds), np.nan) for arm in sweep.arms}
    values = {metric: {arm: x.copy() for arm, x in shape.items()} for metric in sweep.metrics}
    for arm in sweep.arms:
        for column, seed in enumerate(sweep.seeds):
            name = cell_of(sweep, arm, seed)
            if runs.is_done(name):
                for metric, value in runs.measure(name).items():
                    values[metric][arm][column] = value
    return Table(values, sweep.seeds)


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _interval(name: str, interval: Interval | None) -> dict[str, float | None]:
    mean, low, high = interval or (math.nan,) * 3
    return {name: _plain(mean), f"{name}_low": _plain(low), f"{name}_high": _plain(high)}


def summarise(values: np.ndarray) -> dict[str, Any]:
    """Summarise one metric of one arm [S]: every seed, mean and IQM with 95% intervals."""
    there = values[np.isfinite(values)]
    mean = stratified_bootstrap([there], np.mean) if there.size else None
    iqm = stratified_bootstrap([there], interquartile_mean) if there.size else None
    return {
        "values": [_plain(value) for value in values],
        **_interval("mean", mean),
        **_interval("iqm", iqm),
    }


def results(runs: SweepRuns) -> dict[str, Any]:
    """Return what results.json holds. Raises UserError as `make_table` and `judge`."""
    sweep, table = runs.sweep, make_table(runs)
    claims = []
    for claim in sweep.claims:
        found = judge(claim, table)
        claims.append({**describe_claim(claim), **_judged(found)})
    return {
        "name": sweep.name,
        "complete": not runs.missing(runs.cells),
        "seeds": list(sweep.seeds),
        "arms": {arm: overrides(sweep, arm) for arm in sweep.arms},
        "metrics": {
            metric: {arm: summarise(values) for arm, values in by_arm.items()}
            for metric, by_arm in table.values.items()
        },
        "claims": claims,
    }


def _judged(found: Judged) -> dict[str, Any]:
    """Return a judgement as JSON; the claim's own margin keeps its name."""
    numbers = {
        "left_mean": found.left,
        "right_mean": found.right,
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "margin_used": found.margin,
        "probability_of_improvement": found.improvement,
    }
    return {
        "verdict": found.verdict,
        **{name: _plain(value) for name, value in numbers.items()},
        "note": found.note,
    }


def cost(runs: SweepRuns) -> dict[str, Any]:
    """Return what cost.json holds: seconds of the last process of every whole run."""
    names = [name for name in (*runs.stages, *runs.cells) if runs.is_done(name)]
    seconds = {name: runs.seconds(name) for name in names}
    return {"seconds": seconds, "total_s": round(sum(seconds.values()), 1)}


def markdown(content: dict[str, Any]) -> str:
    """Spell results.json as Markdown: a table of metrics by arm, and the claims."""
    metrics = content["metrics"]
    lines = [f"# {content['name']}", ""]
    missing = "" if content["complete"] else "; some runs are missing"
    seeds = len(content["seeds"])
    lines += [f"Means over {seeds} seeds with 95% bootstrap intervals{missing}.", ""]
    lines.append("| arm | " + " | ".join(_escape(metric) for metric in metrics) + " |")
    lines.append("| --- |" + " --- |" * len(metrics))
    for arm in content["arms"]:
        cells = [_spell_cell(by_arm[arm]) for by_arm in metrics.values()]
        lines.append(f"| {_escape(arm)} | " + " | ".join(cells) + " |")
    if content["claims"]:
        lines += ["", "| claim | verdict | difference |", "| --- | --- | --- |"]
    for claim in content["claims"]:
        sides = f"{claim['metric']}: {claim['left']} {claim['relation']} {claim['right']}"
        text = _escape(f"{claim['text']} ({sides})")
        shown = _spell(claim["difference"], claim["low"], claim["high"])
        note = f" ({claim['note']})" if claim["note"] else ""
        lines.append(f"| {text} | {claim['verdict']}{_escape(note)} | {shown} |")
    return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _spell_cell(summary: dict[str, Any]) -> str:
    return _spell(summary["mean"], summary["mean_low"], summary["mean_high"])


def _spell(mean: float | None, low: float | None, high: float | None) -> str:
    if mean is None or low is None or high is None:
        return ""
    return f"{mean:.3g} [{low:.3g}, {high:.3g}]"


def write_results(runs: SweepRuns) -> dict[str, Any]:
    """Write results.json, table.md and cost.json; return what results.json holds."""
    content = results(runs)
    for name, text in (
        (RESULTS_FILE, to_text(content)),
        (TABLE_FILE, markdown(content)),
        (COST_FILE, to_text(cost(runs))),
    ):
        write_text_atomically(runs.directory / name, text)
    return content


def read_results(path: Path) -> dict[str, Any]:
    """Read a results.json back."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
