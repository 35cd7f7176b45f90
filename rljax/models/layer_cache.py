"""Keys and values of one layer: kept as the model computes in, or in 8 bits.

In 8 bits every key and every value [h] has a scale of its own, and what reads them is rounded to 15
bits (rljax.models.int8), so that the error is that of the cache alone.

B sequences, K key/value heads, S cache slots, h head_dim; queries are [B, K, G, h], or [N, J, K, G,
h] where J sequences read the cache of one prompt, or J tokens of a sequence its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rljax.models.int8 import round_over, split_product
from rljax.models.precision import product


class LayerCache(NamedTuple):
    """Keys and values of one layer, each as the product that reads it likes its right-hand side."""

    keys: jax.Array
    """[B, K, h, S]."""
    values: jax.Array
    """[B, K, S, h]."""
    key_scales: jax.Array | None = None
    """[B, K, 1, S] float32, of keys in int8; None: they are as they are."""
    value_scales: jax.Array | None = None
    """[B, K, S, 1], of the values."""

    def map_slots(self, change: Callable[..., jax.Array], *others: LayerCache) -> LayerCache:
        """Change each array; change: (array, axis of its slots, *the others' arrays) -> array."""
        axes = (-1, -2, -1, -2)
        made = (
            None if x is None else change(x, axis, *rest)
            for x, axis, *rest in zip(self, axes, *others, strict=True)
        )
        return LayerCache(*made)


def rounded_cache(cache: LayerCache) -> LayerCache:
    """Return the cache in 8 bits; layers may be stacked."""
    keys, values = round_over(cache.keys, -2), round_over(cache.values, -1)
    return LayerCache(keys.values, values.values, keys.scale, values.scale)


def append(cache: LayerCache, key: jax.Array, value: jax.Array, slot: jax.Array) -> LayerCache:
    """Write the key and value [B, K, h] of one token more at a slot."""
    new = LayerCache(key[..., None], value[:, :, None])
    if cache.key_scales is not None:
        new = rounded_cache(new)

    def put(old: jax.Array, axis: int, update: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(old, update.astype(old.dtype), slot, axis)

    return cache.map_slots(put, new)


def write_rows(cache: LayerCache, new: LayerCache, places: jax.Array) -> LayerCache:
    """Write new keys and values, T slots of each sequence, at slots of its own.

    places [B, T]; what is beyond the cache is dropped. Layers may be stacked. `new` is rounded
    where the cache is, unless it has been.
    """
    if cache.key_scales is not None and new.key_scales is None:
        new = rounded_cache(new)
    rows = jnp.arange(places.shape[0])[:, None]

    def put(old: jax.Array, axis: int, update: jax.Array) -> jax.Array:
        where = (..., rows, slice(None), *((slice(None), places) if axis == -1 else (places,)))
        where += (slice(None),) if axis == -2 else ()
        # the two indexed axes come to the front: [B, T, ...]
        values = jnp.moveaxis(update, (-4, axis), (0, 1)).astype(old.dtype)
        return old.at[where].set(values, mode="drop")

    return cache.map_slots(put, new)


def read_keys(query: jax.Array, cache: LayerCache) -> jax.Array:
    """Multiply queries with all keys: scores [..., K, G, S]."""
    spec = "bkgh,bkhs->bkgs" if query.ndim == 4 else "bjkgh,bkhs->bjkgs"
    if cache.key_scales is None:
        return product(spec, query, cache.keys.astype(query.dtype))
    return split_product(spec, query, cache.keys) * _beside(cache.key_scales, query)


def read_values(weights: jax.Array, cache: LayerCache) -> jax.Array:
    """Add up the values with weights [..., K, G, S]: [..., K, G, h] of the weights' dtype."""
    spec = "bkgs,bksh->bkgh" if weights.ndim == 4 else "bjkgs,bksh->bjkgh"
    if cache.value_scales is None:
        return jnp.einsum(spec, weights, cache.values.astype(weights.dtype))
    weighted = weights * _beside(jnp.swapaxes(cache.value_scales, -1, -2), weights)
    return split_product(spec, weighted, cache.values).astype(weights.dtype)


def _beside(scales: jax.Array, readers: jax.Array) -> jax.Array:
    """Give scales [B, K, 1, S] an axis for the sequences that share them, where there is one."""
    return scales if readers.ndim == 4 else scales[:, None]
