"""The plots of a report as files for papers, by matplotlib (extra `report`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rljax.errors import UserError
from rljax.reporting.contents import Contents
from rljax.reporting.curves import Plot
from rljax.reporting.svg import COLOURS, Final, dash_of

PALETTE = (
    "#1c56b0", "#b04a12", "#17754a", "#8a3aa5", "#7a6000", "#b81f52", "#2c7183", "#5a5e66",
)  # fmt: skip
"""The light page's colours."""
SIZE = (4.2, 2.8)
STYLE = {
    "font.size": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e2e2de",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "rljax",
    "figure.dpi": 200,
}


def write_figures(contents: Contents, folder: Path, kind: str) -> list[Path]:
    """Write every plot as FOLDER/NAME.kind, the same bytes for the same runs (svg, png).

    kind: "svg", "png" or "pdf". Raises UserError without matplotlib, or where nothing can be
    written.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise UserError("plots need matplotlib: pip install 'rljax[report]'") from error
    matplotlib.use("agg")
    from matplotlib import pyplot

    made = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context(STYLE):
            for section in contents.sections:
                for plot in section.plots:
                    made.append(_save(pyplot, _curves(pyplot, plot), folder, plot.tag, kind))
            for name, rows in contents.finals:
                if len(rows) > 1:
                    figure, axes = pyplot.subplots(figsize=_final_size(rows), layout="constrained")
                    _draw_finals(axes, name, rows)
                    made.append(_save(pyplot, figure, folder, f"final {name}", kind))
            compared = [metric for metric in contents.finals if len(metric[1]) > 1]
            if compared:
                made.append(_save(pyplot, _overview(pyplot, compared), folder, "overview", kind))
    except OSError as error:
        raise UserError(f"plots cannot be written to {folder}: {error}") from error
    return made


def line_style(place: int) -> dict[str, Any]:
    """Return colour and dashes of a group's line, the page's own."""
    dash = dash_of(place)
    pattern = (0, tuple(float(x) / 1.8 for x in dash.split())) if dash else "solid"
    return {"color": PALETTE[place % COLOURS], "linestyle": pattern}


def _curves(pyplot: Any, plot: Plot) -> Any:
    figure, axes = pyplot.subplots(figsize=SIZE, layout="constrained")
    for curve in plot.curves:
        style = line_style(curve.place)
        marker = "o" if len(curve.steps) == 1 else None
        axes.plot(
            curve.steps, curve.mean, label=_plain(curve.label), lw=1.4, marker=marker, **style
        )
        if curve.band != "none":
            axes.fill_between(
                curve.steps, curve.low, curve.high, color=style["color"], alpha=0.16, lw=0
            )
    axes.set_xlabel("step")
    axes.set_ylabel(_plain(plot.tag))
    if len(plot.curves) > 1:
        axes.legend(fontsize=7.5)
    return figure


def _final_size(rows: Sequence[Final]) -> tuple[float, float]:
    return SIZE[0], 0.7 + 0.28 * len(rows)


def _overview(pyplot: Any, metrics: Sequence[tuple[str, Sequence[Final]]]) -> Any:
    """Draw what the groups came to in all metrics, side by side."""
    count = len(metrics)
    columns = min(count, 3)
    lines = -(-count // columns)
    height = _final_size(max((rows for _, rows in metrics), key=len))[1]
    figure, grid = pyplot.subplots(
        lines, columns, figsize=(3.1 * columns, height * lines), layout="constrained", squeeze=False
    )
    for axes in grid.flat[count:]:
        axes.remove()
    for place, (axes, (name, rows)) in enumerate(zip(grid.flat, metrics, strict=False)):
        _draw_finals(axes, name, rows)
        if place % columns:
            axes.tick_params(
                labelleft=[row.label for row in rows] != [r.label for r in metrics[0][1]]
            )
    return figure


def _draw_finals(axes: Any, name: str, rows: Sequence[Final]) -> None:
    for index, row in enumerate(rows):
        colour = PALETTE[row.place % COLOURS]
        axes.plot(
            row.values, [index] * len(row.values), "o", color=colour, alpha=0.4, ms=3.5, mew=0
        )
        axes.plot([row.low, row.high], [index, index], color=colour, lw=1.6)
        axes.plot([row.mean], [index], "D", color=colour, ms=4.5)
    axes.set_yticks(range(len(rows)), [_plain(row.label) for row in rows])
    axes.invert_yaxis()
    axes.margins(y=0.6 / max(len(rows), 1))
    axes.set_xlabel(_plain(name))


def _plain(text: str) -> str:
    """Return text that matplotlib does not read as mathematics."""
    return text.replace("$", r"\$")


def _save(pyplot: Any, figure: Any, folder: Path, name: str, kind: str) -> Path:
    path = folder / f"{re.sub(r'[^A-Za-z0-9_.=-]+', '-', name).strip('-')}.{kind}"
    still = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[kind]
    figure.savefig(path, metadata=still)
    pyplot.close(figure)
    return path
