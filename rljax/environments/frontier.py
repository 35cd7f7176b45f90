"""The most reward that a given KL buys, exactly, where all completions are listed.

Over all policies E[r] - beta KL(policy || reference) is largest, beta log Z, for the reference
tilted by exp(r / beta) (Ziegler et al. 2019, section 2, https://arxiv.org/abs/1909.08593); as beta
goes from infinity to 0 these policies trace the frontier of reward over KL, above which there is
none. NumPy in float64: differences from the frontier are far below float32's rounding.

N completions; log_reference [N] are their log-probabilities, rewards [N].
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np


class Point(NamedTuple):
    """A policy on the plane of reward and KL."""

    reward: float
    """E[r]."""
    kl: float
    """KL(policy || reference) of whole completions, in nats."""


def log_normalised(logits: np.ndarray) -> np.ndarray:
    """Return log-probabilities over the last axis, in float64."""
    logits = np.asarray(logits, np.float64)
    shifted = logits - np.max(logits, axis=-1, keepdims=True)
    return shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))


def point(log_policy: np.ndarray, log_reference: np.ndarray, rewards: np.ndarray) -> Point:
    """Compute reward and KL of a policy given by its log-probabilities [N]."""
    policy = np.exp(log_policy)
    there = policy > 0
    ratio = np.where(there, log_policy, 0) - np.where(there, log_reference, 0)
    return Point(float(policy @ rewards), float(policy @ ratio))


def tilted(log_reference: np.ndarray, rewards: np.ndarray, beta: float) -> np.ndarray:
    """Return the log-probabilities [N] of the optimum, ref exp(r / beta) / Z."""
    return log_normalised(log_reference + rewards / beta)


def optimum(log_reference: np.ndarray, rewards: np.ndarray, beta: float) -> float:
    """Compute J* = beta log Z, the largest E[r] - beta KL of any policy."""
    exponents = log_reference + rewards / beta
    top = float(np.max(exponents))
    return beta * (top + math.log(float(np.sum(np.exp(exponents - top)))))


def reward_at(log_reference: np.ndarray, rewards: np.ndarray, kl: float) -> float:
    """Compute the largest E[r] of any policy whose KL is `kl` nats.

    Beyond the KL of the best completions alone it is their reward. Raises ValueError for a KL
    below 0.
    """
    if kl < 0:
        raise ValueError(f"kl is {kl}; no policy has a KL below 0")
    best = float(np.max(rewards))
    low, high = 1e-12, 1.0  # 1 / beta
    while point(tilted(log_reference, rewards, 1 / high), log_reference, rewards).kl < kl:
        low, high = high, 2 * high
        if high > 1e8:
            return best
    for _ in range(100):
        middle = 0.5 * (low + high)
        found = point(tilted(log_reference, rewards, 1 / middle), log_reference, rewards)
        low, high = (middle, high) if found.kl < kl else (low, middle)
    return point(tilted(log_reference, rewards, 1 / high), log_reference, rewards).reward


def best_of_n(log_reference: np.ndarray, rewards: np.ndarray, n: int) -> np.ndarray:
    """Return the log-probabilities [N] of the best of n samples of the reference.

    P(r <= x)^n - P(r < x)^n of a reward, shared out as the reference does among completions of
    equal reward. Raises ValueError for n below 1.
    """
    if n < 1:
        raise ValueError(f"n is {n}; at least one sample is needed")
    probs = np.exp(log_normalised(log_reference))
    levels, place = np.unique(rewards, return_inverse=True)
    mass = np.bincount(place, weights=probs, minlength=len(levels))
    upto = np.minimum(np.cumsum(mass), 1.0)
    below = np.concatenate([[0.0], upto[:-1]])
    won = upto**n - below**n
    with np.errstate(divide="ignore"):
        return np.log(won[place] * probs / mass[place])
