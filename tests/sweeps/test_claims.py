"""Verdicts on tables whose answer is plain, and on each side of every boundary."""

import math

import numpy as np
import pytest

from rljax.errors import UserError
from rljax.sweeps.claims import Claim, Table, decide, judge

SEEDS = (0, 1, 2, 3, 4)
HARD = np.asarray([0.1, 0.9, 0.3, 0.7, 0.5])  # what a seed does to all arms


def table(**arms):
    return Table({"score": {name: np.asarray(v, float) for name, v in arms.items()}}, SEEDS)


WORLD = table(low=HARD, high=HARD + 0.05, other=HARD[::-1] + 0.05, same=HARD)


def verdict(left, relation, right, **more):
    return judge(Claim("c", "score", left, relation, right, **more), WORLD).verdict


@pytest.mark.parametrize(
    ("relation", "low", "high", "margin", "expected"),
    [
        (">", 0.1, 0.3, 0.0, "reproduced"),
        (">", -0.1, 0.5, 0.0, "undecided"),
        (">", -0.5, 0.1, 0.0, "not reproduced"),
        (">", -0.3, -0.1, 0.0, "reversed"),
        (">", -0.1, 0.5, 0.2, "reproduced"),
        (">", 0.1, 0.3, -0.2, "not reproduced"),  # a demand of 0.2, and the mean is just that
        ("<", -0.3, -0.1, 0.0, "reproduced"),
        ("<", 0.1, 0.3, 0.0, "reversed"),
        ("<", -0.1, 0.5, 0.0, "not reproduced"),
        (">=", -0.1, 0.5, 0.0, "reproduced"),
        (">=", -0.5, 0.1, 0.0, "not reproduced"),
        (">=", -0.5, 0.1, 0.25, "reproduced"),
        (">=", -0.5, -0.1, 0.0, "reversed"),
        ("<=", 0.1, 0.5, 0.0, "reversed"),
        ("<=", 0.1, 0.5, 0.4, "reproduced"),
        ("within", -0.1, 0.1, 0.2, "reproduced"),
        ("within", -0.1, 0.3, 0.2, "undecided"),
        ("within", 0.1, 0.5, 0.2, "not reproduced"),
        ("equal", -0.1, 0.3, 0.0, "reproduced"),
        ("equal", 0.1, 0.3, 0.0, "not reproduced"),
        ("equal", 0.1, 0.3, 0.1, "reproduced"),
    ],
)
def test_each_relation_on_each_side(relation, low, high, margin, expected):
    assert decide(relation, (low + high) / 2, low, high, margin) == expected


def test_seeds_are_compared_one_by_one():
    found = judge(Claim("c", "score", "high", ">", "low"), WORLD)
    assert found.verdict == "reproduced"
    assert found.difference == pytest.approx(0.05)
    assert found.low == pytest.approx(0.05) and found.high == pytest.approx(0.05)
    # 15 of 25 pairs are above, none is equal
    assert found.improvement == pytest.approx(15 / 25)


def test_without_pairs_what_seeds_have_in_common_stays_in():
    assert verdict("high", ">", "low", paired=False) == "undecided"
    assert verdict("other", ">", "low") == "undecided"  # the same numbers of other seeds


def test_numbers_and_functions_are_sides_too():
    assert verdict("low", "<", 1.0) == "reproduced"
    assert verdict("low", ">", 1.0) == "reversed"
    half = judge(
        Claim("c", "score", lambda t: t.of("score", "high") / t.of("score", "low"), ">", 1.0), WORLD
    )
    assert half.verdict == "reproduced"
    assert half.left == pytest.approx(np.mean((HARD + 0.05) / HARD))
    mean_only = judge(Claim("c", "score", lambda t: t.of("score", "low").mean(), ">", 0.4), WORLD)
    assert mean_only.verdict == "reproduced" and mean_only.low == mean_only.high


def test_margins_in_standard_errors():
    found = judge(Claim("c", "score", "low", ">=", 0.6, margin_se=1.0), WORLD)
    assert found.margin == pytest.approx(np.std(HARD, ddof=1) / np.sqrt(5))
    assert found.verdict == "reproduced"
    assert verdict("low", ">=", 0.6) == "not reproduced"


def test_missing_runs_and_single_seeds_decide_nothing():
    holes = table(low=HARD, high=[*HARD[:4] + 1, math.nan])
    found = judge(Claim("c", "score", "high", ">", "low"), holes)
    assert (found.verdict, found.note) == ("undecided", "1 values are missing or not finite")
    one = Table({"score": {"a": np.asarray([2.0]), "b": np.asarray([1.0])}}, (0,))
    found = judge(Claim("c", "score", "a", ">", "b"), one)
    assert found.verdict == "undecided" and "one seed" in found.note


def test_mistakes_are_named():
    with pytest.raises(UserError, match="no arm 'lowest'; there are low, high"):
        verdict("lowest", ">", "low")
    with pytest.raises(UserError, match="not one per seed"):
        verdict(lambda t: np.zeros((2, 2)), ">", "low")
    with pytest.raises(ValueError, match="relation is '=='"):
        Claim("c", "score", "low", "==", "high")
    with pytest.raises(ValueError, match="'within' needs margin"):
        Claim("c", "score", "low", "within", "high")
