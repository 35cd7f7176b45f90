"""Attention by kernels: the numbers of the written-out one, under every mask; XLA's on a CPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.models import fused_attention
from rljax.models.transformer import make_model
from tests.conftest import noisy_params, quick_jit, tiny_config


@functools.lru_cache
def gradients(attention: str, sliding: bool, dtype: str, length: int):
    """Gradients and states [3, T, D] under left padding and segments."""
    window = {"sliding_window": 3} if sliding else {"qk_norm": True}
    model = make_model(tiny_config(**window), dtype, attention=attention)
    tokens = jax.random.randint(jax.random.key(0), (3, length), 0, 61)
    mask = jnp.arange(length)[None] >= jnp.array([0, 2, 5])[:, None]
    segments = jnp.where(mask, 1 + (jnp.arange(length) > 6), 0)

    def loss(params):
        states = jnp.where(mask[..., None], model.hidden(params, tokens, mask, segments), 0)
        return jnp.sum(jnp.sin(states.astype(jnp.float32))), states

    return quick_jit(jax.grad(loss, has_aux=True))(noisy_params(model))


@pytest.mark.parametrize(
    "sliding, dtype, length",
    [
        (True, "float32", 9),
        pytest.param(False, "float32", 8, marks=pytest.mark.slow),
        pytest.param(False, "bfloat16", 9, marks=pytest.mark.slow),
    ],
)
def test_states_and_gradients_are_those_of_the_products(sliding, dtype, length):
    found = gradients("fused", sliding, dtype, length)
    expected = gradients("einsum", sliding, dtype, length)
    bound = 2e-4 if dtype == "float32" else 0.1
    scale = max(1.0, *(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(expected)))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            a.astype("float32"), b.astype("float32"), atol=bound * scale
        ),
        found,
        expected,
    )


@pytest.mark.slow
def test_a_shared_prompt():
    tokens = jax.random.randint(jax.random.key(0), (2, 5), 0, 61)
    mask = jnp.arange(5)[None] >= jnp.array([0, 2])[:, None]
    written = jax.random.randint(jax.random.key(1), (6, 4), 0, 61)
    arguments = (tokens, mask, written, jnp.ones(written.shape, bool))
    params = noisy_params(make_model(tiny_config()))
    found, expected = (
        quick_jit(make_model(tiny_config(), attention=kind).hidden_groups)(params, *arguments)
        for kind in ("fused", "einsum")
    )
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_cudnn_is_asked_for_in_half_precision_on_a_gpu(monkeypatch):
    assert fused_attention.implementation(jnp.dtype("bfloat16")) == "xla"  # a CPU
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")

    class Device:
        class client:
            platform_version = "PJRT C API\ncuda 12090"

    monkeypatch.setattr(jax, "devices", lambda: [Device])
    assert fused_attention.implementation(jnp.dtype("bfloat16")) == "cudnn"
    assert fused_attention.implementation(jnp.dtype("float32")) == "xla"


def test_what_kernels_are_given(monkeypatch):
    """Even lengths, a mask with one axis for the heads, and as many key heads as there are."""
    seen = {}

    def watched(query, key, value, **options):
        seen.update(options, shapes=(query.shape, key.shape, options["mask"].shape))
        return query

    monkeypatch.setattr(jax.nn, "dot_product_attention", watched)
    arrays = (jnp.ones((2, 5, 4, 8)), *[jnp.ones((2, 7, 2, 8))] * 2, jnp.ones((2, 5, 7), bool))
    made = fused_attention.fused_attention(*arrays, 0.5)
    assert made.shape == (2, 5, 4, 8) and seen["scale"] == 0.5
    assert seen["shapes"] == ((2, 6, 4, 8), (2, 8, 2, 8), (2, 1, 6, 8))
    assert not np.any(seen["mask"][:, :, :, 7])


def test_a_soft_cap_is_refused():
    with pytest.raises(ValueError, match="knows no soft-cap .* is 50: use 'einsum'"):
        make_model(tiny_config(attention_softcap=50.0), attention="fused")
    with pytest.raises(ValueError, match="attention is 'flash'"):
        make_model(tiny_config(), attention="flash")
