"""Attention of whole sequences through `jax.nn.dot_product_attention`, which reaches cuDNN.

The kernel never writes the attention weights to memory (Dao et al. 2022,
https://arxiv.org/abs/2205.14135). What it can express, and how:

- left padding, segments and sliding windows: as a mask. Lengths would only fit right padding.
- grouped queries: directly; keys and values are not repeated.
- soft-caps of scores: not at all; models that have one are refused.
- a group's shared prompt: keys and values of the prompt are laid before those of each completion.

B batch, T queries, S keys, H query heads, K key/value heads, h head_dim.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from rljax.models.config import TransformerConfig
from rljax.models.row_attention import GroupMask

AttentionKind = Literal["einsum", "fused"]


def require_expressible(config: TransformerConfig, attention: AttentionKind) -> None:
    """Raise ValueError for an attention that there is not, or that a model does not allow."""
    if attention not in ("einsum", "fused"):
        raise ValueError(f"attention is {attention!r}; einsum or fused is known")
    if attention == "fused" and config.attention_softcap is not None:
        raise ValueError(
            f"attention 'fused' knows no soft-cap of scores, and this model's is "
            f"{config.attention_softcap:g}: use 'einsum'"
        )


def implementation(dtype: jnp.dtype) -> Literal["xla", "cudnn"]:
    """Choose the kernel: cuDNN's where it runs, in half precision on an NVIDIA GPU, else XLA's."""
    cuda = jax.default_backend() == "gpu" and "cuda" in jax.devices()[0].client.platform_version
    return "cudnn" if cuda and dtype in (jnp.bfloat16, jnp.float16) else "xla"


def fused_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array, scale: float
) -> jax.Array:
    """Let queries [B, T, H, h] read keys and values [B, S, K, h] that mask [B, T, S] marks.

    Lengths are filled up to even numbers, which cuDNN's backward pass needs; nothing sees the
    additional keys. What a query gets that sees no key means nothing.
    """
    queries = query.shape[1]
    query, (key, value) = _even(query, 1), (_even(x, 1) for x in (key, value))
    mask = _even(_even(mask, 1), 2)
    made = jax.nn.dot_product_attention(
        query, key, value, mask=mask[:, None], scale=scale,
        implementation=implementation(query.dtype),
    )  # fmt: skip
    return made[:, :queries]


def read_fused(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | GroupMask,
    scale: float,
) -> jax.Array:
    """Do what `row_attention.read_rows` does, through the kernel, without caps."""
    flat = query.reshape(*query.shape[:2], -1, query.shape[-1])
    if not isinstance(mask, GroupMask):
        return fused_attention(flat, key, value, mask, scale).reshape(query.shape)
    queries, keys, values = mask.split(flat), mask.split(key), mask.split(value)
    prompt = fused_attention(queries[0], keys[0], values[0], mask.prompt, scale)
    rows, groups, length, _ = mask.own.shape

    def alone(x: jax.Array) -> jax.Array:  # a completion a row
        return x.reshape(rows * groups, length, *x.shape[3:])

    def behind(parts: tuple[jax.Array, jax.Array]) -> jax.Array:  # its prompt
        return jnp.concatenate([jnp.repeat(parts[0], groups, axis=0), alone(parts[1])], axis=1)

    prefix = jnp.broadcast_to(mask.prefix[:, None], (rows, groups, *mask.prefix.shape[1:]))
    seen = alone(jnp.concatenate([prefix, mask.own], axis=-1))
    mixed = fused_attention(alone(queries[1]), behind(keys), behind(values), seen, scale)
    return mask.join(prompt, mixed).reshape(query.shape)


def _even(x: jax.Array, axis: int) -> jax.Array:
    """Add a slot of zeros on an axis of odd size."""
    if x.shape[axis] % 2 == 0:
        return x
    return jnp.pad(x, [(0, int(i == axis)) for i in range(x.ndim)])
