"""Shared fixtures: small models of every kind that tests need, made once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from rljax.models.config import TransformerConfig
from rljax.models.transformer import Model, make_model


def tiny_config(**changes) -> TransformerConfig:
    sizes = {
        "vocab_size": 61,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 8,
        "intermediate_size": 64,
        "context_length": 64,
    }
    return TransformerConfig(**(sizes | changes))


def noisy_params(model: Model, seed: int = 0, scale: float = 0.1):
    """Random parameters far from their start, so that no bias, norm or mask goes unnoticed."""
    params = model.init(jax.random.key(seed))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    return jax.tree.unflatten(
        tree,
        [
            leaf + scale * jax.random.normal(k, leaf.shape)
            for leaf, k in zip(leaves, keys, strict=True)
        ],
    )


@pytest.fixture(scope="session")
def tiny():
    model = make_model(tiny_config())
    return model, noisy_params(model)


@pytest.fixture
def left_padded():
    """Tokens [3, 9] with 0, 2 and 5 padding slots on the left."""
    tokens = jax.random.randint(jax.random.key(5), (3, 9), 0, 61)
    return tokens, jnp.arange(9)[None] >= jnp.array([0, 2, 5])[:, None]
