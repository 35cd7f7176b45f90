"""One decoder for all families, as a NamedTuple of pure functions over a plain dict of parameters.

B batch, T tokens, S cache slots, D hidden, V vocabulary, L layers, K key/value heads, h head_dim.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from rljax.models.config import TransformerConfig
from rljax.models.layers import Block, LayerCache, Norm
from rljax.models.rotary import rotary_tables

Params = dict[str, Any]
Cache = tuple[LayerCache, ...]


class Init(Protocol):
    def __call__(self, key: jax.Array, dtype: Any = ...) -> Params: ...


class Apply(Protocol):
    def __call__(
        self, params: Params, tokens: jax.Array, attention_mask: jax.Array | None = ...
    ) -> jax.Array: ...


class Model(NamedTuple):
    """A language model without state: what differs between policy and reference is `params`."""

    config: TransformerConfig
    init: Init
    """(key, dtype=float32) -> params."""
    apply: Apply
    """(params, tokens [B, T], attention_mask [B, T] bool or None) -> logits [B, T, V] float32."""
    hidden: Apply
    """As apply, up to the final norm: [B, T, D]. For heads that must not hold [B, T, V] at once."""
    head: Any
    """(params, hidden [..., D]) -> logits [..., V] float32."""
    prefill: Any
    """(params, tokens [B, P], attention_mask, slots S) -> hidden [B, P, D], cache of S slots."""
    decode: Any
    """(params, token [B], position [B], slot, slot_mask [B, S], cache) -> hidden [D, B], cache."""
    head_columns: Any
    """(params, hidden [D, B]) -> logits [V, B] float32."""


def token_positions(attention_mask: jax.Array) -> jax.Array:
    """Count the real tokens before each token, [B, T] int32: left padding shifts no position."""
    return jnp.maximum(jnp.cumsum(attention_mask.astype(jnp.int32), axis=-1) - 1, 0)


def _attention_mask(config: TransformerConfig, real: jax.Array, *, local: bool) -> jax.Array:
    """Which key (last axis) each query may see: [B, T, T] bool; causal, real, and in the window."""
    length = real.shape[1]
    distance = jnp.arange(length)[:, None] - jnp.arange(length)[None, :]
    seen = distance >= 0
    if local and config.sliding_window is not None:
        seen &= distance < config.sliding_window
    return seen[None] & real[:, None, :]


def _embed(
    config: TransformerConfig, params: Params, tokens: Any, positions: Any, dtype: Any
) -> Any:
    x = params["embed"]["embedding"][tokens].astype(dtype)
    if config.embedding_scale is not None:
        x = x * jnp.asarray(config.embedding_scale, dtype)
    if config.positions == "learned":
        x = x + params["positions"]["embedding"][positions].astype(dtype)
    return x


def _cap(config: TransformerConfig, logits: jax.Array) -> jax.Array:
    if config.logits_softcap is None:
        return logits
    return config.logits_softcap * jnp.tanh(logits / config.logits_softcap)


def make_model(config: TransformerConfig, dtype: Any = None, remat: bool = False) -> Model:
    """Build the pure functions of a decoder.

    dtype: what activations and matrix products are computed in; None: as the embedding is stored.
    remat: recompute each layer in the backward pass instead of keeping its activations.
    """

    def compute_dtype(params: Params) -> Any:
        return params["embed"]["embedding"].dtype if dtype is None else dtype

    def kinds() -> tuple[bool, ...]:
        return tuple(sorted(set(config.slides)))

    def init(key: jax.Array, dtype: Any = jnp.float32) -> Params:
        block = Block(config)
        x = jnp.zeros((1, 1, config.hidden_size))
        rope = rotary_tables(config, jnp.zeros((1, 1), jnp.int32), local=False)
        rope_or_none = rope if config.positions == "rotary" else None
        embed_key, position_key, head_key, layers_key = jax.random.split(key, 4)

        def normal(key: jax.Array, *shape: int) -> jax.Array:
            return 0.02 * jax.random.normal(key, shape)

        def layer(key: jax.Array) -> Params:
            made = block.init(key, x, rope_or_none, jnp.ones((1, 1, 1), bool))["params"]
            # GPT-2's rule: branches that end in the residual stream start 1 / sqrt(2 L) smaller.
            for branch in (made["attention"]["out"], made["mlp"]["down"]):
                branch["kernel"] = branch["kernel"] * (2 * config.num_layers) ** -0.5
            return made

        params: Params = {
            "embed": {"embedding": normal(embed_key, config.vocab_size, config.hidden_size)},
            "layers": {
                str(i): layer(jax.random.fold_in(layers_key, i)) for i in range(config.num_layers)
            },
            "final_norm": Norm(config).init(head_key, x)["params"],
        }
        if config.positions == "learned":
            table = normal(position_key, config.context_length, config.hidden_size)
            params["positions"] = {"embedding": table}
        if not config.tie_embeddings:
            params["head"] = {"kernel": normal(head_key, config.vocab_size, config.hidden_size)}
            if config.head_bias:
                params["head"]["bias"] = jnp.zeros(config.vocab_size)
        return jax.tree.map(lambda leaf: leaf.astype(dtype), params)

    def run(
        params: Params, tokens: jax.Array, attention_mask: jax.Array | None
    ) -> tuple[jax.Array, list[LayerCache]]:
        real = jnp.ones(tokens.shape, bool)
        if attention_mask is not None:
            real = attention_mask.astype(bool)
        positions = token_positions(real)
        kind = compute_dtype(params)
        x = _embed(config, params, tokens, positions, kind)
        rotary = config.positions == "rotary"
        ropes = {s: rotary_tables(config, positions, local=s) if rotary else None for s in kinds()}
        masks = {s: _attention_mask(config, real, local=s) for s in kinds()}
        block = Block(config, kind)

        def layer(layer_params: Params, x: Any, rope: Any, mask: Any) -> tuple[Any, LayerCache]:
            return block.apply({"params": layer_params}, x, rope, mask)

        step = jax.checkpoint(layer) if remat else layer
        caches = []
        for i, slides in enumerate(config.slides):
            x, cache = step(params["layers"][str(i)], x, ropes[slides], masks[slides])
            caches.append(cache)
        return Norm(config, kind).apply({"params": params["final_norm"]}, x), caches

    def hidden(params: Params, tokens: jax.Array, attention_mask: jax.Array | None = None) -> Any:
        return run(params, tokens, attention_mask)[0]

    def kernel_and_bias(params: Params) -> tuple[jax.Array, jax.Array | None]:
        if config.tie_embeddings:
            return params["embed"]["embedding"], None
        return params["head"]["kernel"], params["head"].get("bias")

    def head(params: Params, hidden: jax.Array) -> jax.Array:
        kernel, bias = kernel_and_bias(params)
        logits = jax.lax.dot_general(
            hidden,
            kernel.astype(hidden.dtype),
            (((hidden.ndim - 1,), (1,)), ((), ())),
            preferred_element_type=jnp.float32,
        )
        return _cap(config, logits if bias is None else logits + bias.astype(jnp.float32))

    def head_columns(params: Params, hidden: jax.Array) -> jax.Array:
        kernel, bias = kernel_and_bias(params)
        logits = jnp.matmul(kernel.astype(hidden.dtype), hidden, preferred_element_type=jnp.float32)
        return _cap(config, logits if bias is None else logits + bias.astype(jnp.float32)[:, None])

    def apply(params: Params, tokens: jax.Array, attention_mask: jax.Array | None = None) -> Any:
        return head(params, hidden(params, tokens, attention_mask))

    def prefill(
        params: Params, tokens: jax.Array, attention_mask: jax.Array, slots: int
    ) -> tuple[jax.Array, Cache]:
        final, caches = run(params, tokens, attention_mask)
        room = ((0, 0), (0, 0), (0, slots - tokens.shape[1]), (0, 0))
        return final, tuple(LayerCache(*(jnp.pad(a, room) for a in cache)) for cache in caches)

    def decode(
        params: Params,
        token: jax.Array,
        position: jax.Array,
        slot: jax.Array,
        slot_mask: jax.Array,
        cache: Cache,
    ) -> tuple[jax.Array, Cache]:
        kind = compute_dtype(params)
        x = _embed(config, params, token, position, kind).T  # [D, B]
        rotary = config.positions == "rotary"
        ropes = {s: rotary_tables(config, position, local=s) if rotary else None for s in kinds()}
        masks = {False: slot_mask}
        if True in kinds() and config.sliding_window is not None:
            recent = jnp.arange(slot_mask.shape[1]) > slot - config.sliding_window
            masks[True] = slot_mask & recent[None]
        block = Block(config, kind)
        caches = []
        for i, slides in enumerate(config.slides):
            x, layer_cache = block.apply(
                {"params": params["layers"][str(i)]},
                x,
                ropes[slides],
                masks[slides],
                cache[i],
                slot,
                method="decode",
            )
            caches.append(layer_cache)
        return Norm(config, kind).apply({"params": params["final_norm"]}, x, True), tuple(caches)

    return Model(config, init, apply, hidden, head, prefill, decode, head_columns)
