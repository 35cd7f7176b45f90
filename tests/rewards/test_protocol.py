"""Rewards: what is accepted from them, and every way in which scores can be unusable."""

import jax.numpy as jnp
import numpy as np
import pytest

from rljax.rewards import RewardError, judge_texts
from rljax.rewards.protocol import accepted_columns, show_failure

PROMPTS, COMPLETIONS = ["p0", "p1"], ["c0", "the bad one"]


def judge(scores):
    return judge_texts(lambda prompts, completions: scores, PROMPTS, COMPLETIONS)


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
    judged = judge(scores)
    assert judged.scores.dtype == np.float32 and not judged.failures
    np.testing.assert_allclose(judged.scores, [0.7, -1.0], rtol=1e-6)


def test_bools_count_as_zero_and_one():
    np.testing.assert_array_equal(judge([True, np.bool_(False)]).scores, [1.0, 0.0])


@pytest.mark.parametrize(
    "bad",
    [None, float("nan"), float("inf"), -float("inf"), 1e39, "0.7", [0.7], 1j, np.array([0.7])],
)
def test_a_bad_score_costs_its_completion(bad):
    judged = judge([0.5, bad])
    np.testing.assert_array_equal(judged.scores, np.float32([0.5, np.nan]))
    np.testing.assert_array_equal(judged.judged, [0.5])
    (failure,) = judged.failures
    assert failure.row == 1 and failure.reason.startswith("the score is ")
    shown = show_failure(judged, PROMPTS, COMPLETIONS)
    assert "'p1'" in shown and "'the bad one'" in shown and failure.reason in shown


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
        judge(scores)


def test_long_texts_are_cut_in_messages():
    judged = judge_texts(lambda prompts, completions: [None], ["x" * 5000], ["line\nbreak"])
    shown = show_failure(judged, ["x" * 5000], ["line\nbreak"])
    assert len(shown) < 500
    assert r"line\nbreak" in shown


def test_columns_go_to_the_rewards_that_take_them():
    columns = {"answer": ["a", "b"], "level": [1, 2]}

    def all_columns(prompts, completions, **columns):
        return [float(len(columns))] * 2

    def one_column(prompts, completions, answer):
        return [float(a == "b") for a in answer]

    def none(prompts, completions):
        return [float(p == "p1") for p in prompts]

    for reward, expected in ((all_columns, [2, 2]), (one_column, [0, 1]), (none, [0, 1])):
        judged = judge_texts(reward, PROMPTS, COMPLETIONS, columns)
        np.testing.assert_array_equal(judged.scores, expected)


def test_a_reward_that_does_not_fit_says_how_it_is_called():
    with pytest.raises(RewardError, match=r"answer.*called as[\s\S]*\['level'\]"):
        accepted_columns(lambda prompts, completions, answer: [], ["level"])
    with pytest.raises(RewardError, match="too many positional"):
        accepted_columns(lambda completions: [], [])


@pytest.mark.parametrize("lazy", [False, True])
def test_where_a_batch_raises_each_completion_is_judged_alone(lazy):
    calls = []

    def reward(prompts, completions, answer):
        calls.append(list(completions))
        scores = (1 / a for a in answer)
        return scores if lazy else list(scores)

    judged = judge_texts(reward, ["p"] * 3, ["a", "b", "c"], {"answer": [1, 0, 2]})
    np.testing.assert_array_equal(judged.scores, [1.0, np.nan, 0.5])
    (failure,) = judged.failures
    assert failure.row == 1 and failure.reason.startswith("ZeroDivisionError: division by zero (")
    assert calls == [["a", "b", "c"], ["a"], ["b"], ["c"]]
