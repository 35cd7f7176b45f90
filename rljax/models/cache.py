"""Key/value caches as wholes: make room, share prompts, move rows about.

Every array of a cache is [..., B, K, ., .], whatever stands before: layers that are looped over lie
on a leading axis.

B sequences, K key/value heads, S cache slots, P prompt slots.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax.models.layer_cache import LayerCache, rounded_cache, write_rows

Cache = Any
"""A pytree that only the model looks into: one LayerCache per layer, or stacks of them."""
BATCH = -4
"""The axis of the sequences."""


class GroupCache(NamedTuple):
    """The cache of sequences that share prompts, G each."""

    own: Cache
    """As a cache of the completions alone: B sequences, slots P to S."""
    prompt: Cache
    """As a cache of the prompts alone: B / G sequences, slots 0 to P."""


def is_layer(node: Any) -> bool:
    """Say whether a part of a cache is that of one layer, or of a stack of them."""
    return isinstance(node, LayerCache)


def round_cache(cache: Cache) -> Cache:
    """Keep every key and value in 8 bits."""
    return jax.tree.map(rounded_cache, cache, is_leaf=is_layer)


def widen(cache: Cache, slots: int) -> Cache:
    """Add so many empty slots behind those that there are."""

    def wider(layer: LayerCache) -> LayerCache:
        def padded(x: jax.Array, axis: int) -> jax.Array:
            room = [(0, 0)] * x.ndim
            room[axis] = (0, slots)
            return jnp.pad(x, room)

        return layer.map_slots(padded)

    return jax.tree.map(wider, cache, is_leaf=is_layer)


def group_cache(prompts: Cache, slots: int, group: int) -> GroupCache:
    """Give each prompt's cache `group` sequences, one after another, with empty slots of their own.

    slots: of each sequence.
    """

    def empty(layer: LayerCache) -> LayerCache:
        def zeros(x: jax.Array, axis: int) -> jax.Array:
            shape = list(x.shape)
            shape[BATCH] *= group
            shape[axis] = slots
            return jnp.zeros(shape, x.dtype)

        return layer.map_slots(zeros)

    return GroupCache(jax.tree.map(empty, prompts, is_leaf=is_layer), prompts)


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


def append_rows(cache: Cache, new: Cache, first: jax.Array, counts: jax.Array) -> Cache:
    """Copy the first counts[b] slots of the cache `new` behind slot first[b] of a sequence."""
    slots, width = (layer_slots(part) for part in (cache, new))
    steps = jnp.arange(width)
    places = jnp.where(steps < counts[:, None], first[:, None] + steps, slots)

    def put(layer: LayerCache, added: LayerCache) -> LayerCache:
        return write_rows(layer, added, places)

    return jax.tree.map(put, cache, new, is_leaf=is_layer)


def layer_slots(cache: Cache) -> int:
    """Return how many slots a cache has."""
    layer = jax.tree.leaves(cache, is_leaf=is_layer)[0]
    slots: int = layer.keys.shape[-1]
    return slots
