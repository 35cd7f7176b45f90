"""Positions of tokens under padding, and which keys each query may see."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rljax.models.config import TransformerConfig
from rljax.models.row_attention import GroupMask


def token_positions(attention_mask: jax.Array, segments: jax.Array | None = None) -> jax.Array:
    """Count the real tokens before each token, [B, T] int32: left padding shifts no position.

    segments [B, T]: tokens before the start of a token's own segment (a run of equal numbers) do
    not count.
    """
    real = attention_mask.astype(jnp.int32)
    counts = jnp.cumsum(real, axis=-1)
    if segments is not None:
        starts = segments != jnp.roll(segments, 1, axis=-1)
        earlier = jnp.where(starts.at[:, 0].set(True), counts - real, 0)
        counts = counts - jax.lax.cummax(earlier, axis=1)
    return jnp.maximum(counts - 1, 0)


def visible_keys(
    config: TransformerConfig, real: jax.Array, segments: jax.Array | None, *, local: bool
) -> jax.Array:
    """Which key (last axis) each query may see: [B, T, T] bool.

    Causal, real, in the window, and of the query's own segment where there are segments.
    """
    length = real.shape[1]
    distance = jnp.arange(length)[:, None] - jnp.arange(length)[None, :]
    seen = distance >= 0
    if local and config.sliding_window is not None:
        seen &= distance < config.sliding_window
    mask = seen[None] & real[:, None, :]
    return mask if segments is None else mask & (segments[:, :, None] == segments[:, None, :])


def group_visible_keys(
    config: TransformerConfig, prompt_mask: jax.Array, real: jax.Array, *, local: bool
) -> GroupMask:
    """Which keys each query sees in rows of a prompt [N, P] and its completions [N, G, C]."""
    rows, groups, length = real.shape
    width = prompt_mask.shape[1]
    # of a prompt and one completion; the prompt's slots are alike for all of the completions
    flat = jnp.concatenate(
        [jnp.repeat(prompt_mask, groups, axis=0), real.reshape(rows * groups, length)], axis=1
    )
    whole = visible_keys(config, flat, None, local=local)
    whole = whole.reshape(rows, groups, *whole.shape[1:])
    return GroupMask(
        whole[:, 0, :width, :width], whole[:, 0, width:, :width], whole[:, :, width:, width:]
    )


def read_from(mask: jax.Array | GroupMask, first: int) -> jax.Array | GroupMask:
    """Leave out the queries before a slot, in groups one of the prompt."""
    if isinstance(mask, GroupMask):
        return mask._replace(prompt=mask.prompt[:, first:])
    return mask[:, first:]
