"""Claims that are written down before a sweep runs, and what became of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from rljax.errors import UserError
from rljax.reporting.statistics import (
    bootstrap_difference,
    bootstrap_mean,
    probability_of_improvement,
    standard_error_of_difference,
)

Verdict = Literal["reproduced", "not reproduced", "reversed", "undecided"]
Relation = Literal[">", "<", ">=", "<=", "within", "equal"]
RELATIONS = (">", "<", ">=", "<=", "within", "equal")


@dataclasses.dataclass(frozen=True)
class Table:
    """What every run of a sweep came to."""

    values: Mapping[str, Mapping[str, np.ndarray]]
    """{metric: {arm: [S]}}, NaN where a run has no value or is missing."""
    seeds: tuple[int, ...]

    def of(self, metric: str, arm: str) -> np.ndarray:
        """Return the values [S] of an arm, in the order of the seeds.

        Raises UserError for a metric or an arm that there is not.
        """
        if metric not in self.values:
            raise UserError(f"there is no metric {metric!r}; there are {', '.join(self.values)}")
        if arm not in self.values[metric]:
            raise UserError(f"there is no arm {arm!r}; there are {', '.join(self.values[metric])}")
        return self.values[metric][arm]


Side = str | float | Callable[[Table], Any]
"""An arm's name, a number, or a function of the table that returns a number or one per seed [S]."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """An inequality of a metric's means over seeds: `left relation right`.

    D is left - right, with a 95% bootstrap interval over seeds, and m the margin.

    ">", "<"    reproduced where the whole interval is beyond the bound (D > -m, D < m); reversed
                where none of it is; between the two, undecided where the mean is beyond, else not
                reproduced.
    ">=", "<="  of the means: reproduced where D >= -m (D <= m), reversed where the whole interval
                is on the other side, else not reproduced.
    "within"    |D| <= m: reproduced where the whole interval is, undecided where only the mean is.
    "equal"     no difference was found: the interval and [-m, m] meet. Else not reproduced.

    A claim for which a run is missing, or has no finite value, is undecided.
    """

    text: str
    """What the paper says, in a sentence."""
    metric: str
    left: Side
    relation: Relation
    right: Side
    margin: float = 0.0
    """What is allowed, in units of the metric; negative: demanded."""
    margin_se: float = 0.0
    """The same in standard errors of D, added to the other."""
    paired: bool = True
    """Compare seed by seed, where both sides have a value for each seed."""

    def __post_init__(self) -> None:
        if self.relation not in RELATIONS:
            raise ValueError(
                f"claim {self.text!r}: relation is {self.relation!r}; it must be one of "
                f"{', '.join(RELATIONS)}"
            )
        if self.relation == "within" and not (self.margin > 0 or self.margin_se > 0):
            raise ValueError(f"claim {self.text!r}: 'within' needs margin or margin_se above 0")

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that are named on its sides."""
        return tuple(side for side in (self.left, self.right) if isinstance(side, str))


class Judged(NamedTuple):
    """What became of a claim."""

    verdict: Verdict
    left: float
    """Mean over seeds, NaN where there is none; and so of the others."""
    right: float
    difference: float
    low: float
    """95% interval of the difference."""
    high: float
    margin: float
    """In units of the metric, standard errors included."""
    improvement: float
    """Probability that a run of the left is above one of the right; NaN for a side without runs."""
    note: str
    """Why it is undecided, or empty."""


def judge(claim: Claim, table: Table) -> Judged:
    """Compare the two sides of a claim.

    Raises UserError for an arm or a metric that there is not, or a side that is no number.
    """
    sides = [_side(claim, side, table) for side in (claim.left, claim.right)]
    left, right = sides
    mean_left, mean_right = float(np.mean(left)), float(np.mean(right))
    difference = mean_left - mean_right
    missing = sum(int(np.sum(~np.isfinite(side))) for side in sides)
    nan = math.nan
    if missing:
        note = f"{missing} values are missing or not finite"
        return Judged("undecided", mean_left, mean_right, nan, nan, nan, nan, nan, note)
    paired = claim.paired and left.size == right.size
    error, improvement = 0.0, nan
    if left.ndim and right.ndim:
        _, low, high = bootstrap_difference(left, right, paired=paired)
        error = standard_error_of_difference(left, right, paired=paired)
        improvement = probability_of_improvement(left, right)
    elif left.ndim or right.ndim:
        differences = np.asarray(left - right)
        _, low, high = bootstrap_mean(differences)
        alone = differences.size < 2
        error = nan if alone else float(np.std(differences, ddof=1) / np.sqrt(differences.size))
    else:
        low = high = difference
    margin = claim.margin + (claim.margin_se * error if claim.margin_se else 0.0)
    runs = [side.size for side in sides if side.ndim]
    note = "of one seed: there is no interval" if runs and min(runs) < 2 else ""
    verdict: Verdict = (
        "undecided" if note else decide(claim.relation, difference, low, high, margin)
    )
    return Judged(verdict, mean_left, mean_right, difference, low, high, margin, improvement, note)


def _side(claim: Claim, side: Side, table: Table) -> np.ndarray:
    """Return the values of a side: [S], or a scalar."""
    if isinstance(side, str):
        return table.of(claim.metric, side)
    made = np.asarray(side(table) if callable(side) else side, np.float64)
    if made.ndim > 1 or not made.size:
        raise UserError(f"claim {claim.text!r}: a side is an array {made.shape}, not one per seed")
    return made


def decide(relation: Relation, difference: float, low: float, high: float, m: float) -> Verdict:
    """Say what a difference, its interval and a margin make of a relation; see `Claim`."""
    if relation in ("<", "<="):
        turned: Relation = ">" if relation == "<" else ">="
        return decide(turned, -difference, -high, -low, m)
    if relation == "equal":
        return "reproduced" if low <= m and high >= -m else "not reproduced"
    if relation == "within":
        if abs(difference) > m:
            return "not reproduced"
        return "reproduced" if -m <= low and high <= m else "undecided"
    if high < -m:
        return "reversed"
    if relation == ">=":
        return "reproduced" if difference >= -m else "not reproduced"
    if low > -m:
        return "reproduced"
    return "undecided" if difference > -m else "not reproduced"
