"""Put intervals on mean scores, and measure how varied texts are (NumPy, seeded)."""

import re
from collections import Counter
from collections.abc import Sequence
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
