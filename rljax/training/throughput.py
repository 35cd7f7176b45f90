"""Measure what this machine's matrix unit gives, as the yardstick of utilisation."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp


def matmul_rate(dtype: Any = jnp.float32, size: int = 1024, repeats: int = 5) -> float:
    """Measure FLOP/s of a square matrix product in this process, the best of `repeats`."""
    left = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a: a @ a)
    product(left).block_until_ready()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        product(left).block_until_ready()
        times.append(time.perf_counter() - start)
    return 2.0 * size**3 / min(times)
