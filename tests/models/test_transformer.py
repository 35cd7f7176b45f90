"""One decoder, many options: cached decoding, padding, windows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.models.transformer import make_model, token_positions
from tests.conftest import noisy_params, tiny_config

pytestmark = pytest.mark.slow  # many small programs to compile

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


@pytest.mark.parametrize("name", OPTIONS)
def test_cached_decode_equals_full_forward(name, left_padded):
    tokens, mask = left_padded
    model = make_model(tiny_config(**OPTIONS[name]))
    params = noisy_params(model)
    full = model.apply(params, tokens, mask)
    split, length = 6, tokens.shape[1]
    hidden, cache = model.prefill(params, tokens[:, :split], mask[:, :split], length)
    pieces = [model.head(params, hidden)]
    for slot in range(split, length):
        seen = mask & (jnp.arange(length) <= slot)
        position = jnp.sum(mask[:, :slot], axis=1)
        column, cache = model.decode(
            params, tokens[:, slot], position, jnp.int32(slot), seen, cache
        )
        pieces.append(model.head_columns(params, column).T[:, None])
    cached = np.asarray(jnp.concatenate(pieces, axis=1))
    np.testing.assert_allclose(cached[mask], np.asarray(full)[mask], atol=2e-5)


@pytest.mark.parametrize("name", OPTIONS)
def test_padding_on_either_side_changes_nothing(name):
    model = make_model(tiny_config(**OPTIONS[name]))
    params = noisy_params(model)
    tokens = jax.random.randint(jax.random.key(1), (2, 7), 0, 61)
    plain = np.asarray(model.apply(params, tokens))
    junk = jax.random.randint(jax.random.key(2), (2, 3), 0, 61)
    real, not_real = jnp.ones((2, 7), bool), jnp.zeros((2, 3), bool)
    left = model.apply(
        params, jnp.concatenate([junk, tokens], 1), jnp.concatenate([not_real, real], 1)
    )
    right = model.apply(
        params, jnp.concatenate([tokens, junk], 1), jnp.concatenate([real, not_real], 1)
    )
    np.testing.assert_allclose(left[:, 3:], plain, atol=2e-5)
    np.testing.assert_allclose(right[:, :7], plain, atol=2e-5)


def test_positions_follow_the_mask():
    mask = jnp.array([[False, False, True, True], [True, True, True, False]])
    np.testing.assert_array_equal(token_positions(mask), [[0, 0, 0, 1], [0, 1, 2, 2]])


def test_remat_gives_the_same_gradient(left_padded):
    tokens, mask = left_padded
    config = tiny_config()
    params = noisy_params(make_model(config))

    def loss(model):
        return jax.grad(lambda p: jnp.sum(jnp.tanh(model.apply(p, tokens, mask))))(params)

    plain, remat = loss(make_model(config)), loss(make_model(config, remat=True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), plain, remat)


def test_bfloat16_parameters_give_float32_logits(left_padded):
    tokens, mask = left_padded
    model = make_model(tiny_config())
    params = model.init(jax.random.key(0))
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    logits = model.apply(half, tokens, mask)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, model.apply(params, tokens, mask), atol=0.05)


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
