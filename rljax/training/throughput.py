"""Measure this machine: what its matrix unit gives, how long calls take, what memory they need."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
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


def copy_rate(
    megabytes: int = 64, repeats: int = 5, shortest_s: float = 0.005, largest: int = 2048
) -> float:
    """Measure bytes/s that this process reads and writes, the best of `repeats`.

    A large array of float32 is changed in its place: each byte is read and written once. The size
    doubles from `megabytes` up to `largest` until that takes `shortest_s` seconds.
    """
    change = jax.jit(lambda x: x + 1, donate_argnums=0)
    while True:
        array = change(jnp.zeros(megabytes * 2**18, jnp.float32)).block_until_ready()
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            array = change(array).block_until_ready()
            times.append(time.perf_counter() - start)
        if min(times) >= shortest_s or 2 * megabytes > largest:
            return 2.0 * megabytes * 2**20 / min(times)
        megabytes *= 2


def interleaved(calls: Sequence[Callable[[], Any]], rounds: int) -> list[list[float]]:
    """Time calls in turn, so that a busy moment of the machine meets all of them: seconds."""
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, times in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(call())
            times.append(time.perf_counter() - start)
    return seconds


def peak_memory() -> dict[str, float | None]:
    """Return the highest memory of this process so far, on the host and on the device, in MiB."""
    stats = jax.local_devices()[0].memory_stats() or {}
    device = stats.get("peak_bytes_in_use")
    return {
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "peak_device_mb": None if device is None else device / 2**20,
    }
