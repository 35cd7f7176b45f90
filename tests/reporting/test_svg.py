"""Pictures: points where they belong, round ticks, lines that differ in more than colour."""

import re

import numpy as np
import pytest

from rljax.reporting.curves import Curve, Plot
from rljax.reporting.svg import (
    BOTTOM,
    COLOURS,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Final,
    final_svg,
    nice_ticks,
    plot_svg,
    style_of,
    widened,
)


def curve(mean, place=0, steps=None):
    values = np.array(mean, float)
    steps = np.arange(1.0, len(values) + 1) if steps is None else np.array(steps, float)
    return Curve(f"g{place}", place, steps, values, values - 1, values + 1, "seeds")


def test_points_can_be_read_back_from_the_picture():
    text = plot_svg(Plot("x", (curve([0.0, 5.0, 2.0]), curve([1.0, 1.0, 1.0], 1)), 0))
    x, y = (
        [float(v) for v in re.search(rf'data-{axis}="([^"]*)"', text)[1].split(",")]
        for axis in "xy"
    )
    path = re.search(r'data-name="g0" d="M([^"]*)"', text)[1]
    points = np.array([[float(v) for v in pair.split(",")] for pair in path.split("L")])
    assert points[0][0] == LEFT and points[-1][0] == WIDTH - RIGHT
    assert np.all(points[:, 1] > TOP) and np.all(points[:, 1] < HEIGHT - BOTTOM)
    for (low, high, start, end), pixels, wanted in (
        (x, points[:, 0], [1, 2, 3]),
        (y, points[:, 1], [0, 5, 2]),
    ):
        back = low + (pixels - start) / (end - start) * (high - low)
        assert back == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-0.013, 0.0021), (3, 10_000), (1e-9, 2e-9), (-5e6, 7e6)]
)
def test_ticks_are_round_and_within(low, high):
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 6 and ticks == sorted(ticks)
    assert all(low - 1e-12 <= tick <= high + 1e-12 for tick in ticks)
    step = ticks[1] - ticks[0]
    leading = step / 10 ** np.floor(np.log10(step) + 1e-9)
    assert min(abs(leading - n) for n in (1, 2, 5, 10)) < 1e-6


def test_a_level_curve_has_room():
    assert widened(2.0, 2.0) == (1.8, 2.2) and widened(0.0, 0.0) == (-1, 1)
    assert "nan" not in plot_svg(Plot("x", (curve([1.0]),), 0))


def test_lines_differ_without_colour():
    dashes = [re.search('stroke-dasharray="([^"]*)"', style_of(place)) for place in range(4)]
    assert dashes[0] is None and len({dash[1] for dash in dashes[1:]}) == 3
    assert len({style_of(place) for place in range(3 * COLOURS)}) == 3 * COLOURS


def test_names_and_descriptions_are_escaped():
    made = curve([1.0, 2.0])._replace(label='"><script>')
    text = plot_svg(Plot("a<b", (made,), 0))
    assert (
        "<script" not in text and "a&lt;b by training step: &quot;&gt;&lt;script&gt; ends" in text
    )
    row = Final('<i>"', 0, np.array([1.0]), 1.0, 1.0, 1.0)
    long = row._replace(label="n" * 80)
    assert "n" * 53 + "…" in final_svg("u", [long]) and 'class="end"' not in final_svg("u", [long])
    assert "<i>" not in final_svg("<u>", [row]) and "<u>" not in final_svg("<u>", [row])
