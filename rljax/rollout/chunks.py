"""Apply a function to many rows, a chunk of them at a time: never the whole [rows, V] of a head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def map_rows(function: Callable[[Any], Any], inputs: Any, rows: int) -> Any:
    """Compute function(inputs) at most `rows` rows at a time.

    function maps a pytree of arrays [n, ...] to a pytree of arrays [n, ...], row by row; `inputs`
    has N rows. Where there is more than one chunk, a chunk is recomputed in the backward pass, so
    that what the function holds in between exists for one chunk only. The last chunk is filled up
    with zeros, whose results are dropped.
    """
    total = jax.tree.leaves(inputs)[0].shape[0]
    if total <= rows:
        return function(inputs)
    chunks = -(-total // rows)
    size = -(-total // chunks)  # even chunks: little padding

    def split(x: jax.Array) -> jax.Array:
        widths = [(0, chunks * size - total)] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, widths).reshape(chunks, size, *x.shape[1:])

    made = jax.lax.map(jax.checkpoint(function), jax.tree.map(split, inputs))
    return jax.tree.map(lambda x: x.reshape(chunks * size, *x.shape[2:])[:total], made)
