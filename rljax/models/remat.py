"""What a backward pass keeps of a layer's forward pass, and what it computes again.

Chen et al. 2016 (https://arxiv.org/abs/1604.06174); which parts pay: Korthikanti et al. 2022
(https://arxiv.org/abs/2205.05198), section 5.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

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
    """Wrap layer(params, x, *rest), so that its backward pass keeps what `remat` says."""
    if remat == "layers":
        return _recomputed(function, jax.checkpoint_policies.nothing_saveable)
    if remat == "products":
        return _recomputed(function, jax.checkpoint_policies.dots_with_no_batch_dims_saveable)
    return function


def recompute_attention(function: Callable[..., Any], remat: Remat) -> Callable[..., Any]:
    """Wrap a function of queries, keys, values and mask in the same way."""
    if remat != "attention":
        return function
    policy = jax.checkpoint_policies.nothing_saveable
    wrapped = _recomputed(lambda mask, qkv: function(*qkv, mask), policy)
    return lambda query, key, value, mask: wrapped(mask, (query, key, value))


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["made", "given"],
    meta_fields=["tree", "is_given"],
)
@dataclasses.dataclass(frozen=True)
class _Kept:
    """What a backward pass keeps: the leaves of a pulling function, in two parts."""

    made: list[jax.Array]
    given: list[jax.Array]
    tree: Any
    is_given: tuple[bool, ...]

    def pull(self, made: list[jax.Array]) -> Any:
        """Put the function together again."""
        parts = iter(made), iter(self.given)
        return jax.tree.unflatten(self.tree, [next(parts[given]) for given in self.is_given])


def _recomputed(function: Callable[..., Any], policy: Any) -> Callable[..., Any]:
    """Return function(given, x, *rest), whose second run waits for the gradient of its result.

    Else a compiler may run all layers a second time at once, and hold as much as without.
    """
    inner = jax.checkpoint(function, policy=policy)

    @jax.custom_vjp
    def outer(given: Any, x: Any, rest: Any) -> Any:
        return inner(given, x, *rest)

    def forward(given: Any, x: Any, rest: Any) -> tuple[Any, _Kept]:
        out, pull = jax.vjp(lambda *inputs: inner(*inputs[:2], *inputs[2]), given, x, rest)
        leaves, tree = jax.tree.flatten(pull)
        held = {id(leaf) for leaf in jax.tree.leaves((given, rest))}  # anyhow, and for all layers
        is_given = tuple(id(leaf) in held for leaf in leaves)
        made = [leaf for leaf, known in zip(leaves, is_given, strict=True) if not known]
        others = [leaf for leaf, known in zip(leaves, is_given, strict=True) if known]
        return out, _Kept(made, others, tree, is_given)

    def backward(kept: _Kept, gradient: Any) -> Any:
        signal = jax.tree.leaves(gradient)[0].reshape(-1)[0]
        made = [
            jax.lax.platform_dependent(leaf, signal, cpu=_after, default=lambda leaf, _: leaf)
            for leaf in kept.made
        ]
        return kept.pull(made)(gradient)

    outer.defvjp(forward, backward)
    return lambda given, x, *rest: outer(given, x, rest)


def _after(x: jax.Array, signal: jax.Array) -> jax.Array:
    """Return x, so that XLA believes it to depend on a number, which is finite.

    The barrier of jax.checkpoint does so elsewhere; XLA for CPUs takes it out before it orders a
    program. One element is written anew, with 0 times the number added.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating) or not x.size:
        return x
    corner = (0,) * x.ndim
    first = jax.lax.dynamic_slice(x, corner, (1,) * x.ndim)
    return jax.lax.dynamic_update_slice(x, first + (signal * 0).astype(x.dtype), corner)
