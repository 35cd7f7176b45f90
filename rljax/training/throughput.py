"""Measure this machine: what its matrix unit gives, how long calls take, what memory they need."""

from __future__ import annotations

import functools
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rljax import compiler
from rljax.types import Completions, Prompts


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


def compare_slots(
    make: Callable[[int | None], Callable[..., Completions]],
    params: Any,
    prompts: Prompts,
    key: jax.Array,
    *,
    slots: int,
    repeats: int,
) -> dict[str, Any]:
    """Time sampling B prompts at once, in batches of as many rows as slots, and through slots.

    make: how many slots, None for a plain batch, -> (params, value head, prompts, key) ->
    completions. Returns tokens/s of each, how many times as fast as the others the slots were in
    each round, the share of prompts whose completions are the same in all three, and the mean
    length. `slots` must divide B.
    """
    batch = prompts.tokens.shape[0]
    parts = [
        (params, None, jax.tree.map(lambda x, i=i: x[i : i + slots], prompts), key)
        for i in range(0, batch, slots)
    ]
    plain, through = (compiler.jit(make(count)) for count in (None, slots))
    whole = (params, None, prompts, key)
    calls: dict[str, Callable[[], Any]] = {
        "plain": functools.partial(plain, *whole),
        "batches": lambda: [plain(*part) for part in parts],
        "slots": functools.partial(through, *whole),
    }
    made, apart, queued = (jax.block_until_ready(call()) for call in calls.values())
    same = made.tokens == queued.tokens
    same &= made.tokens == jnp.concatenate([part.tokens for part in apart])
    tokens = int(jnp.sum(made.mask))
    seconds = dict(zip(calls, interleaved(list(calls.values()), repeats), strict=True))

    def gain(over: str) -> list[float]:
        return [a / b for a, b in zip(seconds[over], seconds["slots"], strict=True)]

    rates = {f"{name}_tokens_per_s": tokens / statistics.median(t) for name, t in seconds.items()}
    return rates | {
        "mean_length": tokens / batch,
        "same_share": float(jnp.mean(jnp.all(same, axis=1))),
        "ratios": gain("plain"),
        "batch_ratios": gain("batches"),
    }


def peak_memory() -> dict[str, float | None]:
    """Return the highest memory of this process so far, on the host and on the device, in MiB."""
    stats = jax.local_devices()[0].memory_stats() or {}
    device = stats.get("peak_bytes_in_use")
    return {
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "peak_device_mb": None if device is None else device / 2**20,
    }
