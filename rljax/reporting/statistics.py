"""Put intervals on mean scores, and measure how varied texts are (NumPy, seeded)."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES_AT_ONCE = 1000


class Interval(NamedTuple):
    """An estimate and its confidence interval."""

    mean: float
    low: float
    high: float


def bootstrap_mean(
    values: Sequence[float] | np.ndarray,
    *,
    confidence: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Estimate the mean of `values` [n] with a percentile bootstrap interval.

    NaN is a score that could not be had, and is left out. Efron and Tibshirani 1993, chapter 13.
    Raises ValueError where no value is left, for infinite values, or a confidence outside (0, 1).
    """
    sample = np.asarray(values, np.float64)
    sample = sample[~np.isnan(sample)] if sample.ndim == 1 else sample
    if sample.ndim != 1 or sample.size == 0 or not np.isfinite(sample).all():
        raise ValueError(f"need a list of finite values, got shape {sample.shape}: {sample}")
    if not 0 < confidence < 1 or num_resamples <= 0:
        raise ValueError(f"confidence not in (0, 1) or no resamples: {confidence} {num_resamples}")
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, num_resamples, RESAMPLES_AT_ONCE):
        count = min(RESAMPLES_AT_ONCE, num_resamples - start)
        means.append(sample[rng.integers(sample.size, size=(count, sample.size))].mean(axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Interval(float(sample.mean()), float(low), float(high))


def bootstrap_paired_difference(
    before: Sequence[float] | np.ndarray,
    after: Sequence[float] | np.ndarray,
    *,
    confidence: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Estimate mean(after - before) where both were measured on the same prompts, in order.

    Resamples prompts, not scores: what a prompt contributes to both sides cancels. A prompt with
    NaN on either side is left out. Raises ValueError for lists of different lengths, and as
    `bootstrap_mean` does.
    """
    if len(before) != len(after):
        raise ValueError(f"paired values must be as many: {len(before)} before, {len(after)} after")
    differences = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    return bootstrap_mean(
        differences, confidence=confidence, num_resamples=num_resamples, seed=seed
    )


def interquartile_mean(scores: Sequence[float] | np.ndarray) -> float:
    """Compute the mean of the middle half of all scores, of whatever shape.

    A quarter of them, rounded down, is cut from each end: of three scores none is cut, of four one.
    Agarwal et al. 2021 (https://arxiv.org/abs/2108.13264). Raises ValueError for no scores.
    """
    ordered = np.sort(np.asarray(scores, np.float64), axis=None)
    if not ordered.size:
        raise ValueError("the interquartile mean needs a score")
    cut = ordered.size // 4
    return float(ordered[cut : ordered.size - cut].mean())


def probability_of_improvement(
    left: Sequence[float] | np.ndarray, right: Sequence[float] | np.ndarray
) -> float:
    """Compute P(left > right) + P(left = right) / 2 of a run of each, drawn at random.

    left, right: [R] scores of runs, or [R, K] of runs on K tasks, whose probabilities are averaged;
    the number of runs may differ. The Mann-Whitney statistic; Agarwal et al. 2021, section 4.3.
    Raises ValueError for scores of other shapes, or none.
    """
    x, y = _runs_by_tasks(left), _runs_by_tasks(right)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"left has {x.shape[1]} tasks, right {y.shape[1]}")
    above = x[:, None] > y[None]
    equal = x[:, None] == y[None]
    return float((above + 0.5 * equal).mean())


def _runs_by_tasks(scores: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return scores as [R, K] finite floats, at least one."""
    array = np.asarray(scores, np.float64)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or not array.size or not np.isfinite(array).all():
        raise ValueError(f"need finite scores [runs] or [runs, tasks], got {np.asarray(scores)}")
    return array


def stratified_bootstrap(
    samples: Sequence[Sequence[float] | np.ndarray],
    statistic: Callable[..., float],
    *,
    paired: bool = False,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Estimate statistic(*samples) with a stratified percentile bootstrap interval.

    Runs are drawn with replacement within each task and within each sample, never across; `mean` of
    the answer is the statistic of what was measured. Agarwal et al. 2021, section 4.1. With few
    runs the interval is too narrow: of three its ends are the extremes.

    Args:
      samples: scores of one or more arms, each [R] or [R, K] of runs on K tasks.
      statistic: a function of as many arrays as samples, such as `interquartile_mean`.
      paired: row r of every sample is the same seed: draw the same rows of each.

    Raises:
      ValueError: no or infinite scores, pairs of different sizes, a confidence outside (0, 1).
    """
    arrays = [_runs_by_tasks(sample) for sample in samples]
    if not 0 < confidence < 1 or num_resamples <= 0 or not arrays:
        raise ValueError(f"confidence {confidence}, {num_resamples} resamples of {len(arrays)}")
    if paired and len({array.shape for array in arrays}) > 1:
        raise ValueError(f"pairs need equal shapes, got {[array.shape for array in arrays]}")
    rng = np.random.default_rng(seed)

    def draw(array: np.ndarray) -> np.ndarray:
        return rng.integers(array.shape[0], size=array.shape)

    drawn = np.empty(num_resamples)
    for number in range(num_resamples):
        rows = [draw(arrays[0])] * len(arrays) if paired else [draw(array) for array in arrays]
        resampled = [np.take_along_axis(a, r, 0) for a, r in zip(arrays, rows, strict=True)]
        drawn[number] = statistic(*resampled)
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(float(statistic(*arrays)), float(low), float(high))


def bootstrap_difference(
    left: Sequence[float] | np.ndarray,
    right: Sequence[float] | np.ndarray,
    *,
    paired: bool,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Estimate mean(left) - mean(right) of runs [R] or [R, K], with a stratified interval.

    paired: row r of both is the same seed. Raises as `stratified_bootstrap`.
    """
    return stratified_bootstrap(
        [left, right],
        # of pairs the difference first: what is the same in both then cancels exactly
        lambda x, y: float((x - y).mean() if paired else x.mean() - y.mean()),
        paired=paired,
        confidence=confidence,
        num_resamples=num_resamples,
        seed=seed,
    )


def standard_error_of_difference(
    left: Sequence[float] | np.ndarray, right: Sequence[float] | np.ndarray, *, paired: bool
) -> float:
    """Compute the standard error of mean(left) - mean(right), of [R] each (ddof 1).

    NaN where a side has a single run. Raises ValueError for pairs of different length.
    """
    x, y = np.asarray(left, np.float64), np.asarray(right, np.float64)
    if min(x.size, y.size) < 2:
        return float("nan")
    if paired:
        if x.shape != y.shape:
            raise ValueError(f"pairs need equal shapes, got {x.shape} and {y.shape}")
        return float(np.std(x - y, ddof=1) / np.sqrt(x.size))
    return float(np.sqrt(np.var(x, ddof=1) / x.size + np.var(y, ddof=1) / y.size))


def words_of(text: str) -> list[str]:
    """Split a text into lower-case words; punctuation is left out."""
    return re.findall(r"\w+(?:'\w+)*", text.lower())


def _ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    if n < 1:
        raise ValueError(f"n-grams need n >= 1, got {n}")
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Compute the share of different word n-grams among all n-grams of all texts, in [0, 1].

    Li et al. 2016 (https://arxiv.org/abs/1510.03055). 0 where there is no n-gram. It falls with the
    amount of text: compare equal numbers of texts of equal length.
    """
    grams = [gram for text in texts for gram in _ngrams(words_of(text), n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition_rate(texts: Sequence[str], n: int = 1) -> float:
    """Compute the mean share of a text's word n-grams that stood in the same text before.

    0: no text repeats itself; near 1: one phrase over and over. Texts without an n-gram count as 0;
    no texts give 0.
    """
    rates = []
    for text in texts:
        grams = _ngrams(words_of(text), n)
        rates.append(1 - len(set(grams)) / len(grams) if grams else 0.0)
    return float(np.mean(rates)) if rates else 0.0


def most_common_words(texts: Sequence[str], count: int = 10) -> list[tuple[str, float]]:
    """List the words that stand in most texts, with the share of texts that hold each."""
    holders = Counter(word for text in texts for word in set(words_of(text)))
    ranked = sorted(holders.items(), key=lambda item: (-item[1], item[0]))
    return [(word, held / len(texts)) for word, held in ranked[:count]]


def text_statistics(texts: Sequence[str]) -> dict[str, float]:
    """Summarise how varied texts are: distinct-1 and -2, repetition, words, different texts."""
    count = max(len(texts), 1)
    return {
        "distinct_1": distinct_n(texts, 1),
        "distinct_2": distinct_n(texts, 2),
        "repetition": repetition_rate(texts),
        "words": sum(len(words_of(text)) for text in texts) / count,
        "different_texts": len(set(texts)) / count,
    }
