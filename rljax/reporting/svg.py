"""Curves and final values as small SVG pictures that take their colours from the page's CSS."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rljax.reporting.curves import Curve, Plot
from rljax.reporting.tables import number

WIDTH, HEIGHT = 360.0, 200.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 12.0, 8.0, 24.0
COLOURS = 8
DASHES = ("", "7 3", "2 2.5", "9 3 2 3")
"""Of group i the colour i modulo `COLOURS` and the dash i modulo 4, so that no two of 8 differ in
colour only; a second round of colours has other dashes."""
ROW = 22.0
BESIDE, LONGEST = 16, 54
"""Characters of a name that stands beside its row, and of one above it."""


def dash_of(place: int) -> str:
    """Return the dashes of a group's line."""
    return DASHES[(place + place // COLOURS) % len(DASHES)]


def style_of(place: int) -> str:
    """Return the attributes of a group's line: a CSS class for its colour, and its dashes."""
    dash = dash_of(place)
    return f'class="line c{place % COLOURS}"' + (f' stroke-dasharray="{dash}"' if dash else "")


class Scale(NamedTuple):
    """From data to pixels: pixel = start + (value - low) / (high - low) * (end - start)."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, values: Any) -> Any:
        """Return the pixels of a number, or of an array of numbers."""
        return self.start + (values - self.low) / (self.high - self.low) * (self.end - self.start)

    @property
    def data(self) -> str:
        """The scale's numbers for the page's script."""
        return ",".join(f"{x:.8g}" for x in self)


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return about `count` round numbers between low and high: multiples of 1, 2 or 5 x 10^n."""
    span = high - low
    rough = span / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [step * i for i in range(first, math.floor(high / step + 1e-9) + 1)]


def widened(low: float, high: float) -> tuple[float, float]:
    """Return bounds with a little room, and some where there is no span."""
    if high <= low:
        room = abs(low) * 0.1 or 1.0
        return low - room, high + room
    room = (high - low) * 0.05
    return low - room, high + room


def _points(xs: np.ndarray, ys: np.ndarray) -> str:
    return "L".join(f"{x:.1f},{y:.2f}" for x, y in zip(xs, ys, strict=True))


def _axes(x: Scale, y: Scale) -> str:
    parts = []
    for tick in nice_ticks(y.low, y.high):
        at = y(tick)
        parts.append(f'<path class="grid" d="M{LEFT},{at:.1f}H{WIDTH - RIGHT:.0f}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{at + 3.5:.1f}" class="end">{number(tick)}</text>')
    for tick in nice_ticks(x.low, x.high, 5):
        if not float(tick).is_integer():
            continue
        at = x(tick)
        anchor = "end" if at > WIDTH - RIGHT - 8 else "mid"
        parts.append(f'<text x="{at:.1f}" y="{HEIGHT - 8}" class="{anchor}">{number(tick)}</text>')
    parts.append(f'<path class="axis" d="M{LEFT},{HEIGHT - BOTTOM}H{WIDTH - RIGHT:.0f}"/>')
    return "".join(parts)


def _drawn(curve: Curve, x: Scale, y: Scale) -> str:
    xs, ys = x(curve.steps), y(curve.mean)
    parts = []
    if curve.band != "none":
        low, high = y(curve.low), y(curve.high)
        edge = _points(np.concatenate([xs, xs[::-1]]), np.concatenate([high, low[::-1]]))
        parts.append(f'<path class="band c{curve.place % COLOURS}" d="M{edge}Z"/>')
    if len(xs) == 1:
        colour = f"c{curve.place % COLOURS}"
        parts.append(f'<circle class="dot {colour}" cx="{xs[0]:.1f}" cy="{ys[0]:.2f}" r="3"/>')
    label = html.escape(curve.label, quote=True)
    parts.append(f'<path {style_of(curve.place)} data-name="{label}" d="M{_points(xs, ys)}"/>')
    return f'<g data-group="{curve.place}">{"".join(parts)}</g>'


def describe(plot: Plot) -> str:
    """Say in words what a plot shows."""
    ends = [
        f"{curve.label} ends at {number(float(curve.mean[-1]))}"
        + (
            f" (95% interval {number(float(curve.low[-1]))} to {number(float(curve.high[-1]))})"
            if curve.band == "seeds"
            else ""
        )
        for curve in plot.curves[:8]
    ]
    more = len(plot.curves) - len(ends)
    return f"{plot.tag} by training step: " + "; ".join(ends) + (f"; {more} more" if more else "")


def plot_svg(plot: Plot) -> str:
    """Draw the curves of a metric over steps."""
    steps = np.concatenate([curve.steps for curve in plot.curves])
    low = min(float(curve.low.min()) for curve in plot.curves)
    high = max(float(curve.high.max()) for curve in plot.curves)
    first, last = float(steps.min()), float(steps.max())
    x = Scale(first, last if last > first else first + 1, LEFT, WIDTH - RIGHT)
    y = Scale(*widened(low, high), HEIGHT - BOTTOM, TOP)
    curves = "".join(_drawn(curve, x, y) for curve in plot.curves)
    return (
        f'<svg viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img" data-x="{x.data}" '
        f'data-y="{y.data}" aria-label="{html.escape(describe(plot), quote=True)}">'
        f'{_axes(x, y)}{curves}<path class="cursor" d=""/></svg>'
    )


class Final(NamedTuple):
    """What one group came to in one metric."""

    label: str
    place: int
    values: np.ndarray
    """[S] of each seed; finite."""
    mean: float
    low: float
    """Of the 95% interval; the mean's own where there is one seed."""
    high: float


def final_svg(name: str, rows: Sequence[Final]) -> str:
    """Draw a row for each group: its seeds, their mean, and the mean's 95% interval.

    Names stand beside their rows, or above them where one of them is long.
    """
    above = max(len(row.label) for row in rows) > BESIDE
    pitch, left = (ROW + 12, 12.0) if above else (ROW, 124.0)
    height = TOP + pitch * len(rows) + BOTTOM
    low = min(min(row.low, float(row.values.min())) for row in rows)
    high = max(max(row.high, float(row.values.max())) for row in rows)
    x = Scale(*widened(low, high), left, WIDTH - RIGHT)
    parts = []
    for tick in nice_ticks(x.low, x.high):
        at = x(tick)
        parts.append(f'<path class="grid" d="M{at:.1f},{TOP}V{height - BOTTOM:.0f}"/>')
        parts.append(f'<text x="{at:.1f}" y="{height - 8}" class="mid">{number(tick)}</text>')
    for index, row in enumerate(rows):
        middle = TOP + pitch * (index + 1) - ROW / 2
        colour = f"c{row.place % COLOURS}"
        shown = row.label if len(row.label) <= LONGEST else row.label[: LONGEST - 1] + "…"
        name_of = f"{html.escape(shown)}<title>{html.escape(row.label)}</title>"
        where = (
            f'x="{left}" y="{middle - 12:.1f}"'
            if above
            else (f'x="{left - 8}" y="{middle + 3.5:.1f}" class="end"')
        )
        parts.append(f"<text {where}>{name_of}</text>")
        seeds, (start, end, mean) = x(row.values), x(np.array([row.low, row.high, row.mean]))
        parts += [
            f'<circle class="seed {colour}" cx="{at:.1f}" cy="{middle:.1f}" r="2.5"/>'
            for at in seeds
        ]
        if row.high > row.low:
            parts.append(f'<path class="line {colour}" d="M{start:.1f},{middle}H{end:.1f}"/>')
        parts.append(
            f'<path class="mean {colour}" d="M{mean:.1f},{middle - 5:.1f}l5,5l-5,5l-5,-5Z"/>'
        )
    said = "; ".join(
        f"{row.label}: {number(row.mean)} ({number(row.low)} to {number(row.high)})" for row in rows
    )
    return (
        f'<svg viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img" '
        f'aria-label="{html.escape(f"{name}: {said}", quote=True)}">{"".join(parts)}</svg>'
    )
