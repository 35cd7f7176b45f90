"""Intervals with known answers, and texts whose variety is counted by hand."""

import numpy as np
import pytest

from rljax.reporting.statistics import (
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_paired_difference,
    distinct_n,
    interquartile_mean,
    most_common_words,
    probability_of_improvement,
    repetition_rate,
    standard_error_of_difference,
    stratified_bootstrap,
    text_statistics,
    words_of,
)


def test_interval_agrees_with_the_normal_one():
    values = np.random.default_rng(0).normal(2.0, 3.0, size=400)
    mean, low, high = bootstrap_mean(values)
    error = 1.96 * values.std() / 20
    assert mean == pytest.approx(values.mean())
    assert low == pytest.approx(mean - error, abs=0.03)
    assert high == pytest.approx(mean + error, abs=0.03)
    narrow = bootstrap_mean(values, confidence=0.5)
    assert low < narrow.low < narrow.high < high


def test_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        _, low, high = bootstrap_mean(rng.normal(size=50), num_resamples=500)
        covered += low <= 0 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_intervals_repeat_with_the_seed():
    values = [0.1, 0.5, 0.9, 0.2]
    assert bootstrap_mean(values) == bootstrap_mean(values)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)
    assert bootstrap_mean([0.3]) == (0.3, 0.3, 0.3)


def test_pairing_removes_what_prompts_have_in_common():
    rng = np.random.default_rng(0)
    before = rng.normal(scale=10.0, size=100)
    after = before + 0.3 + rng.normal(scale=0.1, size=100)
    difference = bootstrap_paired_difference(before, after)
    assert 0.25 < difference.low < 0.3 < difference.high < 0.35
    unpaired = bootstrap_mean(after)
    assert unpaired.low < before.mean() < unpaired.high


def test_missing_scores_are_left_out():
    some, all_ = [1.0, np.nan, 3.0, 4.0], [1.0, 3.0, 4.0]
    assert bootstrap_mean(some) == bootstrap_mean(all_)
    other = [2.0, 5.0, np.nan, 1.0]
    assert bootstrap_paired_difference(some, other) == bootstrap_mean([1.0, -3.0])


@pytest.mark.parametrize("bad", [[], [np.nan], [np.inf, 1.0], [[1.0]]])
def test_bad_values_raise(bad):
    with pytest.raises(ValueError, match="finite values"):
        bootstrap_mean(bad)


def test_bad_options_raise():
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_mean([1.0], confidence=1.0)
    with pytest.raises(ValueError, match="as many"):
        bootstrap_paired_difference([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="n >= 1"):
        distinct_n(["a"], 0)


def test_words():
    assert words_of("It's GOOD, isn't it? 10/10 -- 很好") == [
        "it's",
        "good",
        "isn't",
        "it",
        "10",
        "10",
        "很好",
    ]


def test_distinct_and_repetition_by_hand():
    texts = ["a b a b", "a c"]
    assert distinct_n(texts, 1) == pytest.approx(3 / 6)
    assert distinct_n(texts, 2) == pytest.approx(3 / 4)  # ab ba ab, ac
    assert repetition_rate(texts) == pytest.approx((0.5 + 0) / 2)
    assert repetition_rate(texts, 2) == pytest.approx((1 / 3 + 0) / 2)
    assert repetition_rate(["great " * 20]) == pytest.approx(0.95)
    assert distinct_n(["", "."], 1) == repetition_rate([]) == repetition_rate([""]) == 0.0


def test_common_words_count_texts_not_words():
    texts = ["great great great", "great day", "a day", "night"]
    assert most_common_words(texts, 2) == [("day", 0.5), ("great", 0.5)]
    assert most_common_words([]) == []


def test_summary():
    summary = text_statistics(["great great", "great great", "a fine day"])
    assert summary["different_texts"] == pytest.approx(2 / 3)
    assert summary["words"] == pytest.approx(7 / 3)
    assert summary["distinct_1"] == pytest.approx(4 / 7)
    assert summary["repetition"] == pytest.approx(1 / 3)
    assert text_statistics([])["words"] == 0.0


SCORES = np.asarray([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 100.0]])  # runs, tasks


def test_the_interquartile_mean_by_hand():
    # 8 scores, 2 cut from each end: 3, 4, 10, 20 are left
    assert interquartile_mean(SCORES) == pytest.approx(37 / 4)
    assert interquartile_mean([5.0, 1.0, 3.0]) == pytest.approx(3.0)
    assert interquartile_mean([0.0, 1.0, 2.0, 99.0]) == pytest.approx(1.5)
    with pytest.raises(ValueError, match="needs a score"):
        interquartile_mean([])


def test_the_probability_of_improvement_by_hand():
    # of 2 x 3 pairs: 2 > 1, 2 = 2, 2 < 3, 5 above all
    assert probability_of_improvement([2.0, 5.0], [1.0, 2.0, 3.0]) == pytest.approx(4.5 / 6)
    assert probability_of_improvement(SCORES, SCORES) == 0.5
    better = np.stack([SCORES[:, 0] + 10, SCORES[:, 1] - 1000], 1)  # wins one task, loses one
    assert probability_of_improvement(better, SCORES) == 0.5
    with pytest.raises(ValueError, match="2 tasks, right 1"):
        probability_of_improvement(SCORES, SCORES[:, :1])


def test_strata_are_never_mixed():
    # each task alone is constant: whatever is drawn, the mean is the same
    constant = np.asarray([[1.0, 100.0]] * 4)
    assert stratified_bootstrap([constant], np.mean) == (50.5, 50.5, 50.5)


def test_a_stratified_interval_has_the_width_that_theory_gives():
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(100, 4)) + np.asarray([0.0, 10.0, 20.0, 30.0])
    mean, low, high = stratified_bootstrap([scores], np.mean)
    error = 1.96 * np.sqrt(scores.var(axis=0).sum() / 100) / 4
    assert mean == pytest.approx(scores.mean())
    assert low == pytest.approx(mean - error, abs=0.02)
    assert high == pytest.approx(mean + error, abs=0.02)


def test_pairs_are_drawn_together():
    rng = np.random.default_rng(0)
    right = rng.normal(scale=10.0, size=20)
    paired = bootstrap_difference(right + 0.5, right, paired=True)
    assert paired == pytest.approx((0.5, 0.5, 0.5))
    apart = bootstrap_difference(right + 0.5, right, paired=False)
    assert apart.low < -3 and apart.high > 4
    with pytest.raises(ValueError, match="equal shapes"):
        bootstrap_difference([1.0, 2.0], [1.0], paired=True)


def test_standard_errors_by_hand():
    left, right = [1.0, 3.0], [0.0, 4.0]
    assert standard_error_of_difference(left, right, paired=True) == pytest.approx(1.0)
    # variances 2 and 8, halved
    assert standard_error_of_difference(left, right, paired=False) == pytest.approx(np.sqrt(5))
    assert np.isnan(standard_error_of_difference([1.0], [2.0], paired=True))


@pytest.mark.parametrize("scores", [[], [np.nan], [[[1.0]]]])
def test_scores_that_are_none_are_refused(scores):
    with pytest.raises(ValueError, match="need finite scores"):
        stratified_bootstrap([scores], np.mean)


@pytest.mark.parity
def test_aggregates_agree_with_rliable():
    metrics = pytest.importorskip("rliable.metrics")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(10, 3)), rng.normal(0.3, size=(8, 3))
    assert interquartile_mean(x) == pytest.approx(metrics.aggregate_iqm(x), abs=1e-12)
    theirs = metrics.probability_of_improvement(x, y)
    assert probability_of_improvement(x, y) == pytest.approx(theirs, abs=1e-12)
