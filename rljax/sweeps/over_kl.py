"""Draw the gold reward and the proxy of a sweep of over-optimisation over d = sqrt(KL).

    python -m rljax.sweeps.over_kl runs/overoptimisation gold_over_kl.svg

As in figure 1 of Gao et al. 2022 (https://arxiv.org/abs/2210.10760): PPO on the left, best of n in
the middle, PPO with a KL penalty on the right; gold rewards are lines, proxies are dotted. A line
is the mean over seeds, and goes as far as all of them do. Needs matplotlib (extra `report`).

S seeds, N points of a line.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from rljax.reporting.figures import PALETTE, STYLE
from rljax.reporting.runs import read_run
from rljax.sweeps.overoptimisation import evened

PANELS = {"PPO": "ppo_", "best of n": "bon_", "PPO, KL coefficient": "beta_"}
"""Titles, and what the names of a panel's arms begin with."""
POINTS = 60
LINES = {"curve/gold": "-", "curve/proxy": ":"}


def line_of(arm: Path, tag: str) -> tuple[np.ndarray, np.ndarray]:
    """Average a metric of an arm's runs over seeds: d [N] and values [N]."""
    curves = []
    for directory in sorted(arm.glob("seed*")):
        metrics = read_run(directory).metrics
        d, values = (np.asarray(metrics[name].values) for name in ("curve/distance", tag))
        curves.append(evened(d, values) if len(d) > 20 else (d, values))
    grid = np.linspace(0, min(float(d[-1]) for d, _ in curves), POINTS)
    return grid, np.mean([np.interp(grid, d, values) for d, values in curves], axis=0)


def draw(directory: Path, file: Path) -> None:
    """Draw the arms of a sweep's directory into a file, whose ending says in which form."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    arms = [*json.loads((directory / "results.json").read_text(encoding="utf-8"))["arms"]]
    with matplotlib.rc_context(STYLE):
        figure, grid = pyplot.subplots(
            1, len(PANELS), figsize=(3.1 * len(PANELS), 2.9), layout="constrained", sharey=True
        )
        for axes, (title, start) in zip(grid, PANELS.items(), strict=True):
            _panel(axes, directory, [arm for arm in arms if arm.startswith(start)], start)
            axes.set_title(title, fontsize=8.5)
            axes.set_xlabel("d = sqrt(KL)")
        grid[0].set_ylabel("reward: gold (line), proxy (dotted)")
        still: dict[str, Any] = {"metadata": {"Date": None}} if file.suffix == ".svg" else {}
        figure.savefig(file, **still)
        pyplot.close(figure)


def _panel(axes: Any, directory: Path, arms: list[str], start: str) -> None:
    for place, arm in enumerate(arms):
        for tag, style in LINES.items():
            d, values = line_of(directory / "cells" / arm, tag)
            label = arm.removeprefix(start).replace("_", " ") if style == "-" else None
            axes.plot(d, values, style, color=PALETTE[place % len(PALETTE)], lw=1.3, label=label)
    if arms:
        axes.legend(fontsize=7)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
