"""Stop a run whose sampler and learner disagree: all that PPO computes rests on their agreeing."""

from __future__ import annotations

from typing import Any

import numpy as np

from rljax.errors import UserError
from rljax.types import Completions, Rollout

COARSE_KL = 0.1
"""Largest KL of a sampler in 8 bits from the learner, in nats per token. Of SmolLM2-135M the cache
costs 0.001, the matrices 0.04, both 0.05 (16 completions of 48 tokens)."""


class Disagreement(UserError):
    """The same policy gives the same completion different probabilities in two places."""


BOUNDS = {"float32": ("max_ratio_gap", "max_start_kl"), "bfloat16": ("max_mean_gap",)}
"""The flags that bound the disagreement, by what is computed in."""


def check_bounds(flags: Any, dtype: str) -> None:
    """Raise ValueError for bounds that mean nothing, or that runs in a dtype do not read."""
    for read_in, names in BOUNDS.items():
        for name in names:
            value = getattr(flags, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}; it must be above 0, or None")
            if read_in != dtype and value not in (None, getattr(type(flags), name)):
                raise ValueError(
                    f"{name} is {value}, but only runs with model.dtype {read_in} read it; in "
                    f"{dtype} the bound is {' and '.join(BOUNDS[dtype])}"
                )


def check_ratio(
    completions: Completions, log_probs: Any, *, tolerance: float, texts: list[str]
) -> float:
    """Compare the sampler's log-probs with the learner's, both [B, C], before anything is learnt.

    Returns max |ratio - 1| over real tokens. Raises Disagreement when it exceeds `tolerance`, or
    is no number: with the place, the two values, and what usually causes it.
    """
    mask = np.asarray(completions.mask)
    sampled, scored = np.asarray(completions.log_probs), np.asarray(log_probs)
    gaps = np.where(mask, np.abs(np.expm1(scored - sampled)), 0.0)
    gaps = np.where(np.isfinite(gaps), gaps, np.inf)
    row, place = np.unravel_index(int(np.argmax(gaps)), gaps.shape)
    gap = float(gaps[row, place])
    if gap > tolerance:
        wrong = int(np.sum(gaps > tolerance))
        raise Disagreement(
            f"sampler and learner disagree on the policy: |ratio - 1| is {gap:.3g} (allowed "
            f"{tolerance:g}) at completion {row}, token {place}: log-prob "
            f"{sampled[row, place]:.6f} when sampled, {scored[row, place]:.6f} when scored; "
            f"{wrong} of {int(mask.sum())} "
            f"tokens are off. Completion: {texts[row]!r}. Positions under padding, temperature, "
            "top-k/top-p or the weights differ between the two, or products are coarser than "
            "float32, as they are on some accelerators unless JAX_DEFAULT_MATMUL_PRECISION is "
            "highest (then raise --max-ratio-gap, or set it to None)"
        )
    return gap


def check_mean_gap(
    completions: Completions, log_probs: Any, *, tolerance: float, who: str
) -> float:
    """Compare the sampler's log-probs with another's, both [B, C], where both are rounded coarsely.

    In bfloat16 the last bits of hidden states move the log-prob of a single token by tenths of a
    nat, in either direction; a wrong position, temperature or weight moves all of them. Returns the
    mean over real tokens of the absolute difference, in nats. Raises Disagreement when it exceeds
    `tolerance`, or is no number. who: whose log_probs these are.
    """
    gaps = np.abs(np.asarray(completions.log_probs, np.float64) - np.asarray(log_probs, np.float64))
    gap = float(np.mean(gaps[np.asarray(completions.mask)]))
    if not gap <= tolerance:
        raise Disagreement(mean_gap_message(gap, tolerance, who))
    return gap


def mean_gap_message(gap: float, tolerance: float, who: str) -> str:
    """Say that sampler and another differ by `gap` nats in the mean."""
    return (
        f"sampler and {who} disagree on the policy: their log-probs of a token differ by {gap:.3g} "
        f"nats in the mean (allowed {tolerance:g}), more than bfloat16 explains. Positions under "
        "padding, temperature, top-k/top-p or the weights differ between the two, or the model is "
        "very sensitive to rounding: then try --model.dtype float32, or raise --max-mean-gap"
    )


def coarse_kl(completions: Completions, log_probs: Any) -> float:
    """Estimate KL(sampler || learner) by k3 (Schulman 2020), in nats per real token.

    completions carry the sampler's log-probs; log_probs [B, C]: the learner's.
    """
    mask = np.asarray(completions.mask)
    sampled = np.asarray(completions.log_probs, np.float64)
    gaps = np.where(mask, np.asarray(log_probs, np.float64) - sampled, 0.0)
    return float(np.sum(np.expm1(gaps) - gaps) / max(int(np.sum(mask)), 1))


def check_coarse(kl: float) -> None:
    """Compare a sampler in 8 bits with the learner, by their KL: no token for itself can tell.

    Raises Disagreement when it exceeds COARSE_KL, or is no number.
    """
    if not kl <= COARSE_KL:
        raise Disagreement(
            f"the sampler is {kl:.3g} nats per token away from the learner, which rounding to 8 "
            f"bits does not explain (allowed {COARSE_KL:g}): set --sampling.weights and "
            "--sampling.cache to model, which compares them exactly; if they then agree, this "
            "model does not bear 8 bits, or set --max-ratio-gap None to go on"
        )


def check_start_kl(rollout: Rollout, *, tolerance: float) -> float:
    """Compare policy and reference before the first update: they are to be one.

    Returns the KL by k1, in nats per token: the rounding of a completion's tokens adds up with its
    length, that of their mean does not. Raises Disagreement when |KL| exceeds `tolerance`, or is
    no number.
    """
    made = rollout.completions
    gaps = np.asarray(made.log_probs, np.float64) - np.asarray(rollout.ref_log_probs, np.float64)
    kl = float(np.mean(gaps[np.asarray(made.mask)]))
    if not abs(kl) <= tolerance:
        raise Disagreement(
            f"the KL from the reference is {kl:.3g} nats per token before the first update "
            f"(allowed {tolerance:g}): policy and reference do not start from the same weights, or "
            "are not scored under the same distribution (see --max-start-kl)"
        )
    return kl
