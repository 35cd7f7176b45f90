"""Curves of few points: means within bins and over seeds, intervals, and what is left out."""

import numpy as np
import pytest

from rljax.reporting.curves import (
    POINTS,
    binned,
    curve_of,
    make_plot,
    make_sections,
    seed_interval,
)
from rljax.reporting.groups import Group
from rljax.reporting.runs import RunRecord, Series
from rljax.reporting.statistics import bootstrap_mean


def run_of(**metrics) -> RunRecord:
    """A run of {tag: values at steps 1, 2, ...} or {tag: (steps, values)}."""
    made = {}
    for tag, values in metrics.items():
        steps, numbers = (
            values if isinstance(values, tuple) else (range(1, len(values) + 1), values)
        )
        made[tag] = Series(np.array(steps, np.int64), np.array(numbers, np.float64))
    return RunRecord(None, {}, made, {})


def test_a_short_run_is_drawn_as_it_is():
    curve = curve_of(Group("a", (run_of(x=[1.0, np.nan, 3.0]),)), 2, "x")
    assert curve.steps.tolist() == [1, 3] and curve.mean.tolist() == [1, 3]
    assert (curve.band, curve.place, curve.label) == ("none", 2, "a")


def test_a_long_run_is_averaged_within_bins_and_its_range_kept():
    values = np.arange(10_000.0)
    curve = curve_of(Group("a", (run_of(x=values),)), 0, "x")
    assert len(curve.steps) == POINTS and curve.band == "range"
    np.testing.assert_allclose(curve.mean, values.reshape(POINTS, -1).mean(axis=1))
    np.testing.assert_allclose(curve.low, values.reshape(POINTS, -1).min(axis=1))
    np.testing.assert_allclose(curve.high, values.reshape(POINTS, -1).max(axis=1))
    np.testing.assert_allclose(curve.steps, curve.mean + 1)  # the middle of the bin


def test_bins_without_a_finite_value_are_left_out():
    series = Series(np.array([1, 2, 5]), np.array([1.0, np.inf, 4.0]))
    mean, low, high = binned(series, np.array([1.0, 2.0, 3.0, 6.0]))
    assert mean[0] == low[0] == 1 and np.isnan([mean[1], low[1], high[1]]).all() and mean[2] == 4


def test_seeds_give_a_mean_and_its_bootstrap_interval():
    """Of three seeds one resample in 27 is the least one thrice: more than 2.5%."""
    values = np.array([[0.0, 1.0], [3.0, 1.0], [9.0, 1.0]])
    mean, low, high = seed_interval(values)
    assert mean.tolist() == [4, 1] and low.tolist() == [0, 1] and high.tolist() == [9, 1]
    many = np.random.default_rng(0).normal(size=(8, 1))
    (mean,), (low,), (high,) = seed_interval(many)
    assert (mean, low, high) == pytest.approx(bootstrap_mean(many[:, 0]), abs=0.06)


def test_a_seed_that_ends_earlier_is_left_out_where_it_has_nothing():
    runs = (run_of(x=[1.0, 1.0, 1.0]), run_of(x=[3.0]))
    curve = curve_of(Group("a", runs), 0, "x")
    assert curve.steps.tolist() == [1, 2, 3] and curve.mean.tolist() == [2, 1, 1]
    assert (curve.low[0], curve.high[0], curve.band) == (1, 3, "seeds")


def test_what_is_not_finite_is_counted():
    groups = [Group("a", (run_of(x=[1.0, np.inf, np.nan]),)), Group("b", (run_of(y=[1.0]),))]
    plot = make_plot(groups, "x")
    assert plot.left_out == 2 and [curve.label for curve in plot.curves] == ["a"]
    assert make_plot([Group("a", (run_of(x=[np.nan]),))], "x") is None


def test_what_is_asked_first_comes_first():
    tags = ("time/a_s", "value/loss", "health/gap", "objective/kl", "objective/scores", "alone")
    sections = make_sections([Group("a", (run_of(**dict.fromkeys(tags, [1.0])),))])
    found = [(s.title, [plot.tag for plot in s.plots], s.is_open) for s in sections]
    assert found == [
        ("Main curves", ["objective/scores", "objective/kl"], True),
        ("Health", ["health/gap"], True),
        ("other", ["alone"], False),
        ("time", ["time/a_s"], False),
        ("value", ["value/loss"], False),
    ]


def test_a_program_with_tags_of_its_own_has_main_curves():
    (first, *_) = make_sections([Group("a", (run_of(gap=[1.0], **{"time/a_s": [1.0]}),))])
    assert first.title == "Main curves" and [plot.tag for plot in first.plots] == ["gap"]
