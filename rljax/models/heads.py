"""Scalar heads on a decoder's hidden states: the critic's values, a reward model's scores.

B batch, T tokens, D hidden.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rljax.shares import gathered

Params = dict[str, Any]


def init_value_head(hidden_size: int, dtype: Any = jnp.float32) -> Params:
    """Make {"kernel" [1, D], "bias" [1]} that give 0 everywhere (Ziegler et al. 2019, code)."""
    return {"kernel": jnp.zeros((1, hidden_size), dtype), "bias": jnp.zeros((1,), dtype)}


def init_reward_head(key: jax.Array, hidden_size: int, dtype: Any = jnp.float32) -> Params:
    """Make a head with weights N(0, 1 / (D + 1)) and bias 0 (Ziegler et al. 2019, code)."""
    kernel = jax.random.normal(key, (1, hidden_size)) * (hidden_size + 1) ** -0.5
    return {"kernel": kernel.astype(dtype), "bias": jnp.zeros((1,), dtype)}


def apply_scalar_head(head: Params, hidden: jax.Array) -> jax.Array:
    """Map hidden states [..., D] to scalars [...] float32."""
    head = gathered(head)
    kernel = head["kernel"][0].astype(jnp.float32)
    return hidden.astype(jnp.float32) @ kernel + head["bias"].astype(jnp.float32)[0]


def score_sequences(head: Params, hidden: jax.Array, mask: jax.Array) -> jax.Array:
    """Read a reward head at each sequence's last real token: [B, T, D], [B, T] -> [B] float32."""
    positions = jnp.where(mask, jnp.arange(mask.shape[1]), -1)
    last = jnp.maximum(jnp.max(positions, axis=1), 0)
    rows = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
    return apply_scalar_head(head, rows)
