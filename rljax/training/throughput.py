"""Measure what this machine's matrix unit gives, as the yardstick of utilisation."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp


def matmul_rate(
    dtype: Any = jnp.float32,
    size: int = 1024,
    repeats: int = 5,
    shortest_s: float = 0.005,
    largest: int = 16384,
) -> float:
    """Measure FLOP/s of a square matrix product in this process, the best of `repeats`.

    The size starts at `size` and doubles, up to `largest`, until a product takes `shortest_s`
    seconds: where it takes less, starting it is what would be measured. The numbers are random,
    since some accelerators draw less power, and so run faster, on constant ones.
    """
    product = jax.jit(lambda a: a @ a)
    while True:
        matrix = jax.random.normal(jax.random.key(0), (size, size), dtype)
        product(matrix).block_until_ready()
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            product(matrix).block_until_ready()
            times.append(time.perf_counter() - start)
        if min(times) >= shortest_s or 2 * size > largest:
            return 2.0 * size**3 / min(times)
        size *= 2
