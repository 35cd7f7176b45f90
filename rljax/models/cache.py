"""Move the rows of a key/value cache about; only the axes' order is known here.

Every array of a cache is [..., B, K, ., .], whatever stands before: layers that are looped over lie
on a leading axis.

B sequences, K key/value heads, S cache slots, P prompt slots.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

Cache = Any
BATCH = -4
"""The axis of the sequences."""


def empty_cache(like: Cache, rows: int) -> Cache:
    """Return a cache of zeros for `rows` sequences; `like`: shapes, of any number of sequences."""

    def zeros(x: Any) -> jax.Array:
        lead = x.shape[:BATCH]
        return jnp.zeros((*lead, rows, *x.shape[BATCH + 1 :]), x.dtype)

    return jax.tree.map(zeros, like)


def take_rows(cache: Cache, rows: jax.Array) -> Cache:
    """Return the cache of some of the sequences, in the order of rows [n]."""
    return jax.tree.map(lambda x: jnp.take(x, rows, axis=x.ndim + BATCH), cache)


def replace_prompts(cache: Cache, prompts: Cache, rows: jax.Array) -> Cache:
    """Put the caches of n prompts, P slots each, at the start of sequences rows [n].

    Rows beyond the cache's are dropped; what stands behind the first P slots remains.
    """

    def put(x: jax.Array, new: jax.Array) -> jax.Array:
        lead = (slice(None),) * (x.ndim + BATCH)
        places = (slice(0, size) for size in new.shape[BATCH + 1 :])
        return x.at[(*lead, rows, *places)].set(new, mode="drop")

    return jax.tree.map(put, cache, prompts)
