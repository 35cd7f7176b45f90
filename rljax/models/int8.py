"""Products of matrices that are kept in 8 bits: int8 times int8, summed in int32.

A number is a multiple of its row's scale, the largest absolute value of the row over 127 (symmetric
rounding to nearest; Dettmers et al. 2022, https://arxiv.org/abs/2208.07339, section 3.1). What is
multiplied with such a matrix is rounded in the same way when it is met: a product that had to
convert the matrix first would write the floats to memory and read them again, at every token.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Params = dict[str, Any]

LARGEST = 127
STEP = 2 * LARGEST
"""The second level of `split` divides half a unit of the first, each way, into 127 parts."""
KERNEL, SCALE, HEAD = "kernel_int8", "kernel_scale", "head_int8"
"""What stands in the parameters in place of a kernel, and beside a tied one."""


class Rounded(NamedTuple):
    """An array in 8 bits: about values * scale."""

    values: jax.Array
    """int8."""
    scale: jax.Array
    """float32; of size 1 in the axis that the array is rounded over."""


def round_over(x: jax.Array, axis: int) -> Rounded:
    """Round x with one scale for all of `axis`; zeros stay zeros."""
    scaled, scale = _scaled(x, axis)
    return Rounded(jnp.round(scaled).astype(jnp.int8), scale)


def split_over(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Round x to 15 bits, as two int8 arrays on a new leading axis, and the scale.

    x is about (first + second / STEP) * scale. Where a softmax gives one key nearly all of the
    weight, 8 bits would round the sum of the others away.
    """
    scaled, scale = _scaled(x, axis)
    first = jnp.round(scaled)
    second = jnp.round((scaled - first) * STEP)
    return jnp.stack([first, second]).astype(jnp.int8), scale


def _scaled(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    x = x.astype(jnp.float32)
    scale = jnp.max(jnp.abs(x), axis=axis, keepdims=True) / LARGEST
    return x / jnp.where(scale > 0, scale, 1), scale


def split_product(spec: str, x: jax.Array, matrix: jax.Array) -> jax.Array:
    """Compute einsum(spec, x, matrix) of an int8 matrix, over the last axis of x: float32.

    The result has the axes of x but for the last; the last but one is not summed over.
    """
    (first, second), scale = split_over(x, -1)
    # as more rows of one product: with an axis of their own it is one that XLA's CPU backend is
    # slow at, and a single row would be a product with a vector, for which it converts the matrix
    both = jnp.concatenate([first, second], axis=-2)
    made = jnp.einsum(spec, both, matrix, preferred_element_type=jnp.int32).astype(jnp.float32)
    first, second = jnp.split(made, 2, axis=-2)
    return (first + second / STEP) * scale


def linear(kernel: jax.Array, scale: jax.Array, x: jax.Array, columns: bool) -> jax.Array:
    """Multiply by a kernel [out, in] with a scale for each output: float32.

    x: [..., in]; columns: [in, B]. Each token is rounded with a scale of its own.
    """
    if not columns:
        rows = round_over(x, -1)
        whole = jnp.einsum("...i,oi->...o", rows.values, kernel, preferred_element_type=jnp.int32)
        return whole.astype(jnp.float32) * rows.scale * scale
    count = x.shape[1]
    if count == 1:  # XLA's CPU backend has no int8 product of a matrix and a vector
        x = jnp.pad(x, ((0, 0), (0, 1)))
    made = round_over(x, 0)
    whole = jnp.matmul(kernel, made.values, preferred_element_type=jnp.int32)
    return (whole.astype(jnp.float32) * made.scale)[:, :count] * scale[:, None]


def round_params(params: Params) -> Params:
    """Round the kernels of all layers, and a copy of the head's: int8 with a scale per output.

    Embeddings, norms and biases stay. Layers [L, ...] that are stacked work as single ones do.
    Adapters have to be merged before.
    """

    def walk(node: Any) -> Any:
        if isinstance(node, tuple):  # stacks of layers
            return tuple(walk(child) for child in node)
        if not isinstance(node, dict):
            return node
        if "kernel" not in node:
            return {name: walk(child) for name, child in node.items()}
        return {name: leaf for name, leaf in node.items() if name != "kernel"} | _rounded(
            node["kernel"]
        )

    head = params["head"]["kernel"] if "head" in params else params["embed"]["embedding"]
    layers = {name: walk(node) for name, node in params.items() if "layers" in name}
    return params | layers | {HEAD: _rounded(head)}


def _rounded(kernel: jax.Array) -> Params:
    made = round_over(kernel, -1)
    return {KERNEL: made.values, SCALE: made.scale[..., 0]}
