"""A recurrent language model behind the functions of a `Model`: its programs compile in seconds.

One layer of gated recurrent units (Cho et al. 2014, https://arxiv.org/abs/1406.1078), without
dropout. Sampler, scorer and updates run on it unchanged; there is no checkpoint format for it.
Ablations of nano size use it: most of what a tiny transformer takes on a CPU is its compilation.

    z = sigmoid(W_z x + U_z h + b_z)                   r = sigmoid(W_r x + U_r h + b_r)
    n = tanh(W_n x + b_n + r (U_n h))                  h' = (1 - z) n + z h

B sequences, N prompts, T tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rljax.models.config import TransformerConfig
from rljax.models.transformer import Model

Params = dict[str, Any]


def _gates(params: Params, token: jax.Array) -> jax.Array:
    """Compute the input's part of the gates: [..., 3 D]."""
    return params["embed"][token] + params["bias"]


def _move(params: Params, state: jax.Array, given: jax.Array) -> jax.Array:
    own = state @ params["recurrent"]
    both = 2 * state.shape[1]
    update, reset = jnp.split(jax.nn.sigmoid(given[:, :both] + own[:, :both]), 2, axis=1)
    new = jnp.tanh(given[:, both:] + reset * own[:, both:])
    return (1 - update) * new + update * state


def _run(params: Params, state: jax.Array, tokens: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Read tokens [B, T] from a state [B, D]: the states after each [B, T, D]."""
    real = jnp.ones(tokens.shape, bool) if mask is None else mask

    def step(state: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        given, is_real = now
        state = jnp.where(is_real[:, None], _move(params, state, given), state)
        return state, state

    states = jax.lax.scan(step, state, (_gates(params, tokens.T), real.T))[1]
    return jnp.swapaxes(states, 0, 1)


def _empty(params: Params, rows: int) -> jax.Array:
    """Return the states [rows, D] before the first token."""
    return jnp.zeros((rows, params["recurrent"].shape[0]), jnp.float32)


def _hidden(
    params: Params,
    tokens: jax.Array,
    attention_mask: jax.Array | None = None,
    segments: jax.Array | None = None,
) -> jax.Array:
    if segments is not None:
        raise ValueError("a GRU reads one document a row: leave out segments")
    return _run(params, _empty(params, len(tokens)), tokens, attention_mask)


def _hidden_groups(
    params: Params,
    prompts: jax.Array,
    prompt_mask: jax.Array,
    tokens: jax.Array,
    mask: jax.Array,
) -> jax.Array:
    asked = _run(params, _empty(params, len(prompts)), prompts, prompt_mask)[:, -1]
    first = jnp.repeat(asked, len(tokens) // len(prompts), axis=0)
    later = _run(params, first, tokens[:, :-1], mask[:, :-1])
    return jnp.concatenate([first[:, None], later], axis=1)


def _head(params: Params, states: jax.Array) -> jax.Array:
    return states @ params["head"] + params["head_bias"]


def _prefill(
    params: Params,
    tokens: jax.Array,
    attention_mask: jax.Array,
    slots: int,
    group: int = 1,
    rounded: bool = False,
) -> tuple[jax.Array, jax.Array]:
    del slots
    if rounded:
        raise ValueError("a GRU has no cache to hold in 8 bits")
    states = _run(params, _empty(params, len(tokens)), tokens, attention_mask)
    return states[:, -1:], jnp.repeat(states[:, -1], group, axis=0)


def _decode(
    params: Params,
    token: jax.Array,
    position: jax.Array,
    slot: jax.Array,
    slot_mask: jax.Array,
    cache: jax.Array,
    distance: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    del position, slot, slot_mask, distance
    state = _move(params, cache, _gates(params, token))
    return state.T, state


def make_gru(vocab_size: int, hidden_size: int, *, context_length: int = 1024) -> Model:
    """Build a language model of one recurrent layer; its config says the sizes alone.

    params: {"embed" [V, 3 D] (the input's part of the gates), "bias" [3 D], "recurrent" [D, 3 D],
    "head" [D, V], "head_bias" [V]}. Padding leaves the state as it is, so that left-padded prompts
    give what they give without padding. The state before the first token is 0.
    """
    config = TransformerConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=hidden_size,
        intermediate_size=hidden_size,
        context_length=context_length,
    )

    def init(key: jax.Array, dtype: Any = jnp.float32) -> Params:
        embed_key, state_key, head_key = jax.random.split(key, 3)

        def normal(key: jax.Array, *shape: int) -> jax.Array:
            return (jax.random.normal(key, shape) * shape[0] ** -0.5).astype(dtype)

        return {
            "embed": normal(embed_key, vocab_size, 3 * hidden_size),
            "bias": jnp.zeros(3 * hidden_size, dtype),
            "recurrent": normal(state_key, hidden_size, 3 * hidden_size),
            "head": normal(head_key, hidden_size, vocab_size),
            "head_bias": jnp.zeros(vocab_size, dtype),
        }

    return Model(
        config=config,
        init=init,
        apply=lambda params, *tokens: _head(params, _hidden(params, *tokens)),
        hidden=_hidden,
        hidden_groups=_hidden_groups,
        head=_head,
        head_params=lambda params: {"head": params["head"], "head_bias": params["head_bias"]},
        prepare=lambda params: params,
        prefill=_prefill,
        decode=_decode,
        head_columns=lambda params, states: (
            params["head"].T @ states + params["head_bias"][:, None]
        ),
    )
