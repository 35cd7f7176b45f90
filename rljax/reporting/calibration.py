"""Say whether probabilities mean what they say: accuracy by confidence (NumPy).

n predictions of two outcomes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Bin(NamedTuple):
    """The predictions whose confidence lies in [low, high)."""

    low: float
    high: float
    predictions: int
    confidence: float
    """Mean of the predictions in this bin; 0 where there are none."""
    accuracy: float
    """Share of them that are right; 0 where there are none."""


class Calibration(NamedTuple):
    """How right, and how sure."""

    accuracy: float
    ece: float
    """Expected calibration error: |accuracy - confidence| of bins, averaged over predictions."""
    bins: list[Bin]


def calibration(
    logits: Sequence[float] | np.ndarray,
    outcomes: Sequence[bool] | np.ndarray,
    *,
    num_bins: int = 10,
) -> Calibration:
    """Compare confidence and accuracy of predictions P(outcome) = sigmoid(logit), both [n].

    A prediction is the likelier outcome, its confidence that outcome's probability, in [1/2, 1],
    which is cut into `num_bins` bins of one width; a logit of 0 is half right. Guo et al. 2017,
    section 2 (https://arxiv.org/abs/1706.04599). Raises ValueError for no predictions, other
    shapes, and logits that are not finite.
    """
    numbers, truth = np.asarray(logits, np.float64), np.asarray(outcomes, np.float64)
    if numbers.ndim != 1 or numbers.size == 0 or numbers.shape != truth.shape:
        raise ValueError(f"need n logits and n outcomes, got {numbers.shape} and {truth.shape}")
    if not np.isfinite(numbers).all():
        raise ValueError("logits must be finite")
    confidence = 1 / (1 + np.exp(-np.abs(numbers)))
    right = np.where(numbers == 0, 0.5, (numbers > 0) == (truth > 0.5))
    place = np.minimum(((confidence - 0.5) * 2 * num_bins).astype(int), num_bins - 1)
    bins, error = [], 0.0
    for index in range(num_bins):
        inside = place == index
        count = int(inside.sum())
        sure = float(confidence[inside].mean()) if count else 0.0
        share = float(right[inside].mean()) if count else 0.0
        error += count / numbers.size * abs(share - sure)
        edges = 0.5 + 0.5 * index / num_bins, 0.5 + 0.5 * (index + 1) / num_bins
        bins.append(Bin(*edges, count, sure, share))
    return Calibration(float(right.mean()), error, bins)
