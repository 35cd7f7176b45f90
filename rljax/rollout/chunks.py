"""Apply a function to many rows, a chunk of them at a time: never the whole [rows, V] of a head."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rljax.shares import after, gathered, has_shares, regathered


def map_rows(function: Callable[[Any, Any], Any], params: Any, inputs: Any, rows: int) -> Any:
    """Compute function(params, inputs) at most `rows` rows at a time.

    function maps a pytree of arrays [n, ...] to a pytree of arrays [n, ...], row by row; `inputs`
    has N rows. params: what the function reads of a model, gathered once for all chunks. Where
    there is more than one chunk, a chunk is recomputed in the backward pass, so that what the
    function holds in between exists for one chunk only. The last chunk is filled up with zeros,
    whose results are dropped.
    """

    def compute(params: Any, inputs: Any) -> Any:
        return _in_chunks(functools.partial(function, gathered(params)), inputs, rows)

    if not has_shares(params):
        return compute(params, inputs)
    # with several chunks nothing of the first pass is kept: the backward pass needs none of it
    again = regathered(compute, recompute=jax.tree.leaves(inputs)[0].shape[0] > rows)
    return again(after(params, inputs), inputs)


def _in_chunks(function: Callable[[Any], Any], inputs: Any, rows: int) -> Any:
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
