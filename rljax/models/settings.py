"""What a model's functions are built with, and how tokens get in: embedding and positions."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax.models.config import TransformerConfig
from rljax.models.fused_attention import AttentionKind
from rljax.models.remat import Remat
from rljax.models.rotary import rotary_tables
from rljax.models.stack import Layers
from rljax.shares import after, gathered

Params = dict[str, Any]


class Settings(NamedTuple):
    """What is fixed when a model's functions are built."""

    config: TransformerConfig
    dtype: Any
    remat: Remat
    scan_layers: bool
    attention: AttentionKind

    def compute_dtype(self, params: Params) -> Any:
        """Return what activations are computed in."""
        return params["embed"]["embedding"].dtype if self.dtype is None else self.dtype

    def layers(self) -> Layers:
        """Return in which order layers run, and whether as one compiled body."""
        return Layers(self.config.slides, self.scan_layers)


def tables(config: TransformerConfig, positions: jax.Array, *, local: bool) -> Any:
    """Rotary tables of these positions; None where positions are learned."""
    if config.positions != "rotary":
        return None
    return rotary_tables(config, positions, local=local)


def embed(
    config: TransformerConfig, params: Params, tokens: Any, positions: Any, dtype: Any
) -> Any:
    """Look up tokens, and learned positions: [..., D] of a dtype."""
    table = gathered(after(params["embed"], tokens))["embedding"]
    x = table[tokens].astype(dtype)
    if config.embedding_scale is not None:
        x = x * jnp.asarray(config.embedding_scale, dtype)
    if config.positions == "learned":
        table = gathered(after(params["positions"], positions))["embedding"]
        x = x + table[positions].astype(dtype)
    return x
