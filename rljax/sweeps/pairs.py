"""Pairs of completions of which one is preferred, drawn in a compiled program.

M pairs, P prompt slots, C completion slots.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rljax.tasks.preference_batches import PreferenceBatch


class Pairs(NamedTuple):
    """Two completions of each prompt."""

    prompt_tokens: jax.Array
    """[M, P] int32."""
    prompt_mask: jax.Array
    """[M, P] bool."""
    tokens: jax.Array
    """[M, 2, C] int32."""
    mask: jax.Array
    """[M, 2, C] bool."""
    ref_log_probs: jax.Array
    """[M, 2] float32; NaN where nothing reads them."""


def draw_preferences(
    pairs: Pairs, lead: jax.Array, key: jax.Array, *, batch_size: int
) -> PreferenceBatch:
    """Draw which of two is preferred, and put it first: M records.

    The first one is with the probability sigmoid(lead) (Bradley and Terry). lead: [M]. batch_size:
    records whose weights add up to 1.
    """
    count = len(lead)
    wins = jax.random.uniform(key, (count,)) < jax.nn.sigmoid(lead)
    which = jnp.where(wins[:, None], jnp.array([0, 1]), jnp.array([1, 0]))
    tokens, mask, ref_log_probs = (
        jax.vmap(lambda pair, order: pair[order])(x, which)
        for x in (pairs.tokens, pairs.mask, pairs.ref_log_probs)
    )
    return PreferenceBatch(
        prompt_tokens=pairs.prompt_tokens,
        prompt_mask=pairs.prompt_mask,
        tokens=tokens,
        mask=mask,
        values=jnp.tile(jnp.array([1.0, 0.0]), (count, 1)),
        valid=jnp.ones((count, 2), bool),
        margins=jnp.zeros(count),
        ref_log_probs=ref_log_probs,
        weights=jnp.full(count, 1 / batch_size),
    )
