"""Walk through traced programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax


def equations(jaxpr: Any) -> Iterator[Any]:
    """List the equations of a jaxpr and of all that it calls."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def largest_float(jaxpr: Any) -> int:
    """Return the number of elements of the largest array of floats that any equation makes."""
    sizes = [
        out.aval.size
        for equation in equations(jaxpr)
        for out in equation.outvars
        if hasattr(out.aval, "dtype") and jax.numpy.issubdtype(out.aval.dtype, jax.numpy.floating)
    ]
    return max(sizes)
