"""A sweep in TensorBoard: `tensorboard --logdir DIR`.

HPARAMS         a row for each run: its arm, its seed, what differs between arms, and the metrics
CUSTOM SCALARS  means over the seeds with 95% intervals, a curve for each arm
TEXT            what came out, and what the arms' policies write at the end
SCALARS         the runs are called cells/ARM/seedN, the means over seeds mean/ARM
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import summary as summaries

from rljax.reporting.runs import RunRecord
from rljax.reporting.statistics import bootstrap_mean
from rljax.sweeps.cells import SweepRuns, cell_of
from rljax.training.config_json import flatten_config
from rljax.training.events import EventFile
from rljax.training.manifest import write_text_atomically
from rljax.training.writer import HPARAMS_FILE, markdown_table

GROUP = "sweep"
MEANS = "mean"
CURVES = (
    "objective/scores", "objective/kl", "objective/entropy", "completion/length", "eval/scores",
    "train/loss", "eval/loss",
)  # fmt: skip
"""Shown as means over seeds where runs have them, besides what the metrics read."""
_SAMPLES = 4
_POINTS = 200


def differing_fields(runs: SweepRuns) -> dict[str, dict[str, Any]]:
    """Return {run: {field: value}} of the fields in which the arms differ, as text or number.

    A field of different types is text. One that only some arms have, being of another algorithm, is
    left out unless an arm changes it.
    """
    named = {path for arm in runs.sweep.arms.values() for path in arm}
    flats = {
        name: {
            field: value
            for field, value in flatten_config(cell.config).items()
            if field not in ("seed", "workdir")
        }
        for name, cell in runs.cells.items()
    }
    fields = dict.fromkeys(field for flat in flats.values() for field in flat)
    made: dict[str, dict[str, Any]] = {
        name: {"arm": cell.arm, "seed": cell.seed} for name, cell in runs.cells.items()
    }
    for field in fields:
        values = [flat.get(field) for flat in flats.values()]
        if all(value == values[0] for value in values):
            continue
        if field not in named and not all(field in flat for flat in flats.values()):
            continue
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        for name, flat in flats.items():
            value = flat.get(field)
            made[name][field] = value if numbers else ("" if value is None else str(value))
    return made


def write_fields(runs: SweepRuns, name: str) -> None:
    """Write into a run's directory what its row of HPARAMS shows; a stage has none.

    TensorBoard takes the columns from whichever run it finds first: all have to say the same.
    """
    metrics = [f"{GROUP}/{metric}" for metric in runs.sweep.metrics]
    fields = differing_fields(runs)[name] if name in runs.cells else {}
    text = json.dumps({"fields": fields, "metrics": metrics}, indent=2, ensure_ascii=False)
    write_text_atomically(runs.path(name) / HPARAMS_FILE, text + "\n")


def write_summary(runs: SweepRuns, name: str) -> None:
    """Write the metrics of a run that is whole into its directory, for its row of HPARAMS."""
    step = runs.record(name).last_step + 1  # nothing that the run has written is forgotten
    content = json.loads((runs.path(name) / HPARAMS_FILE).read_text(encoding="utf-8"))
    parts = summaries.hparams(content["fields"], dict.fromkeys(content["metrics"], 0))
    board = EventFile(runs.path(name), step)
    for part in parts:
        board.add(0, part)
    for metric, value in runs.measure(name).items():
        board.add(step, summaries.scalar(f"{GROUP}/{metric}", value))
    board.close()


def _curve(records: list[RunRecord], tag: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the steps [N] that all runs have of a tag, and its values [S, N]."""
    common = records[0].metrics[tag].steps
    for record in records[1:]:
        common = np.intersect1d(common, record.metrics[tag].steps)
    common = np.unique(common)
    rows = []
    for record in records:
        series = record.metrics[tag]
        last = dict(zip(series.steps.tolist(), series.values.tolist(), strict=True))
        rows.append([last[step] for step in common.tolist()])
    return common, np.asarray(rows, np.float64)


def _thin(count: int) -> np.ndarray:
    """Choose at most `_POINTS` of so many points, the last one among them."""
    return np.unique(np.linspace(0, count - 1, min(count, _POINTS)).round().astype(int))


def _shown_tags(runs: SweepRuns, records: list[RunRecord]) -> list[str]:
    read = [getattr(reader, "tag", None) for reader in runs.sweep.metrics.values()]
    wanted = dict.fromkeys([*(tag for tag in read if tag), *CURVES])
    return [tag for tag in wanted if all(tag in record.metrics for record in records)]


def _write_means(board: EventFile, records: list[RunRecord], tags: list[str]) -> None:
    for tag in tags:
        steps, values = _curve(records, tag)
        for point in _thin(len(steps)):
            column = values[:, point]
            column = column[np.isfinite(column)]
            if not column.size:
                continue
            interval = bootstrap_mean(column, num_resamples=1000)
            shown = {tag: interval.mean, f"{tag}/low": interval.low, f"{tag}/high": interval.high}
            for name, value in shown.items():
                board.add(int(steps[point]), summaries.scalar(name, value))


def samples(record: RunRecord, arm: str) -> list[dict[str, Any]]:
    """List the first completions that a run has kept of its last step."""
    rows = record.completions
    last = rows[-1]["step"] if rows else 0
    shown = [row for row in rows if row["step"] == last][:_SAMPLES]
    names = ("prompt", "completion", "score", "kl")
    return [{"arm": arm, **{name: row[name] for name in names if name in row}} for row in shown]


def write_overview(runs: SweepRuns, table: str) -> None:
    """Write the means over seeds, the layout, and the texts, in place of what was there before.

    table: Markdown of what came out.
    """
    sweep, rows = runs.sweep, list[dict[str, Any]]()
    tags: dict[str, None] = {}
    _clear(runs.directory)
    for arm in sweep.arms:
        names = [cell_of(sweep, arm, seed) for seed in sweep.seeds]
        records = [runs.record(name) for name in names if runs.is_done(name)]
        if not records:
            continue
        folder = runs.directory / MEANS / arm
        folder.mkdir(parents=True, exist_ok=True)
        _clear(folder)
        board = EventFile(folder, 0)
        shown = _shown_tags(runs, records)
        _write_means(board, records, shown)
        board.close()
        tags |= dict.fromkeys(shown)
        rows += samples(records[0], arm)
    board = EventFile(runs.directory, 0)
    board.add(0, summaries.text("results", table))
    if rows:
        board.add(0, summaries.text("samples", markdown_table(rows)))
    if tags:
        board.add(0, _layout(list(tags)))
    board.close()


def _layout(tags: list[str]) -> Any:
    """Make a chart with a band for each tag."""
    charts = {tag: ["Margin", [tag, f"{tag}/low", f"{tag}/high"]] for tag in tags}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return summaries.custom_scalars({"means over seeds, 95% intervals": charts})


def _clear(directory: Path) -> None:
    for file in directory.glob("events.out.tfevents.*"):
        file.unlink()
