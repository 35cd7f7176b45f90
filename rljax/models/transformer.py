"""One decoder for all families, as a NamedTuple of pure functions over a plain dict of parameters.

B batch, T tokens, S cache slots, D hidden, V vocabulary, L layers, K key/value heads, h head_dim.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from rljax.models import int8
from rljax.models.cache import Cache, GroupCache, group_cache, is_layer, round_cache, widen
from rljax.models.config import TransformerConfig
from rljax.models.extend import extend
from rljax.models.fused_attention import AttentionKind, require_expressible
from rljax.models.layer_cache import LayerCache
from rljax.models.layers import Block, Norm
from rljax.models.lora import merge
from rljax.models.masks import group_visible_keys, read_from, token_positions, visible_keys
from rljax.models.precision import cast_matrices, product
from rljax.models.remat import Remat, recompute_layer, require_remat
from rljax.models.settings import Settings, embed, tables
from rljax.models.stack import Step, run_layers, stack_layers
from rljax.shares import gathered, has_shares, regathered

Params = dict[str, Any]
Masks = dict[bool, Any]
"""By kind of layer (does it slide): what each query sees, [B, T, T] or a GroupMask."""


class Init(Protocol):
    def __call__(self, key: jax.Array, dtype: Any = ...) -> Params: ...


class Apply(Protocol):
    def __call__(
        self,
        params: Params,
        tokens: jax.Array,
        attention_mask: jax.Array | None = ...,
        segments: jax.Array | None = ...,
    ) -> jax.Array: ...


class Model(NamedTuple):
    """A language model without state: what differs between policy and reference is `params`."""

    config: TransformerConfig
    init: Init
    """(key, dtype=float32) -> params."""
    apply: Apply
    """(params, tokens [B, T], attention_mask [B, T] bool or None, segments [B, T] int or None) ->
    logits [B, T, V] float32. Segments number the documents that stand in one row: a token sees
    those of its own segment only, and positions count from the segment's start."""
    hidden: Apply
    """As apply, up to the final norm: [B, T, D]. For heads that must not hold [B, T, V] at once."""
    hidden_groups: Any
    """(params, prompts [N, P], prompt_mask, completions [N G, C], mask) -> the states before each
    completion token [N G, C, D], as `hidden` of prompts and completions, but each prompt runs once
    for its G completions, its last layer for what is read of it. No state before padding means
    anything."""
    head: Any
    """(params, hidden [..., D]) -> logits [..., V] float32."""
    head_params: Any
    """(params) -> those of them that head reads."""
    prepare: Any
    """(params) -> params for many calls of prefill, decode and head_columns: whole, low-rank
    adapters merged into the kernels, matrices in the dtype that they are multiplied in; call it
    before a loop.

    Shares of parameters are gathered here once, as what they are computed in, and stay until the
    loop has ended. To gather each layer for each token would send all parameters for every token,
    which takes 8 times as long as to read them where links carry 400 GB/s and memory 3.35 TB/s; and
    no device could end before all have, as a gather needs all of them. A model too large for one
    device's memory is shared out over `tensor` besides, which decoding does not undo."""
    prefill: Any
    """(params, tokens [N, P], attention_mask, slots S, group=1, rounded=False) -> hidden [N, 1, D]
    of the last token, cache of S slots for N group sequences: each prompt is that of `group`
    sequences, one after another. rounded: the cache is in 8 bits, and so is what decode adds to
    it."""
    decode: Any
    """(params, token [B], position [B], slot, slot_mask [B, S], cache, distance [B, S] or None) ->
    hidden [D, B], cache."""
    head_columns: Any
    """(params, hidden [D, B]) -> logits [V, B] float32."""
    dtype: Any = None
    """What activations and matrix products are computed in; None: as the embedding is stored."""
    extend: Any = None
    """(params, tokens [B, T], counts [B], positions [B, T], first [B], slot_mask [B, S], cache) ->
    hidden [B, T, D], cache. Several tokens more for a sequence: the first counts[b] of a row, which
    stand at slots first[b] and on. slot_mask: the slots before these that are read."""


# ------------------------------------------------------------------------------------ The ends


def _init(config: TransformerConfig, key: jax.Array, dtype: Any = jnp.float32) -> Params:
    block = Block(config)
    x = jnp.zeros((1, 1, config.hidden_size))
    rope = tables(config, jnp.zeros((1, 1), jnp.int32), local=False)
    embed_key, position_key, head_key, layers_key = jax.random.split(key, 4)

    def normal(key: jax.Array, *shape: int) -> jax.Array:
        return 0.02 * jax.random.normal(key, shape)

    def layer(key: jax.Array) -> Params:
        made = block.init(key, x, rope, jnp.ones((1, 1, 1), bool))["params"]
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


def _head_params(config: TransformerConfig, params: Params) -> Params:
    name = "embed" if config.tie_embeddings else "head"
    return {name: params[name]}


def _kernel_and_bias(
    config: TransformerConfig, params: Params
) -> tuple[jax.Array, jax.Array | None]:
    if config.tie_embeddings:
        return gathered(params["embed"])["embedding"], None
    head = gathered(params["head"])
    return head["kernel"], head.get("bias")


def _cap(config: TransformerConfig, logits: jax.Array) -> jax.Array:
    if config.logits_softcap is None:
        return logits
    return config.logits_softcap * jnp.tanh(logits / config.logits_softcap)


def _head(config: TransformerConfig, params: Params, hidden: jax.Array) -> jax.Array:
    kernel, bias = _kernel_and_bias(config, params)
    logits = product("...d,vd->...v", hidden, kernel.astype(hidden.dtype))
    return _cap(config, logits if bias is None else logits + bias.astype(jnp.float32))


def _head_columns(config: TransformerConfig, params: Params, hidden: jax.Array) -> jax.Array:
    kernel, bias = _kernel_and_bias(config, params)
    if int8.HEAD in params:
        rounded = params[int8.HEAD]
        logits = int8.linear(rounded[int8.KERNEL], rounded[int8.SCALE], hidden, columns=True)
    else:
        logits = product("vd,db->vb", kernel.astype(hidden.dtype), hidden)
    return _cap(config, logits if bias is None else logits + bias.astype(jnp.float32)[:, None])


# ----------------------------------------------------------------------------------- The trunk


def _trunk(
    settings: Settings,
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    masks: Masks,
    first: int = 0,
) -> tuple[jax.Array, Cache]:
    """Run whole rows: hidden states after the final norm [B, T - first, D], and the cache.

    first: the slot from which on states are wanted. The last layer computes no others, but keys and
    values, unless it is looped over.
    """
    config, kind = settings.config, settings.compute_dtype(params)
    ropes = {slides: tables(config, positions, local=slides) for slides in masks}
    block = Block(config, kind, settings.remat, settings.attention)

    def make_step(first: int) -> Step:
        readers = {slides: read_from(mask, first) for slides, mask in masks.items()}

        def layer(layer_params: Params, x: Any, rope: Any, mask: Any) -> tuple[Any, LayerCache]:
            return block.apply({"params": gathered(layer_params, kind)}, x, rope, mask, first)

        @jax.jit  # traced and differentiated once for all layers; the compiler takes it apart again
        def step(layer_params: Params, *inputs: Any) -> tuple[Any, LayerCache]:
            remat = settings.remat
            if remat == "none":
                return regathered(layer)(layer_params, *inputs)
            if remat == "attention" and has_shares(layer_params):
                remat = "products"  # the choice that keeps neither attention nor what is gathered
            return recompute_layer(layer, remat)(layer_params, *inputs)

        return lambda p, x, _, slides: step(p, x, ropes[slides], readers[slides])

    x = embed(config, params, tokens, positions, kind)
    step, last = make_step(0), make_step(first) if first else None
    x, cache = run_layers(settings.layers(), params, x, None, step, last)
    x = x[:, x.shape[1] - tokens.shape[1] + first :]  # a looped last layer has given all
    return Norm(config, kind).apply({"params": params["final_norm"]}, x), cache


def _run(
    settings: Settings,
    params: Params,
    tokens: jax.Array,
    attention_mask: jax.Array | None,
    segments: jax.Array | None = None,
    first: int = 0,
) -> tuple[jax.Array, Cache]:
    """Run sequences, or rows of several (segments): what `_trunk` returns."""
    config = settings.config
    real = jnp.ones(tokens.shape, bool) if attention_mask is None else attention_mask.astype(bool)
    masks = {
        slides: visible_keys(config, real, segments, local=slides) for slides in set(config.slides)
    }
    return _trunk(settings, params, tokens, token_positions(real, segments), masks, first)


def _hidden_groups(
    settings: Settings, params: Params, prompts: jax.Array, prompt_mask: jax.Array,
    tokens: jax.Array, mask: jax.Array,
) -> jax.Array:  # fmt: skip
    """Run N prompts [N, P] once and B = N G completions [B, C] after them.

    Returns the states before each completion token, [B, C, D].
    """
    (rows, width), (batch, length) = prompts.shape, tokens.shape
    seen = length - 1  # nothing is predicted from the last token
    real = mask[:, :seen].reshape(rows, batch // rows, seen)
    positions = jnp.sum(prompt_mask, axis=1)[:, None, None] + jnp.cumsum(real, axis=2) - 1
    positions = jnp.concatenate([token_positions(prompt_mask), positions.reshape(rows, -1)], axis=1)
    masks = {
        slides: group_visible_keys(settings.config, prompt_mask, real, local=slides)
        for slides in set(settings.config.slides)
    }
    packed = jnp.concatenate([prompts, tokens[:, :seen].reshape(rows, -1)], axis=1)
    hidden = _trunk(settings, params, packed, positions, masks, width - 1)[0]
    # copies, whose gradients are summed: in float32
    copies = jnp.repeat(hidden[:, :1].astype(jnp.float32), batch // rows, axis=0)
    first = copies.astype(hidden.dtype)
    return jnp.concatenate([first, hidden[:, 1:].reshape(batch, seen, hidden.shape[2])], axis=1)


def _prepare(settings: Settings, params: Params) -> Params:
    def whole(node: Any) -> Any:
        if not isinstance(node, dict):
            return gathered(node, settings.dtype)
        if "lora_a" in node:  # added up in the kernel's dtype
            return gathered(node)
        return {name: whole(child) for name, child in node.items()}

    return stack_layers(settings.layers(), cast_matrices(merge(whole(params)), settings.dtype))


def _prefill(
    settings: Settings,
    params: Params,
    tokens: jax.Array,
    attention_mask: jax.Array,
    slots: int,
    group: int = 1,
    rounded: bool = False,
) -> tuple[jax.Array, Cache]:
    final, cache = _run(settings, params, tokens, attention_mask, first=tokens.shape[1] - 1)
    cache = round_cache(cache) if rounded else cache
    missing = slots - tokens.shape[1]
    return final, widen(cache, missing) if group == 1 else group_cache(cache, missing, group)


def _decode(
    settings: Settings,
    params: Params,
    token: jax.Array,
    position: jax.Array,
    slot: jax.Array,
    slot_mask: jax.Array,
    cache: Cache,
    distance: jax.Array | None = None,
) -> tuple[jax.Array, Cache]:
    """Run one token per sequence at cache slot `slot`; slot_mask includes that slot.

    distance [B, S]: how many tokens before the new one each slot's stands; None: slots in order.
    """
    config, kind = settings.config, settings.compute_dtype(params)
    masks = {False: slot_mask}
    if config.sliding_window is not None:
        if distance is None:
            distance = slot - jnp.arange(slot_mask.shape[1])[None]
        masks[True] = slot_mask & (distance < config.sliding_window)
    ropes = {slides: tables(config, position, local=slides) for slides in set(config.slides)}
    block = Block(config, kind)

    @jax.jit
    def layer(layer_params: Params, *inputs: Any) -> Any:
        return block.apply({"params": layer_params}, *inputs, method="decode")

    def step(layer_params: Params, x: Any, layer_cache: Any, slides: bool) -> Any:
        own, prompt = (layer_cache, None) if is_layer(layer_cache) else layer_cache
        return layer(layer_params, x, ropes[slides], masks[slides], own, slot, prompt)

    x = embed(config, params, token, position, kind).T  # [D, B]
    read = cache
    if isinstance(cache, GroupCache):  # a layer reads both parts, and writes its own
        read = jax.tree.map(lambda *parts: parts, cache.own, cache.prompt, is_leaf=is_layer)
    x, own = run_layers(settings.layers(), params, x, read, step)
    made = cache._replace(own=own) if isinstance(cache, GroupCache) else own
    return Norm(config, kind).apply({"params": params["final_norm"]}, x, True), made


def make_model(
    config: TransformerConfig,
    dtype: Any = None,
    remat: Remat = "none",
    scan_layers: bool = False,
    attention: AttentionKind = "einsum",
) -> Model:
    """Build the pure functions of a decoder.

    dtype: what activations and matrix products are computed in, from parameters of any dtype; sums
      (of norms, softmax, logits) are float32. None: as the embedding is stored.
    remat: what the backward pass computes again, instead of keeping it (rljax.models.remat).
    scan_layers: compile the body of one layer (of one period, where layers alternate) and loop over
      it: compile time does not grow with depth. It costs a second copy of the layers' parameters
      while a program runs, and on a CPU the decode is slower; the numbers are the same.
    attention: of whole sequences; fused: by kernels (rljax.models.fused_attention). Decoding is not
      changed.
    """
    require_remat(remat)
    require_expressible(config, attention)
    settings = Settings(config, dtype, remat, scan_layers, attention)

    def hidden(
        params: Params,
        tokens: jax.Array,
        attention_mask: jax.Array | None = None,
        segments: jax.Array | None = None,
    ) -> jax.Array:
        return _run(settings, params, tokens, attention_mask, segments)[0]

    def apply(
        params: Params,
        tokens: jax.Array,
        attention_mask: jax.Array | None = None,
        segments: jax.Array | None = None,
    ) -> jax.Array:
        return _head(config, params, hidden(params, tokens, attention_mask, segments))

    return Model(
        config,
        init=functools.partial(_init, config),
        apply=apply,
        hidden=hidden,
        hidden_groups=functools.partial(_hidden_groups, settings),
        head=functools.partial(_head, config),
        head_params=functools.partial(_head_params, config),
        prepare=functools.partial(_prepare, settings),
        prefill=functools.partial(_prefill, settings),
        decode=functools.partial(_decode, settings),
        head_columns=functools.partial(_head_columns, config),
        dtype=dtype,
        extend=functools.partial(extend, settings),
    )
