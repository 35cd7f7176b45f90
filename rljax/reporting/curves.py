"""Curves for plots: few points each, with an interval over seeds.

S seeds, N points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from rljax.reporting.groups import Group
from rljax.reporting.runs import Series

POINTS = 200
"""Points of a curve; longer ones are averaged within as many bins of steps."""
RESAMPLES = 1000
MAIN = (
    "eval/scores", "objective/scores", "eval/kl", "objective/kl", "completion/length",
    "objective/entropy", "train/loss", "eval/loss", "eval/perplexity",
)  # fmt: skip
"""What a reader asks for first, in this order."""
HEALTH = (
    "policy/approx_kl", "policy/clip_fraction", "policy/ratio_max", "value/explained_variance",
    "optim/grad_norm", "completion/eos_fraction", "completion/truncated_fraction",
    "objective/kl_coef",
)  # fmt: skip
"""What tells of trouble, besides health/*."""

Band = Literal["seeds", "range", "none"]


class Curve(NamedTuple):
    """One group's line of one metric."""

    label: str
    place: int
    """Of its group among all, which is its colour."""
    steps: np.ndarray
    """[N] float64, increasing: the middle of each bin."""
    mean: np.ndarray
    """[N] over seeds, and over what was measured within a bin; never NaN."""
    low: np.ndarray
    """[N]."""
    high: np.ndarray
    """[N]."""
    band: Band
    """What low and high are: a 95% bootstrap interval of the mean over seeds; the range within a
    bin of a single run; or the mean itself."""


class Plot(NamedTuple):
    """All groups' curves of one metric."""

    tag: str
    curves: tuple[Curve, ...]
    left_out: int
    """Values that were NaN or infinite."""


def bin_edges(series: Sequence[Series], points: int = POINTS) -> np.ndarray | None:
    """Return the edges of `points` bins of steps; None where no series has more points than that.

    Seeds whose steps differ (one evaluated at other steps) are binned as well.
    """
    steps = [one.steps for one in series]
    alike = all(np.array_equal(one, steps[0]) for one in steps)
    every = np.unique(np.concatenate(steps))
    if every.size <= points and (alike or len(steps) == 1):
        return None
    if every.size <= points:
        return np.append(every, every[-1] + 1).astype(np.float64)
    return np.linspace(every[0], every[-1] + 1, points + 1)


def binned(series: Series, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean, least and greatest finite value in each bin, NaN where there is none."""
    good = np.isfinite(series.values)
    steps, values = series.steps[good], series.values[good]
    places = np.searchsorted(edges, steps, side="right") - 1
    count = np.bincount(places, minlength=edges.size - 1)
    total = np.bincount(places, weights=values, minlength=edges.size - 1)
    low, high = np.full(count.size, np.inf), np.full(count.size, -np.inf)
    np.minimum.at(low, places, values)
    np.maximum.at(high, places, values)
    empty = count == 0
    mean = np.where(empty, np.nan, total / np.maximum(count, 1))
    return mean, np.where(empty, np.nan, low), np.where(empty, np.nan, high)


def seed_interval(values: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean over seeds [S, N] and its 95% percentile bootstrap interval, point by point.

    The same seeds are drawn at all points. NaN, a seed that ends earlier, is left out.
    """
    known = np.isfinite(values)
    filled = np.where(known, values, 0)
    draws = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    weights = np.zeros((RESAMPLES, len(values)))
    np.add.at(weights, (np.arange(RESAMPLES)[:, None], draws), 1)
    count = weights @ known
    means = np.where(count > 0, weights @ filled / np.maximum(count, 1), np.nan)
    bounds = np.empty((2, values.shape[1]))
    whole = np.isfinite(means).all(axis=0)  # nanquantile goes point by point, slowly
    bounds[:, whole] = np.quantile(means[:, whole], [0.025, 0.975], axis=0)
    if not whole.all():
        bounds[:, ~whole] = np.nanquantile(means[:, ~whole], [0.025, 0.975], axis=0)
    low, high = bounds
    return filled.sum(axis=0) / known.sum(axis=0), low, high


def curve_of(group: Group, place: int, tag: str) -> Curve | None:
    """Make a group's curve of a metric; None where no run has a finite value of it."""
    series = [run.metrics[tag] for run in group.runs if tag in run.metrics]
    if not any(np.isfinite(one.values).any() for one in series):
        return None
    edges = bin_edges(series)
    if edges is None:
        steps = series[0].steps.astype(np.float64)
        means = np.stack([np.where(np.isfinite(x.values), x.values, np.nan) for x in series])
        lows, highs = means, means
    else:
        widths = edges[1:] - edges[:-1]
        steps = edges[:-1] + np.where(widths > 1, (widths - 1) / 2, 0)
        parts = [binned(one, edges) for one in series]
        means, lows, highs = (np.stack(arrays) for arrays in zip(*parts, strict=True))
    there = np.isfinite(means).any(axis=0)
    steps, means, lows, highs = steps[there], means[:, there], lows[:, there], highs[:, there]
    if len(series) > 1:
        mean, low, high = seed_interval(means)
        return Curve(group.label, place, steps, mean, low, high, "seeds")
    band: Band = "range" if (highs > lows).any() else "none"
    return Curve(group.label, place, steps, means[0], lows[0], highs[0], band)


def make_plot(groups: Sequence[Group], tag: str) -> Plot | None:
    """Make the curves of a metric; None where no run has a finite value of it."""
    curves = [curve_of(group, place, tag) for place, group in enumerate(groups)]
    odd = sum(
        int(np.sum(~np.isfinite(run.metrics[tag].values)))
        for group in groups
        for run in group.runs
        if tag in run.metrics
    )
    kept = tuple(curve for curve in curves if curve is not None)
    return Plot(tag, kept, odd) if kept else None


class Section(NamedTuple):
    """Plots that stand together."""

    title: str
    plots: tuple[Plot, ...]
    is_open: bool


def make_sections(groups: Sequence[Group], first: Sequence[str] = ()) -> list[Section]:
    """Sort all metrics of all runs into sections: what is asked first, health, and the rest.

    first: tags that stand before `MAIN`, such as those a sweep compares.
    """
    tags = dict.fromkeys(tag for group in groups for run in group.runs for tag in run.metrics)
    main = [tag for tag in dict.fromkeys((*first, *MAIN)) if tag in tags]
    health = [tag for tag in tags if tag.startswith("health/") or tag in HEALTH]
    health = [tag for tag in health if tag not in main]
    if not main:  # a program of its own, with tags of its own
        main = [tag for tag in tags if tag not in health and not tag.startswith(("time/", "perf/"))]
        main = main[:12]
    rest: dict[str, list[str]] = {}
    for tag in sorted(tags):
        if tag not in main and tag not in health:
            rest.setdefault(tag.partition("/")[0] if "/" in tag else "other", []).append(tag)
    made = []
    for title, names, is_open in (
        ("Main curves", main, True),
        ("Health", health, True),
        *((title, names, False) for title, names in rest.items()),
    ):
        plots = tuple(plot for plot in (make_plot(groups, tag) for tag in names) if plot)
        if plots:
            made.append(Section(title, plots, is_open))
    return made
