"""Find the logit at which a top-k or nucleus set ends, without sorting a vocabulary.

A bisection on the bit pattern of the logits is exact, but passes over the vocabulary 32 times. The
set nearly always lies in a few chunks of the vocabulary: those with the largest maxima are
gathered, and searched alone wherever that provably gives the same answer.

V vocabulary, on `axis`; all other axes are independent distributions.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

CHUNK = 64
"""Entries that are gathered together."""
CHOSEN = 64
"""Chunks that are gathered: 4,096 entries."""


def _ordered_bits(x: jax.Array) -> jax.Array:
    """Map float32 to uint32 so that the order of numbers is the order of integers."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    return jnp.where(bits >> 31, ~bits, bits | jnp.uint32(1 << 31))


def _from_ordered_bits(bits: jax.Array) -> jax.Array:
    """Undo `_ordered_bits`; what lies below -inf (it would be NaN) gives -inf."""
    bits = jnp.maximum(bits, _ordered_bits(jnp.float32(-jnp.inf)))
    return jax.lax.bitcast_convert_type(
        jnp.where(bits >> 31, bits ^ jnp.uint32(1 << 31), ~bits), jnp.float32
    )


def _mass_above(bits: jax.Array, weights: jax.Array, t: jax.Array, axis: int) -> jax.Array:
    return jnp.sum(jnp.where(bits > t, weights, 0), axis=axis, keepdims=True)


def _bisect(
    bits: jax.Array, weights: jax.Array, goal: jax.Array, low: jax.Array, axis: int
) -> jax.Array:
    """Find per distribution the smallest t >= low with less than `goal` above it."""

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds  # too little is above `high`; the answer is in [low, high]
        middle = low + (high - low) // 2
        little = _mass_above(bits, weights, middle, axis) < goal
        return jnp.where(little, low, middle + 1), jnp.where(little, middle, high)

    return jax.lax.fori_loop(0, 32, halve, (low, jnp.full_like(low, 0xFFFFFFFF)))[1]


def _largest_chunks(
    bits: jax.Array, weights: jax.Array, axis: int, chosen: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gather the `chosen` chunks with the largest maxima; every other entry is <= the floor."""
    chunks = -(-bits.shape[axis] // CHUNK)
    room = [(0, 0)] * bits.ndim
    room[axis] = (0, chunks * CHUNK - bits.shape[axis])
    shape = (*bits.shape[:axis], chunks, CHUNK, *bits.shape[axis + 1 :])
    bits, weights = (jnp.pad(x, room).reshape(shape) for x in (bits, weights))
    maxima = jnp.moveaxis(jnp.max(bits, axis=axis + 1), axis, -1)
    # top_k knows no unsigned integers: shift them, order kept, into the signed ones
    signed = jax.lax.bitcast_convert_type(maxima ^ jnp.uint32(1 << 31), jnp.int32)
    which = jnp.moveaxis(jax.lax.top_k(signed, chosen + 1)[1], -1, axis)
    floor = jnp.take_along_axis(
        jnp.moveaxis(maxima, -1, axis), jax.lax.slice_in_dim(which, chosen, None, axis=axis), axis
    )
    index = jnp.expand_dims(jax.lax.slice_in_dim(which, 0, chosen, axis=axis), axis + 1)
    flat = (*bits.shape[:axis], chosen * CHUNK, *bits.shape[axis + 2 :])
    bits, weights = (
        jnp.take_along_axis(x, index, axis=axis).reshape(flat) for x in (bits, weights)
    )
    return bits, weights, floor


def mass_threshold(
    values: jax.Array, weights: jax.Array, goal: jax.Array | float, axis: int, chosen: int = CHOSEN
) -> jax.Array:
    """Find the smallest value whose larger ones weigh less than `goal`; `axis` becomes 1.

    With weights of 1 and goal k it is the k-th largest value; with probabilities and goal p, the
    least probable one of the nucleus. `values >= threshold` keeps all ties.

    values, weights: float32 of one shape, weights not negative; goal: > 0, a number or with `axis`
    of size 1. chosen: chunks searched first; the result does not depend on it.
    """
    axis %= values.ndim
    values, weights, goal = jax.lax.stop_gradient((values, weights, goal))
    bits, goal = _ordered_bits(values), jnp.asarray(goal)
    lowest = jnp.zeros((*bits.shape[:axis], 1, *bits.shape[axis + 1 :]), bits.dtype)

    def search_all(_: None) -> jax.Array:
        return _bisect(bits, weights, goal, lowest, axis)

    if values.shape[axis] < 2 * chosen * CHUNK:
        threshold = search_all(None)
    else:
        few, few_weights, floor = _largest_chunks(bits, weights, axis, chosen)
        # Above the floor the chosen chunks hold everything. Where that is enough the answer lies
        # above the floor, and what the others hold does not matter.
        enough = jnp.all(_mass_above(few, few_weights, floor, axis) >= goal)
        threshold = jax.lax.cond(
            enough,
            lambda _: _bisect(few, few_weights, goal, floor, axis),
            search_all,
            None,
        )
    return _from_ordered_bits(threshold)
