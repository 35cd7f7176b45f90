"""Flax modules of one decoder layer, each in two layouts of the same arithmetic.

Rows: activations [B, T, D], for whole sequences. Columns: activations [D, B], for one token per
sequence while decoding; `kernel [out, in] @ x [in, B]` is what a matrix library does best when B is
small (on a CPU twice the rate of `x @ kernel`).

B batch, T tokens, S cache slots, D hidden, F MLP width, H query heads, K key/value heads,
h head_dim.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rljax.models import int8
from rljax.models.config import TransformerConfig
from rljax.models.fused_attention import AttentionKind, read_fused
from rljax.models.layer_cache import LayerCache, append, read_keys, read_values, write_rows
from rljax.models.remat import Remat, recompute_attention
from rljax.models.rotary import rotate
from rljax.models.row_attention import NEGATIVE, GroupMask, read_rows

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": nn.silu,
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: nn.gelu(x, approximate=True),
    "relu": nn.relu,
}


class Linear(nn.Module):
    """Multiply by a kernel stored [out, in]; add a low-rank adapter and a bias if there are any.

    An adapter is two further leaves, `lora_a` [r, in] and `lora_b` [out, r] (rljax.models.lora). A
    kernel in 8 bits is two leaves in its place (rljax.models.int8).
    """

    features: int
    use_bias: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, columns: bool = False) -> jax.Array:
        in_features = x.shape[0] if columns else x.shape[-1]
        if self.has_variable("params", int8.KERNEL):
            kernel, scale = (self.get_variable("params", n) for n in (int8.KERNEL, int8.SCALE))
            y = int8.linear(kernel, scale, x, columns).astype(self.dtype)
        else:
            shape = (self.features, in_features)
            kernel = self.param("kernel", nn.initializers.normal(0.02), shape)
            y = self._multiply(kernel.astype(self.dtype), x, columns)
        if self.has_variable("params", "lora_a"):
            for name in ("lora_a", "lora_b"):
                x = self._multiply(self.get_variable("params", name).astype(self.dtype), x, columns)
            y = y + x
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
            y = y + (bias[:, None] if columns else bias)
        return y

    @staticmethod
    def _multiply(kernel: jax.Array, x: jax.Array, columns: bool) -> jax.Array:
        return kernel @ x if columns else jnp.einsum("...i,oi->...o", x, kernel)


class Norm(nn.Module):
    """RMSNorm (Zhang and Sennrich 2019) or LayerNorm (Ba et al. 2016) over features, in float32."""

    config: TransformerConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, columns: bool = False) -> jax.Array:
        config = self.config
        axis = 0 if columns else -1
        features = x.shape[axis]
        start = nn.initializers.constant(1.0 - config.norm_scale_offset)
        scale = self.param("scale", start, (features,)).astype(jnp.float32)
        scale = scale + config.norm_scale_offset
        y = x.astype(jnp.float32)
        if config.norm == "layer":
            y = y - jnp.mean(y, axis=axis, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=axis, keepdims=True) + config.norm_eps)
        y = y * (scale[:, None] if columns else scale)
        if config.norm_bias:
            bias = self.param("bias", nn.initializers.zeros, (features,)).astype(jnp.float32)
            y = y + (bias[:, None] if columns else bias)
        return y.astype(self.dtype)


class MLP(nn.Module):
    """Plain or gated feed-forward network (Shazeer 2020)."""

    config: TransformerConfig
    dtype: Any = jnp.float32

    def setup(self) -> None:
        config = self.config
        if config.gated_mlp:
            self.gate = Linear(config.intermediate_size, config.mlp_bias, self.dtype)
        self.up = Linear(config.intermediate_size, config.mlp_bias, self.dtype)
        self.down = Linear(config.hidden_size, config.mlp_bias, self.dtype)

    def __call__(self, x: jax.Array, columns: bool = False) -> jax.Array:
        activation = ACTIVATIONS[self.config.activation]
        if self.config.gated_mlp:
            return self.down(activation(self.gate(x, columns)) * self.up(x, columns), columns)
        return self.down(activation(self.up(x, columns)), columns)


class Attention(nn.Module):
    """Grouped-query attention with optional query/key norms and score soft-cap."""

    config: TransformerConfig
    dtype: Any = jnp.float32
    remat: Remat = "none"
    kind: AttentionKind = "einsum"

    def setup(self) -> None:
        c = self.config
        self.query = Linear(c.num_heads * c.head_dim, c.attention_bias, self.dtype)
        self.key = Linear(c.num_kv_heads * c.head_dim, c.attention_bias, self.dtype)
        self.value = Linear(c.num_kv_heads * c.head_dim, c.attention_bias, self.dtype)
        self.out = Linear(c.hidden_size, c.attention_out_bias, self.dtype)
        if c.qk_norm:
            self.query_norm = Norm(c, self.dtype)
            self.key_norm = Norm(c, self.dtype)

    def _position(
        self,
        query: jax.Array,
        key: jax.Array,
        rope: tuple[jax.Array, jax.Array] | None,
        first: int = 0,
    ) -> tuple[jax.Array, jax.Array]:
        """Normalise and rotate queries and keys [..., heads, h]; tables [..., h / 2] of the keys.

        first: the slot of the first query.
        """
        if self.config.qk_norm:
            query, key = self.query_norm(query), self.key_norm(key)
        if rope is not None:
            cos, sin = rope[0][..., None, :], rope[1][..., None, :]
            query = rotate(query, cos[:, first:], sin[:, first:])
            key = rotate(key, cos, sin)
        return query, key

    @property
    def _scale(self) -> float:
        c = self.config
        return c.head_dim**-0.5 if c.attention_scale is None else c.attention_scale

    def _cap(self, scores: jax.Array) -> jax.Array:
        """Scale products of queries and keys, and cap them where the model does."""
        cap = self.config.attention_softcap
        scores = scores * self._scale
        return scores if cap is None else cap * jnp.tanh(scores / cap)

    def _weights(self, scores: jax.Array, mask: jax.Array) -> jax.Array:
        """Softmax of scaled, capped, masked float32 scores over the last axis, in float32."""
        scores = jnp.where(mask, self._cap(scores), NEGATIVE)
        return jax.nn.softmax(scores, axis=-1).astype(self.dtype)

    def _mix(
        self, query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | GroupMask
    ) -> jax.Array:
        """Let queries [B, T, K, H / K, h] read keys and values [B, T, K, h] of whole rows."""
        if self.kind == "fused":
            return read_fused(query, key, value, mask, self._scale)
        return read_rows(query, key, value, mask, self._cap)

    def _project(
        self, x: jax.Array, rope: tuple[jax.Array, jax.Array] | None, first: int = 0
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Compute queries [B, T, K, H / K, h], keys and values [B, T, K, h] of rows [B, T, D].

        first: there are queries from this slot on.
        """
        c = self.config
        batch, length, _ = x.shape
        query = self.query(x[:, first:]).reshape(batch, -1, c.num_heads, c.head_dim)
        key = self.key(x).reshape(batch, length, c.num_kv_heads, c.head_dim)
        value = self.value(x).reshape(batch, length, c.num_kv_heads, c.head_dim)
        query, key = self._position(query, key, rope, first)
        return (
            query.reshape(batch, -1, c.num_kv_heads, c.num_heads // c.num_kv_heads, c.head_dim),
            key,
            value,
        )

    def __call__(
        self,
        x: jax.Array,  # [B, T, D]
        rope: tuple[jax.Array, jax.Array] | None,  # each [B, T, h / 2]
        mask: jax.Array | GroupMask,  # [B, T - first, T], true where the query may see the key
        first: int = 0,  # the slot from which on tokens read; those before are read only
    ) -> tuple[jax.Array, LayerCache]:
        query, key, value = self._project(x, rope, first)
        mixed = recompute_attention(self._mix, self.remat)(query, key, value, mask)
        cache = LayerCache(key.transpose(0, 2, 3, 1), value.transpose(0, 2, 1, 3))
        return self.out(mixed.reshape(*mixed.shape[:2], -1)), cache

    def decode(
        self,
        x: jax.Array,  # [D, B]
        rope: tuple[jax.Array, jax.Array] | None,  # each [B, h / 2]
        mask: jax.Array,  # [B, S], true where the new token may see the slot
        cache: LayerCache,
        slot: jax.Array,  # where the new token stands
        prompt: LayerCache | None = None,  # of B / G prompts: the first P slots, G sequences' each
    ) -> tuple[jax.Array, LayerCache]:
        c = self.config
        batch = x.shape[1]
        slot = slot if prompt is None else slot - prompt.keys.shape[-1]
        query = self.query(x, True).T.reshape(batch, c.num_heads, c.head_dim)
        key = self.key(x, True).T.reshape(batch, c.num_kv_heads, c.head_dim)
        value = self.value(x, True).T.reshape(batch, c.num_kv_heads, c.head_dim)
        query, key = self._position(query, key, rope)
        query = query.reshape(batch, c.num_kv_heads, -1, c.head_dim)
        cache = append(cache, key, value, slot)
        mixed = self._read(query, mask, cache if prompt is None else (prompt, cache))
        return self.out(mixed.reshape(batch, -1).T, True), cache

    def extend(
        self,
        x: jax.Array,  # [B, T, D]
        rope: tuple[jax.Array, jax.Array] | None,  # each [B, T, h / 2]
        mask: jax.Array,  # [B, T, S], true where the new token may see the slot
        cache: LayerCache,
        places: jax.Array,  # [B, T], where the new tokens stand; beyond the cache: nowhere
    ) -> tuple[jax.Array, LayerCache]:
        query, key, value = self._project(x, rope)
        new = LayerCache(key.transpose(0, 2, 3, 1), value.transpose(0, 2, 1, 3))
        cache = write_rows(cache, new, places)
        weights = self._weights(read_keys(query, cache), mask[:, :, None, None])
        mixed = read_values(weights, cache)
        return self.out(mixed.reshape(*x.shape[:2], -1)), cache

    def _read(
        self, query: jax.Array, mask: jax.Array, cache: LayerCache | tuple[LayerCache, LayerCache]
    ) -> jax.Array:
        """Let one query per sequence [B, K, H / K, h] read a cache, or a prompt's and its own."""
        if isinstance(cache, LayerCache):
            weights = self._weights(read_keys(query, cache), mask[:, None, None])
            return read_values(weights, cache)
        prompt, own = cache
        rows, _, _, width = prompt.keys.shape

        def grouped(x: jax.Array) -> jax.Array:  # the queries that share a prompt
            return x.reshape(rows, -1, *x.shape[1:])

        shared = read_keys(grouped(query), prompt).reshape(*query.shape[:3], width)
        scores = jnp.concatenate([shared, read_keys(query, own)], axis=-1)
        weights = self._weights(scores, mask[:, None, None])
        mixed = read_values(grouped(weights[..., :width]), prompt)
        return mixed.reshape(query.shape) + read_values(weights[..., width:], own)


class Block(nn.Module):
    """One layer: attention and MLP with their norms and residual sums."""

    config: TransformerConfig
    dtype: Any = jnp.float32
    remat: Remat = "none"
    kind: AttentionKind = "einsum"

    def setup(self) -> None:
        self.attn_norm = Norm(self.config, self.dtype)
        self.attention = Attention(self.config, self.dtype, self.remat, self.kind)
        self.mlp_norm = Norm(self.config, self.dtype)
        self.mlp = MLP(self.config, self.dtype)
        if self.config.post_norms:
            self.attn_post_norm = Norm(self.config, self.dtype)
            self.mlp_post_norm = Norm(self.config, self.dtype)

    def _join(self, x: jax.Array, attended: jax.Array, columns: bool) -> jax.Array:
        """Add the attention's result and the MLP to the residual stream."""
        if self.config.post_norms:
            attended = self.attn_post_norm(attended, columns)
        residual = x if self.config.parallel_residual else x + attended
        fed = self.mlp(self.mlp_norm(residual, columns), columns)
        if self.config.post_norms:
            fed = self.mlp_post_norm(fed, columns)
        return x + attended + fed

    def __call__(
        self,
        x: jax.Array,
        rope: tuple[jax.Array, jax.Array] | None,
        mask: jax.Array | GroupMask,
        first: int = 0,
    ) -> tuple[jax.Array, LayerCache]:
        attended, cache = self.attention(self.attn_norm(x), rope, mask, first)
        return self._join(x[:, first:], attended, False), cache

    def decode(
        self,
        x: jax.Array,
        rope: tuple[jax.Array, jax.Array] | None,
        mask: jax.Array,
        cache: LayerCache,
        slot: jax.Array,
        prompt: LayerCache | None = None,
    ) -> tuple[jax.Array, LayerCache]:
        attended, cache = self.attention.decode(
            self.attn_norm(x, True), rope, mask, cache, slot, prompt
        )
        return self._join(x, attended, True), cache

    def extend(
        self,
        x: jax.Array,
        rope: tuple[jax.Array, jax.Array] | None,
        mask: jax.Array,
        cache: LayerCache,
        places: jax.Array,
    ) -> tuple[jax.Array, LayerCache]:
        attended, cache = self.attention.extend(self.attn_norm(x), rope, mask, cache, places)
        return self._join(x, attended, False), cache
