"""The policy's distribution over the next token: one definition for sampling and for scoring.

Order, as in transformers: forbidden tokens, those a masking policy does not allow, temperature,
top-k, top-p, min-p. Ties at a threshold are all kept.

V vocabulary; `axis` is where it lies (rows [..., V]: -1, columns [V, B]: 0).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from rljax.rollout.thresholds import CHOSEN, mass_threshold
from rljax.traced import is_one, is_zero

NEGATIVE = -1e30
SUPPORTED = -1e20
"""Logits above are real ones, whatever temperature has divided NEGATIVE."""


Precision = Literal["model", "int8"]
"""As the model computes, or in 8 bits."""
PRECISIONS = get_args(Precision)


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How logits become tokens. Scoring applies the same, to policy and reference."""

    max_new_tokens: int = 24
    """Completion slots C."""
    min_new_tokens: int = 0
    """EOS is forbidden before this many tokens."""
    temperature: float = 0.7
    """Divides the logits; 0: greedy."""
    top_k: int = 0
    """Keep the k most probable tokens; 0: all."""
    top_p: float = 1.0
    """Keep the smallest set of most probable tokens whose mass reaches p (nucleus); 1: all."""
    min_p: float = 0.0
    """Keep tokens of at least min_p times the largest probability; 0: all."""
    slots: int | None = None
    """Completions that are written at once: when one ends, the next prompt takes its place. The
    text is the same; None, or not fewer than the batch: all at once. On a mesh: on each device."""
    weights: Precision = "model"
    """int8: sample with matrices, and what they multiply, in 8 bits: faster from a batch of 2, in a
    quarter of their memory more. Scoring and learning keep the model's own, so that another policy
    samples than learns (by 0.04 nats a token, SmolLM2-135M); a run's evaluations do not use it."""
    cache: Precision = "model"
    """int8: keep keys and values in 8 bits while sampling, in little more than a quarter of
    float32's memory (0.001 nats a token); the rest as with weights."""

    @property
    def coarse(self) -> bool:
        """Whether the sampler is coarser than what scores and learns."""
        return (self.weights, self.cache) != ("model", "model")

    def exact(self) -> SamplingConfig:
        """Return the same without 8 bits."""
        return dataclasses.replace(self, weights="model", cache="model")

    def validate(self) -> None:
        """Raise ValueError on values that mean nothing."""
        checks = (
            (self.max_new_tokens >= 1, "max_new_tokens", ">= 1"),
            (
                0 <= self.min_new_tokens <= self.max_new_tokens,
                "min_new_tokens",
                "0..max_new_tokens",
            ),
            (self.temperature >= 0, "temperature", ">= 0 (0: greedy)"),
            (self.top_k >= 0, "top_k", ">= 0 (0: off)"),
            (0 < self.top_p <= 1, "top_p", "in (0, 1]"),
            (0 <= self.min_p < 1, "min_p", "in [0, 1)"),
            (self.slots is None or self.slots >= 1, "slots", ">= 1, or None (all at once)"),
            (self.weights in PRECISIONS, "weights", f"one of {PRECISIONS}"),
            (self.cache in PRECISIONS, "cache", f"one of {PRECISIONS}"),
        )
        for good, name, rule in checks:
            if not good:
                raise ValueError(f"sampling.{name} is {getattr(self, name)}; it must be {rule}")

    def require_queue(self, batch_size: int) -> None:
        """Raise ValueError for slots that no second completion of a batch would wait for."""
        if self.slots is not None and self.slots >= batch_size:
            raise ValueError(
                f"sampling.slots is {self.slots}, but a batch has only {batch_size} completions: "
                "lower it, or set it to None"
            )


@dataclasses.dataclass(frozen=True)
class ActionMask:
    """How many tokens a masking policy allows (NLPO, Ramamurthy et al. 2022).

    The nucleus of its own distribution at temperature 1, whatever the sampling, as in RL4LMs; the
    sampling's forbidden tokens are left out first. RL4LMs also allows the special tokens always;
    here, as in the paper, an EOS outside the nucleus is masked like any other token.
    """

    top_p: float
    """Mass of the nucleus, below 1."""
    min_tokens: int
    """At least so many of its most probable tokens are allowed."""


def require_mask_params(masked: bool, mask_params: object) -> None:
    """Raise ValueError unless there is a masking policy exactly where actions are masked."""
    if masked and mask_params is None:
        raise ValueError(
            "completions are sampled under an action mask, but mask_params are missing"
        )
    if not masked and mask_params is not None:
        raise ValueError("completions are sampled without a mask, but mask_params are given")


def allowed_tokens(
    logits: jax.Array, mask: ActionMask, *, forbidden: jax.Array | None = None, axis: int = -1
) -> jax.Array:
    """Mark the tokens that a masking policy allows, by its logits: bool, of the same shape.

    They are its most probable ones: the nucleus, and in any case `min_tokens`. At least one of
    them is not forbidden.
    """
    if forbidden is not None:
        logits = jnp.where(forbidden, NEGATIVE, logits)
    weights = jnp.exp(logits - jnp.max(logits, axis=axis, keepdims=True))
    goal = mask.top_p * jnp.sum(weights, axis=axis, keepdims=True)
    nucleus = mass_threshold(logits, weights, goal, axis)
    chosen = max(CHOSEN, mask.min_tokens)
    least = mass_threshold(logits, jnp.ones_like(logits), float(mask.min_tokens), axis, chosen)
    return logits >= jnp.minimum(nucleus, least)


def most_probable(
    logits: jax.Array, count: jax.Array, *, forbidden: jax.Array | None = None, axis: int = -1
) -> jax.Array:
    """Mark the `count` largest logits: those that `allowed_tokens` marked, by their number.

    Scoring takes the number from the sampler: the border of a nucleus depends on the last bit of a
    sum, which two ways to compute the same logits do not share. count: at least 1, `axis` of
    size 1.
    """
    if forbidden is not None:
        logits = jnp.where(forbidden, NEGATIVE, logits)
    return logits >= mass_threshold(logits, jnp.ones_like(logits), count, axis)


def distribution_logits(
    logits: jax.Array,
    sampling: SamplingConfig,
    *,
    forbidden: jax.Array | None = None,
    allowed: jax.Array | None = None,
    taken: jax.Array | None = None,
    axis: int = -1,
) -> jax.Array:
    """Compute the logits of the distribution that is sampled from; excluded tokens get -1e30.

    logits: float32 with the vocabulary on `axis`. forbidden: bool, true where a token may not come.
    allowed: bool, the only tokens that a masking policy lets come; at least one is not forbidden.
    taken: token ids with `axis` of size 1 (when scoring): a token that was sampled stays in the
    support even where rounding, or a later policy, puts it just below a threshold; its log-prob is
    then finite and the ratio defined. Softmax of the result is the policy.
    """
    if forbidden is not None:
        logits = jnp.where(forbidden, NEGATIVE, logits)
    if allowed is not None:
        if taken is not None:
            allowed |= _one_hot(taken, allowed.shape, axis)
        logits = jnp.where(allowed, logits, NEGATIVE)
    if not is_zero(sampling.temperature):
        logits = logits / sampling.temperature
    keep = None
    vocabulary = logits.shape[axis]
    if 0 < sampling.top_k < vocabulary:
        chosen = max(CHOSEN, sampling.top_k)
        ones = jnp.ones_like(logits)
        keep = logits >= mass_threshold(logits, ones, float(sampling.top_k), axis, chosen)
    if not is_one(sampling.top_p):
        kept = logits if keep is None else jnp.where(keep, logits, NEGATIVE)
        weights = jnp.exp(kept - jnp.max(kept, axis=axis, keepdims=True))
        goal = sampling.top_p * jnp.sum(weights, axis=axis, keepdims=True)
        nucleus = kept >= mass_threshold(kept, weights, goal, axis)
        nucleus |= sampling.top_p >= 1  # a traced one; rounded sums would leave tokens out
        keep = nucleus if keep is None else keep & nucleus
    if sampling.min_p > 0:
        floor = jnp.max(logits, axis=axis, keepdims=True) + jnp.log(sampling.min_p)
        likely = logits >= floor
        keep = likely if keep is None else keep & likely
    if keep is None:
        return logits
    if taken is not None:
        keep |= _one_hot(taken, logits.shape, axis)
    return jnp.where(keep, logits, NEGATIVE)


def mix_uniformly(
    logits: jax.Array, epsilon: float | jax.Array, axis: int = -1
) -> tuple[jax.Array, jax.Array]:
    """Compute the probabilities of (1 - epsilon) pi + epsilon / n, and log pi, shaped as given.

    logits: what `distribution_logits` returns. pi is their softmax, n the number of its tokens:
    what is excluded there stays excluded. A token is at most 1 / (1 - epsilon) times as probable in
    pi.
    """
    log_pi = jax.nn.log_softmax(logits, axis=axis)
    support = logits > SUPPORTED
    share = epsilon / jnp.sum(support, axis=axis, keepdims=True)
    return (1 - epsilon) * jnp.exp(log_pi) + jnp.where(support, share, 0.0), log_pi


def _one_hot(taken: jax.Array, shape: tuple[int, ...], axis: int) -> jax.Array:
    """Mark the taken tokens (`axis` of size 1) among those on `axis`."""
    axis %= len(shape)
    ids = [-1 if i == axis else 1 for i in range(len(shape))]
    return jnp.arange(shape[axis]).reshape(ids) == taken


def token_set(ids: Sequence[int], vocabulary: int) -> jax.Array:
    """Mark tokens of a vocabulary, such as those that end a text: [V] bool."""
    return jnp.zeros(vocabulary, bool).at[jnp.asarray(list(ids), jnp.int32)].set(True)


def inverse_cdf(weights: jax.Array, uniform: jax.Array, chunk: int | None = None) -> jax.Array:
    """Draw an index per column in proportion to its weights: [V, B], [B] in [0, 1) -> [B] int32.

    Two levels: the chunk of the vocabulary first, the token inside it second; one uniform number
    per draw, where a Gumbel per vocabulary entry costs twenty times as much on a CPU. An entry of
    weight 0 is never drawn. Every column needs a positive weight. chunk: entries; None: about as
    many as there are chunks, at most 256.
    """
    size, batch = weights.shape
    if chunk is None:
        chunk = min(256, 2 ** math.ceil(math.log2(size) / 2))
    chunks = -(-size // chunk)
    padded = jnp.pad(weights, ((0, chunks * chunk - size), (0, 0))).reshape(chunks, chunk, batch)
    sums = jnp.sum(padded, axis=1)  # [chunks, B]
    edges = jnp.cumsum(sums, axis=0)
    goal = uniform * edges[-1]
    which = _first_above(edges, sums, goal)
    before = jnp.take_along_axis(edges - sums, which[None], axis=0)[0]
    inside = jnp.take_along_axis(padded, which[None, None], axis=0)[0]  # [chunk, B]
    token = _first_above(jnp.cumsum(inside, axis=0), inside, jnp.maximum(goal - before, 0.0))
    return which * chunk + token


def _first_above(edges: jax.Array, weights: jax.Array, goal: jax.Array) -> jax.Array:
    """Find per column the first positive-weight row whose edge exceeds goal, else the last such."""
    rows = jnp.arange(edges.shape[0], dtype=jnp.int32)[:, None]
    last = jnp.max(jnp.where(weights > 0, rows, 0), axis=0)
    above = (edges > goal) & (weights > 0)
    return jnp.where(jnp.any(above, axis=0), jnp.argmax(above, axis=0).astype(jnp.int32), last)
