"""One decoder, many options: cached decoding, padding, windows."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.models.masks import token_positions
from rljax.models.transformer import Model, make_model
from tests.conftest import noisy_params, quick_jit, tiny_config

GPT2 = {
    "positions": "learned",
    "norm": "layer",
    "norm_bias": True,
    "gated_mlp": False,
    "activation": "gelu_tanh",
    "num_kv_heads": 4,
    "attention_bias": True,
    "attention_out_bias": True,
    "mlp_bias": True,
}
NEOX = GPT2 | {
    "positions": "rotary",
    "rope_fraction": 0.25,
    "parallel_residual": True,
    "activation": "gelu",
    "tie_embeddings": False,
    "head_bias": True,
}
GEMMA = {
    "sliding_window": 4,
    "layer_windows": (True, False),
    "local_rope_theta": 1000.0,
    "qk_norm": True,
    "post_norms": True,
    "norm_scale_offset": 1.0,
    "attention_softcap": 20.0,
    "logits_softcap": 30.0,
    "embedding_scale": 5.6,
}
OPTIONS = {
    "llama": {},
    "gpt2": GPT2,
    "neox": NEOX,
    "gemma": GEMMA,
    "mistral": {"sliding_window": 3},
}
SLOTS = 9  # of `left_padded`


class Compiled(NamedTuple):
    """A model, its parameters, and its functions compiled."""

    model: Model
    params: Any
    apply: Any
    prefill: Any
    """(params, tokens, mask) -> logits after the last token, cache of SLOTS slots."""
    decode: Any
    """As the model's, but -> logits [V, B], cache."""


@functools.lru_cache
def compiled(name: str) -> Compiled:
    model = make_model(tiny_config(**OPTIONS[name]))

    def prefill(params, tokens, mask):
        hidden, cache = model.prefill(params, tokens, mask, SLOTS)
        return model.head(params, hidden), cache

    def decode(params, *arguments):
        column, cache = model.decode(params, *arguments)
        return model.head_columns(params, column), cache

    return Compiled(
        model, noisy_params(model), quick_jit(model.apply), quick_jit(prefill), quick_jit(decode)
    )


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("llama", "gpt2") else pytest.param(name, marks=pytest.mark.slow)
        for name in OPTIONS
    ],
)
def test_cached_decode_equals_full_forward(name, left_padded):
    tokens, mask = left_padded
    _, params, apply, prefill, decode = compiled(name)
    full = apply(params, tokens, mask)
    split, length = 6, SLOTS
    logits, cache = prefill(params, tokens[:, :split], mask[:, :split])
    pieces = [logits]
    for slot in range(split, length):
        seen = mask & (jnp.arange(length) <= slot)
        position = jnp.sum(mask[:, :slot], axis=1)
        logits, cache = decode(params, tokens[:, slot], position, jnp.int32(slot), seen, cache)
        pieces.append(logits.T[:, None])
    cached = np.asarray(jnp.concatenate(pieces, axis=1))
    real = mask[:, split - 1 :]
    np.testing.assert_allclose(cached[real], np.asarray(full)[:, split - 1 :][real], atol=2e-5)


@pytest.mark.parametrize("name", OPTIONS)
def test_padding_on_either_side_changes_nothing(name):
    _, params, apply, *_ = compiled(name)
    # Padded, the shape of `left_padded`: one program serves both tests.
    tokens = np.asarray(jax.random.randint(jax.random.key(1), (3, 6), 0, 61))
    plain = np.asarray(apply(params, tokens))
    junk = np.asarray(jax.random.randint(jax.random.key(2), (3, 3), 0, 61))
    real, not_real = np.ones((3, 6), bool), np.zeros((3, 3), bool)
    left = apply(params, np.concatenate([junk, tokens], 1), np.concatenate([not_real, real], 1))
    right = apply(params, np.concatenate([tokens, junk], 1), np.concatenate([real, not_real], 1))
    np.testing.assert_allclose(left[:, 3:], plain, atol=2e-5)
    np.testing.assert_allclose(right[:, :6], plain, atol=2e-5)


def test_positions_follow_the_mask():
    mask = jnp.array([[False, False, True, True], [True, True, True, False]])
    np.testing.assert_array_equal(token_positions(mask), [[0, 0, 0, 1], [0, 1, 2, 2]])


def test_bfloat16_parameters_give_float32_logits(left_padded):
    tokens, mask = left_padded
    model, _, apply, *_ = compiled("llama")
    params = quick_jit(model.init)(jax.random.key(0))
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    logits = apply(half, tokens, mask)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, apply(params, tokens, mask), atol=0.05)


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"norm": "batch"}, "norm"),
        ({"activation": "tanh"}, "activation"),
        ({"num_kv_heads": 3}, "num_kv_heads"),
        ({"layer_windows": (True,)}, "layer_windows"),
        ({"rope_fraction": 0.4}, "rotary"),
    ],
)
def test_impossible_configs_are_refused(changes, word):
    with pytest.raises(ValueError, match=word):
        tiny_config(**changes)


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "name, group, changes",
    [
        ("mistral", 1, {}),
        ("llama", 3, {"remat": "layers"}),
        slow("gemma", 3, {}),
        slow("gpt2", 1, {"remat": "attention"}),
        slow("neox", 1, {"attention": "fused"}),
        slow("llama", 3, {"scan_layers": True}),
    ],
)
def test_states_before_completions_are_those_of_whole_rows(name, group, changes, left_padded):
    """Of prompts, the last layer computes keys and values only; whole rows compute all."""
    rows = 3 * group
    tokens = jax.random.randint(jax.random.key(6), (rows, 4), 0, 61)
    real = jnp.arange(4) < jnp.tile(jnp.array([4, 2, 3]), group)[:, None]
    weights = jnp.cos(jnp.arange(rows * 4 * 32.0)).reshape(rows, 4, 32) * real[..., None]
    config = tiny_config(**OPTIONS[name])
    params = noisy_params(make_model(config))

    def behind(params):
        hidden = make_model(config, **changes).hidden_groups(params, *left_padded, tokens, real)
        return jnp.sum(weights * hidden), hidden

    def whole(params):
        text, seen = (
            jnp.concatenate([jnp.repeat(x, group, axis=0), y], axis=1)
            for x, y in zip(left_padded, (tokens, real), strict=True)
        )
        hidden = make_model(config).hidden(params, text, seen)[:, SLOTS - 1 : -1]
        return jnp.sum(weights * hidden), hidden

    (_, made), gradient = quick_jit(jax.value_and_grad(behind, has_aux=True))(params)
    (_, wanted), expected = quick_jit(jax.value_and_grad(whole, has_aux=True))(params)
    np.testing.assert_allclose(made[real], wanted[real], atol=2e-5)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * max(1.0, float(jnp.max(jnp.abs(b)))))


@pytest.mark.parametrize(
    "name, layers",
    [
        ("llama", 2),
        pytest.param("gpt2", 3, marks=pytest.mark.slow),
        pytest.param("gemma", 5, marks=pytest.mark.slow),
        pytest.param("mistral", 3, marks=pytest.mark.slow),
    ],
)
def test_looped_layers_equal_written_out_ones(name, layers, left_padded):
    tokens, mask = left_padded
    options = OPTIONS[name] | {"num_layers": layers}
    if "layer_windows" in options:  # a period of two; of five layers one is left over
        options["layer_windows"] = tuple(i % 2 == 0 for i in range(layers))
    config = tiny_config(**options)
    plain, looped = make_model(config), make_model(config, scan_layers=True)
    params = noisy_params(plain)

    def run(model):
        def all_of_it(params):
            logits = model.apply(params, tokens, mask)
            prepared = model.prepare(params)
            hidden, cache = model.prefill(prepared, tokens[:, :-1], mask[:, :-1], SLOTS)
            position = jnp.sum(mask[:, :-1], axis=1)
            column, _ = model.decode(
                prepared, tokens[:, -1], position, jnp.int32(SLOTS - 1), mask, cache
            )
            return jnp.sum(jnp.tanh(logits) * mask[..., None]), (logits, hidden, column)

        return quick_jit(jax.value_and_grad(all_of_it, has_aux=True))(params)

    for a, b in zip(jax.tree.leaves(run(plain)), jax.tree.leaves(run(looped)), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * max(1.0, float(jnp.max(jnp.abs(b)))))
