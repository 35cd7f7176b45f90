"""Parameters of which a device holds a share: gathered just before they are used.

Inside a program that runs on every device of a mesh, `rljax.parallel` hands such a parameter over
as a `Share`. Who reads parameters says `gathered` where it reads them; parameters that are whole
come back as they are, so that a program for one device is the same as without.

In the backward pass the gradient of a gathered parameter comes out summed over the devices and
shared out (a reduce-scatter: the transpose of a tiled all-gather), and `regathered` gathers the
parameter again instead of keeping it: Rajbhandari et al. 2020 (https://arxiv.org/abs/1910.02054),
stage 3, layer by layer.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

AXIS = "fsdp"
"""The mesh axis over which parameters are shared out."""


@functools.partial(jax.tree_util.register_dataclass, data_fields=["part"], meta_fields=["dim"])
@dataclasses.dataclass(frozen=True)
class Share:
    """A device's share of a parameter."""

    part: jax.Array
    """What the device holds; leading axes may have been added by stacking."""
    dim: int
    """The dimension that is shared out, counted from the last: -1, -2, ..."""

    @property
    def dtype(self) -> Any:
        """Return what the parameter is stored in."""
        return self.part.dtype


def is_share(node: Any) -> bool:
    """Say whether a part of a tree is a share."""
    return isinstance(node, Share)


def has_shares(tree: Any) -> bool:
    """Say whether any of the parameters is shared out."""
    return any(map(is_share, jax.tree.leaves(tree, is_leaf=is_share)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _gather(part: jax.Array, dim: int, kind: Any, stored: Any) -> jax.Array:
    del stored
    return jax.lax.all_gather(part.astype(kind), AXIS, axis=part.ndim + dim, tiled=True)


def _forward(part: jax.Array, dim: int, kind: Any, stored: Any) -> tuple[jax.Array, None]:
    return _gather(part, dim, kind, stored), None


def _backward(dim: int, kind: Any, stored: Any, _: None, whole: jax.Array) -> tuple[jax.Array]:
    scattered = jax.lax.psum_scatter(
        whole.astype(stored), AXIS, scatter_dimension=whole.ndim + dim, tiled=True
    )
    return (scattered,)


_gather.defvjp(_forward, _backward)


def gathered(tree: Any, kind: Any = None) -> Any:
    """Return parameters whole: every `Share` gathered from the devices.

    kind: what shares are cast to before they are sent, where only their values in that dtype are
    used; None: they are sent as they are stored. Gradients are summed as they are stored.
    """

    def whole(node: Any) -> Any:
        if not is_share(node):
            return node
        stored = jnp.dtype(node.dtype)
        return _gather(node.part, node.dim, stored if kind is None else jnp.dtype(kind), stored)

    return jax.tree.map(whole, tree, is_leaf=is_share)


def _keeps(primitive: Any, *_: Any, **params: Any) -> bool:
    """Say whether a result is kept for the backward pass: of products and fused kernels.

    Not what is gathered. What is cheap comes again from what is kept, as a compiler would choose
    by itself, was it not held to keep all or nothing of what is used beyond a barrier.
    """
    inside = getattr(params.get("call_jaxpr"), "eqns", ())
    if any(equation.primitive is jax.lax.all_gather_p for equation in inside):
        return False
    return primitive.name in ("dot_general", "custom_vjp_call")


def regathered(function: Callable[..., Any], *, recompute: bool = False) -> Callable[..., Any]:
    """Make function(params, ...), which gathers params, gather them again in its backward pass.

    No matrix product is computed a second time, unless `recompute`: then all of them are. Where no
    parameter is shared out, and without `recompute`, it is the function itself.
    """
    again = jax.checkpoint(function)
    kept = jax.checkpoint(function, policy=_keeps)

    def apply(params: Any, *rest: Any) -> Any:
        if recompute:
            return again(params, *rest)
        return (kept if has_shares(params) else function)(params, *rest)

    return apply


def after(params: Any, data: Any) -> Any:
    """Return params, which are gathered no earlier than data is there.

    A compiler may run all gathers of a program at its start, or those of a loop before the loop,
    and keep the parameters of a whole model from there on.
    """
    if not has_shares(params):
        return params
    params, _ = jax.lax.optimization_barrier((params, jax.lax.stop_gradient(data)))
    return params
