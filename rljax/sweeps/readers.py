"""Read one number out of what a run has measured: what a sweep compares.

A reader is any function of a run's record that returns a float; the ones here are frozen objects
that name the tag of metrics.jsonl they read. What describes the machine and not the run (`time/`,
`perf/`) is not the same twice, and a table with it is not either.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import numpy as np

from rljax.errors import UserError


class Series(Protocol):
    """The values of one tag, in the order of the steps."""

    @property
    def steps(self) -> Any:
        """[N] training steps done."""

    @property
    def values(self) -> Any:
        """[N] what was measured there."""


class Measured(Protocol):
    """What readers need of a run's record."""

    @property
    def metrics(self) -> Mapping[str, Any]:
        """A `Series` for each tag of metrics.jsonl."""


Reader = Callable[[Any], float]
"""Of a run's record."""
COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}


def _series(run: Measured, tag: str) -> tuple[np.ndarray, np.ndarray]:
    if tag not in run.metrics:
        group = tag.partition("/")[0]
        near = [name for name in run.metrics if name.startswith(f"{group}/")]
        there = ", ".join(near or list(run.metrics))
        raise UserError(f"the run has measured no {tag!r}; it has {there}")
    found = run.metrics[tag]
    return np.asarray(found.steps, np.int64), np.asarray(found.values, np.float64)


@dataclasses.dataclass(frozen=True)
class Last:
    """See `last`."""

    tag: str

    def __call__(self, run: Measured) -> float:
        return float(_series(run, self.tag)[1][-1])


@dataclasses.dataclass(frozen=True)
class MeanOfLast:
    """See `mean_of_last`."""

    tag: str
    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"mean_of_last: share is {self.share}; it must be in (0, 1]")

    def __call__(self, run: Measured) -> float:
        values = _series(run, self.tag)[1]
        count = max(round(len(values) * self.share), 1)
        return float(np.mean(values[-count:]))


@dataclasses.dataclass(frozen=True)
class LessKL:
    """See `less_kl`."""

    coef: float
    share: float
    kl: str

    def __call__(self, run: Measured) -> float:
        score = MeanOfLast("objective/scores", self.share)(run)
        return score - self.coef * MeanOfLast(self.kl, self.share)(run)


@dataclasses.dataclass(frozen=True)
class At:
    """See `at`."""

    tag: str
    step: int

    def __call__(self, run: Measured) -> float:
        steps, values = _series(run, self.tag)
        found = values[steps == self.step]
        if not len(found):
            raise UserError(f"{self.tag} has no value at step {self.step}; it has {steps.tolist()}")
        return float(found[-1])


@dataclasses.dataclass(frozen=True)
class Maximum:
    """See `maximum`."""

    tag: str

    def __call__(self, run: Measured) -> float:
        return float(np.max(_series(run, self.tag)[1]))


@dataclasses.dataclass(frozen=True)
class FirstStepWhere:
    """See `first_step_where`."""

    tag: str
    relation: Literal[">", "<", ">=", "<="]
    bound: float
    otherwise: float

    def __post_init__(self) -> None:
        if self.relation not in COMPARE:
            raise ValueError(
                f"first_step_where: relation is {self.relation!r}; it must be one of {[*COMPARE]}"
            )

    def __call__(self, run: Measured) -> float:
        steps, values = _series(run, self.tag)
        found = steps[COMPARE[self.relation](values, self.bound)]
        return float(found[0]) if len(found) else self.otherwise


def last(tag: str) -> Reader:
    """Read the last value of a tag, such as an evaluation's after training."""
    return Last(tag)


def mean_of_last(tag: str, share: float) -> Reader:
    """Read the mean of the last `share` of a tag's values, in (0, 1]; of one value at least."""
    return MeanOfLast(tag, share)


def less_kl(coef: float, share: float, kl: str = "objective/kl") -> Reader:
    """Read the score less coef KL, means of the last `share` of both: the score at one price."""
    return LessKL(coef, share, kl)


def at(tag: str, step: int) -> Reader:
    """Read the value of a tag at a step."""
    return At(tag, step)


def maximum(tag: str) -> Reader:
    """Read the largest value of a tag; NaN where one is NaN."""
    return Maximum(tag)


def first_step_where(
    tag: str,
    relation: Literal[">", "<", ">=", "<="],
    bound: float,
    otherwise: float = float("nan"),
) -> Reader:
    """Read the first step at which a tag is above (below) a bound.

    otherwise: of a run that never gets there, such as its steps plus one. NaN: it has no value, and
    claims about it are undecided.
    """
    return FirstStepWhere(tag, relation, bound, otherwise)
