"""Rewards: what is accepted from them, and every way in which scores can be unusable."""

import jax.numpy as jnp
import numpy as np
import pytest

from rljax.rewards import RewardError, check_scores, score_texts
from rljax.rewards.protocol import accepted_columns

PROMPTS, COMPLETIONS = ["p0", "p1"], ["c0", "the bad one"]


@pytest.mark.parametrize(
    "scores",
    [
        [0.7, -1],
        (0.7, -1.0),
        np.array([0.7, -1.0]),
        jnp.array([0.7, -1.0]),
        [np.float32(0.7), np.int64(-1)],
        [jnp.float32(0.7), np.array(-1)],
        (x for x in (0.7, -1.0)),
    ],
)
def test_numbers_of_any_kind_become_float32(scores):
    checked = check_scores(scores, PROMPTS, COMPLETIONS)
    assert checked.dtype == np.float32
    np.testing.assert_allclose(checked, [0.7, -1.0], rtol=1e-6)


def test_bools_count_as_zero_and_one():
    checked = check_scores([True, np.bool_(False)], PROMPTS, COMPLETIONS)
    np.testing.assert_array_equal(checked, [1.0, 0.0])


@pytest.mark.parametrize(
    "bad",
    [None, float("nan"), float("inf"), -float("inf"), 1e39, "0.7", [0.7], 1j, np.array([0.7])],
)
def test_a_bad_score_is_named_with_its_text(bad):
    with pytest.raises(RewardError, match="score 1 of 2") as caught:
        check_scores([0.5, bad], PROMPTS, COMPLETIONS)
    assert "'p1'" in str(caught.value)
    assert "'the bad one'" in str(caught.value)


@pytest.mark.parametrize(
    ("scores", "problem"),
    [
        ([0.5], "1 scores for 2"),
        ([], "0 scores"),
        (0.5, "float"),
        (None, "NoneType"),
        ("ab", "str"),
    ],
)
def test_a_wrong_count_or_type_is_an_error(scores, problem):
    with pytest.raises(RewardError, match=problem):
        check_scores(scores, PROMPTS, COMPLETIONS)


def test_long_texts_are_cut_in_messages():
    with pytest.raises(RewardError) as caught:
        check_scores([None], ["x" * 5000], ["line\nbreak"])
    assert len(str(caught.value)) < 500
    assert r"line\nbreak" in str(caught.value)


def test_columns_go_to_the_rewards_that_take_them():
    columns = {"answer": ["a", "b"], "level": [1, 2]}

    def all_columns(prompts, completions, **columns):
        return [float(len(columns))] * 2

    def one_column(prompts, completions, answer):
        return [float(a == "b") for a in answer]

    def none(prompts, completions):
        return [float(p == "p1") for p in prompts]

    for reward, expected in ((all_columns, [2, 2]), (one_column, [0, 1]), (none, [0, 1])):
        np.testing.assert_array_equal(score_texts(reward, PROMPTS, COMPLETIONS, columns), expected)


def test_a_reward_that_does_not_fit_says_how_it_is_called():
    with pytest.raises(RewardError, match=r"answer.*called as[\s\S]*\['level'\]"):
        accepted_columns(lambda prompts, completions, answer: [], ["level"])
    with pytest.raises(RewardError, match="too many positional"):
        accepted_columns(lambda completions: [], [])


def test_errors_inside_a_reward_come_through():
    def broken(prompts, completions):
        return 1 / 0

    with pytest.raises(ZeroDivisionError):
        score_texts(broken, PROMPTS, COMPLETIONS)
