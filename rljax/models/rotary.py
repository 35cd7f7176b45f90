"""Rotary position embeddings (Su et al. 2021), rotate-half form, as the Hugging Face models."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from rljax.models.config import RopeScaling, TransformerConfig


def inverse_frequencies(dim: int, theta: float, scaling: RopeScaling | None) -> np.ndarray:
    """Compute theta ** (-2i / dim), [dim / 2] float32, stretched by `scaling`.

    `llama3` follows the Llama 3.1 release: frequencies whose wavelength is longer than
    original_context / low_freq_factor are divided by `factor`, those shorter than
    original_context / high_freq_factor are kept, and the band between is interpolated.
    """
    frequencies = 1.0 / theta ** (np.arange(0, dim, 2, dtype=np.float64) / dim)
    if scaling is None:
        return frequencies.astype(np.float32)
    if scaling.kind == "linear":
        return (frequencies / scaling.factor).astype(np.float32)
    wavelengths = 2 * math.pi / frequencies
    smooth = (scaling.original_context / wavelengths - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    smooth = np.clip(smooth, 0.0, 1.0)
    scaled = (1 - smooth) * frequencies / scaling.factor + smooth * frequencies
    return scaled.astype(np.float32)


def rotary_tables(
    config: TransformerConfig, positions: jax.Array, *, local: bool
) -> tuple[jax.Array, jax.Array]:
    """Compute cos and sin of position x frequency, each [..., rotary_dim / 2] float32."""
    if local and config.local_rope_theta is not None:
        frequencies = inverse_frequencies(config.rotary_dim, config.local_rope_theta, None)
    else:
        frequencies = inverse_frequencies(config.rotary_dim, config.rope_theta, config.rope_scaling)
    angles = positions.astype(jnp.float32)[..., None] * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotate the leading part of the last axis of x by the tables (broadcast against x)."""
    half = cos.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    cos, sin = cos.astype(x.dtype), sin.astype(x.dtype)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)
