"""What a search has found, as pictures: its history, what matters, and a slice for each field."""

from __future__ import annotations

import dataclasses
import html
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rljax.errors import UserError
from rljax.reporting.svg import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    ROW,
    TOP,
    WIDTH,
    Scale,
    nice_ticks,
    widened,
)
from rljax.reporting.tables import NOTHING, Table, number

SEARCH_FILE = "search.json"
STYLE = (
    "svg{font:11px sans-serif;fill:#333}.grid{stroke:#ddd;fill:none}.axis{stroke:#888;fill:none}"
    ".end{text-anchor:end}.mid{text-anchor:middle}.line{fill:none;stroke:#1f6fb4;stroke-width:1.5}"
    ".dot{fill:#1f6fb4}.seed{fill:#1f6fb4;opacity:.6}"
)
"""For pictures that stand alone; on the page its own style has the same classes."""


@dataclasses.dataclass(frozen=True)
class SearchRecord:
    """What a search has written: search.json."""

    directory: Path
    search: dict[str, Any]
    """Script, config, space, metric, direction ..."""
    trials: list[dict[str, Any]]
    importances: dict[str, float]
    best: dict[str, Any]
    """Trial, value and command; empty where nothing was measured."""

    @property
    def metric(self) -> str:
        """The tag that trials are compared by."""
        return str(self.search["metric"])

    @property
    def sign(self) -> int:
        """1 where more of the metric is better, else -1."""
        return 1 if self.search["direction"] == "maximize" else -1

    @property
    def measured(self) -> list[dict[str, Any]]:
        """The trials that have a value."""
        return [trial for trial in self.trials if trial["value"] is not None]

    def log_scaled(self, path: str) -> bool:
        """Say whether a field was searched in its logarithm."""
        return any(
            entry.replace("-", "_").startswith((f"{path}=log(", f"{path}=logint("))
            for entry in self.search["space"]
        )


def is_search(path: Path) -> bool:
    """Say whether a directory is a search's."""
    return (path / SEARCH_FILE).is_file()


def read_search(path: Path) -> SearchRecord:
    """Read what a search has found. Raises UserError where it has not ended once."""
    try:
        content = json.loads((path / SEARCH_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path / SEARCH_FILE} cannot be read: {error}") from error
    if "trials" not in content:
        raise UserError(f"{path} is a search that has not come to an end: let it run")
    return SearchRecord(
        path, content["search"], content["trials"], content["importances"], content.get("best", {})
    )


def run_folders(record: SearchRecord) -> list[Path]:
    """List the folders of the trials that have measured anything: a run, or one for each seed.

    Raises UserError where there are none.
    """
    places = dict.fromkeys(trial["place"] for trial in record.trials)
    folders = [record.directory / "trials" / place for place in places]
    found = [folder for folder in folders if any(folder.rglob("metrics.jsonl"))]
    if not found:
        raise UserError(f"no trial of {record.directory} has measured anything: see their log.txt")
    return found


def _picture(height: float, said: str, parts: Sequence[str]) -> str:
    label = html.escape(said, quote=True)
    return (
        f'<svg viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg>"
    )


def _y_axis(y: Scale) -> list[str]:
    parts = []
    for tick in nice_ticks(y.low, y.high):
        at = y(tick)
        parts.append(f'<path class="grid" d="M{LEFT},{at:.1f}H{WIDTH - RIGHT:.0f}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{at + 3.5:.1f}" class="end">{number(tick)}</text>')
    parts.append(f'<path class="axis" d="M{LEFT},{HEIGHT - BOTTOM}H{WIDTH - RIGHT:.0f}"/>')
    return parts


def _dot(x: float, y: float, said: str, kind: str = "seed") -> str:
    title = f"<title>{html.escape(said)}</title>"
    return f'<circle class="{kind} c0" cx="{x:.1f}" cy="{y:.1f}" r="3">{title}</circle>'


def history_svg(record: SearchRecord) -> str:
    """Draw every measured trial, and the best value so far."""
    trials = record.measured
    numbers = np.array([trial["number"] + 1 for trial in trials], float)
    values = np.array([trial["value"] for trial in trials], float)
    best = record.sign * np.maximum.accumulate(record.sign * values)
    x = Scale(*widened(float(numbers.min()), float(numbers.max())), LEFT, WIDTH - RIGHT)
    y = Scale(*widened(float(values.min()), float(values.max())), HEIGHT - BOTTOM, TOP)
    parts = _y_axis(y)
    for tick in nice_ticks(x.low, x.high, 5):
        if float(tick).is_integer() and tick >= 1:
            place = f'<text x="{x(tick):.1f}" y="{HEIGHT - 8}" class="mid">'
            parts.append(f"{place}{number(tick)}</text>")
    steps = "".join(f"H{x(n):.1f}V{y(v):.1f}" for n, v in zip(numbers, best, strict=True))
    parts.append(f'<path class="line c0" d="M{x(numbers[0]):.1f},{y(best[0]):.1f}{steps}"/>')
    parts += [
        _dot(x(n), y(v), f"trial {int(n)}: {number(float(v))}")
        for n, v in zip(numbers, values, strict=True)
    ]
    said = f"{record.metric} of {len(trials)} trials; the best came to {number(float(best[-1]))}"
    return _picture(HEIGHT, said, parts)


def importances_svg(record: SearchRecord) -> str:
    """Draw which share of the differences each field explains."""
    rows = sorted(record.importances.items(), key=lambda row: -row[1])
    left, height = 150.0, TOP + ROW * len(rows) + BOTTOM
    x = Scale(0.0, 1.0, left, WIDTH - RIGHT - 30)
    parts = []
    for index, (name, share) in enumerate(rows):
        middle = TOP + ROW * (index + 0.5)
        shown = name if len(name) <= 24 else f"…{name[-23:]}"
        label = f"{html.escape(shown)}<title>{html.escape(name)}</title>"
        parts.append(f'<text x="{left - 8}" y="{middle + 3.5:.1f}" class="end">{label}</text>')
        parts.append(
            f'<path class="dot c0" d="M{left},{middle - 5:.1f}H{x(share):.1f}v10H{left}Z"/>'
        )
        parts.append(f'<text x="{x(share) + 4:.1f}" y="{middle + 3.5:.1f}">{share:.0%}</text>')
    said = "; ".join(f"{name} {share:.0%}" for name, share in rows)
    return _picture(height, f"importance of the fields (PED-ANOVA): {said}", parts)


def slice_svg(record: SearchRecord, path: str) -> str:
    """Draw the metric over one field: a dot for each measured trial."""
    trials = [trial for trial in record.measured if path in trial["values"]]
    chosen = [trial["values"][path] for trial in trials]
    values = np.array([trial["value"] for trial in trials], float)
    y = Scale(*widened(float(values.min()), float(values.max())), HEIGHT - BOTTOM, TOP)
    parts = _y_axis(y)
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in chosen)
    if numeric:
        log = record.log_scaled(path)
        points = [math.log10(v) if log else float(v) for v in chosen]
        x = Scale(*widened(min(points), max(points)), LEFT, WIDTH - RIGHT)
        ticks = [(tick, 10**tick if log else tick) for tick in nice_ticks(x.low, x.high, 3)]
        labels = [(at, f"{shown:.2g}") for at, shown in ticks]
    else:
        names = sorted({str(v) for v in chosen})
        points = [float(names.index(str(v))) for v in chosen]
        x = Scale(-0.5, len(names) - 0.5, LEFT, WIDTH - RIGHT)
        labels = [(float(place), name) for place, name in enumerate(names)]
    for at, shown in labels:
        place = f'<text x="{x(at):.1f}" y="{HEIGHT - 8}" class="mid">'
        parts.append(f"{place}{html.escape(shown)}</text>")
    parts += [
        _dot(x(p), y(v), f"trial {t['number'] + 1}: {c}, {number(float(v))}")
        for p, v, c, t in zip(points, values, chosen, trials, strict=True)
    ]
    return _picture(HEIGHT, f"{record.metric} by {path}, {len(trials)} trials", parts)


def pictures(record: SearchRecord) -> list[tuple[str, str]]:
    """Return (title, SVG) of all pictures that there is something for."""
    if not record.measured:
        return []
    made = [("History", history_svg(record))]
    if record.importances:
        made.append(("Importances", importances_svg(record)))
    paths = dict.fromkeys(path for trial in record.measured for path in trial["values"])
    return made + [(path, slice_svg(record, path)) for path in paths]


def write_pictures(directory: Path) -> list[Path]:
    """Write the pictures of a search into its directory, as SVG files that stand alone."""
    files = []
    record = read_search(directory)
    for title, picture in pictures(record):
        name = {"History": "history", "Importances": "importances"}.get(title, f"slice-{title}")
        file = directory / f"{name}.svg"
        head, _, body = picture.partition(">")
        note = f'<text x="{LEFT}" y="-4">{html.escape(record.metric)}: {html.escape(title)}</text>'
        space = head.replace('viewBox="0 0', 'viewBox="0 -18').replace(
            "<svg", '<svg xmlns="http://www.w3.org/2000/svg"'
        )
        file.write_text(f"{_taller(space)}><style>{STYLE}</style>{note}{body}\n", encoding="utf-8")
        files.append(file)
    return files


def _taller(head: str) -> str:
    """Give the picture's box the room for its title."""
    before, _, rest = head.partition('viewBox="0 -18 ')
    size, _, after = rest.partition('"')
    width, height = size.split()
    return f'{before}viewBox="0 -18 {width} {int(height) + 18}"{after}'


def trials_table(record: SearchRecord) -> Table:
    """Make the table of all trials, best first; those without a value stand at the end."""
    paths = dict.fromkeys(path for trial in record.trials for path in trial["values"])

    def key(trial: dict[str, Any]) -> tuple[bool, float]:
        value = trial["value"]
        return (value is None, 0.0 if value is None else -record.sign * value)

    rows = []
    for trial in sorted(record.trials, key=key):
        chosen = [trial["values"].get(path, NOTHING) for path in paths]
        spelled = [number(v) if isinstance(v, float) else str(v) for v in chosen]
        value = NOTHING if trial["value"] is None else number(trial["value"])
        state = trial["state"] + (f": {trial['reason']}" if trial["reason"] else "")
        rows.append((f"{trial['number'] + 1}", value, *spelled, state))
    header = ("trial", record.metric, *paths, "state")
    best = f" Best: {record.best['command']}" if record.best else ""
    return Table("Trials", header, tuple(rows), f"{record.search['direction']}d.{best}")
