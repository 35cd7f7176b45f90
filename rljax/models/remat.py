"""What a backward pass keeps of a layer's forward pass, and what it computes again.

Chen et al. 2016 (https://arxiv.org/abs/1604.06174); which parts pay: Korthikanti et al. 2022
(https://arxiv.org/abs/2205.05198), section 5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax

Remat = Literal["none", "attention", "products", "layers"]
"""none: keep everything. attention: compute scores and weights of attention again, which grow with
the square of the length. products: keep what parameters are multiplied with and give, compute the
rest again (attention, norms, activations): no product with a parameter is done twice. layers: keep
the inputs of layers only, compute them again: a third more products."""


def require_remat(remat: str) -> None:
    """Raise ValueError for a choice that there is not."""
    if remat not in get_args(Remat):
        raise ValueError(f"remat is {remat!r}; one of {', '.join(get_args(Remat))} is known")


def recompute_layer(function: Callable[..., Any], remat: Remat) -> Callable[..., Any]:
    """Wrap a layer, so that its backward pass keeps what `remat` says."""
    if remat == "layers":
        return jax.checkpoint(function)
    if remat == "products":
        policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        return jax.checkpoint(function, policy=policy)
    return function


def recompute_attention(function: Callable[..., Any], remat: Remat) -> Callable[..., Any]:
    """Wrap a function of queries, keys and values in the same way."""
    return jax.checkpoint(function) if remat == "attention" else function
