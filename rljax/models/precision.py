"""Mixed precision: matrix products of bfloat16 numbers, everything that adds up in float32.

As in Micikevicius et al. 2018 (https://arxiv.org/abs/1710.03740), section 3.1: trained parameters
are kept in float32, the masters; a product reads copies in the compute dtype. A step of an
optimizer is often smaller than the distance of two bfloat16 numbers, and would be lost there.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp


def product(subscripts: str, left: jax.Array, right: jax.Array) -> jax.Array:
    """Compute the einsum of two arrays of one dtype; the result is float32, and summed so.

    The gradient of the result is rounded to the operands' dtype before it is multiplied by them: a
    product of float32 and bfloat16 would run at the rate of float32.
    """
    if left.dtype == jnp.float32:
        return jnp.einsum(subscripts, left, right)
    return _product(subscripts, left, right)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(subscripts: str, left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.einsum(subscripts, left, right, preferred_element_type=jnp.float32)


def _forward(subscripts: str, left: jax.Array, right: jax.Array) -> Any:
    return _product(subscripts, left, right), (left, right)


def _backward(subscripts: str, operands: tuple[jax.Array, jax.Array], gradient: jax.Array) -> Any:
    _, pull = jax.vjp(functools.partial(jnp.einsum, subscripts), *operands)
    return pull(gradient.astype(operands[0].dtype))


_product.defvjp(_forward, _backward)


def masters(params: Any) -> Any:
    """Copy parameters that will be trained, in float32."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32), params)


def cast_matrices(params: Any, dtype: Any) -> Any:
    """Return parameters with matrices in the dtype that products read them in; None: as they are.

    A model that computes in this dtype does the same with them, bit for bit: what norms and the
    head's bias read in float32 stays as it is.
    """

    def cast(path: Any, leaf: jax.Array) -> jax.Array:
        norm = "norm" in jax.tree_util.keystr(path)
        return leaf if leaf.ndim < 2 or norm else leaf.astype(dtype)

    return params if dtype is None else jax.tree_util.tree_map_with_path(cast, params)
