"""Compute short completions only as far as they reach: sorted, each pass in the smallest of a few
widths that holds its longest.

All widths are branches of one program, and the lengths pick one while it runs: nothing compiles
once training goes on, the host is not asked, and it works inside a loop over steps. What a pass
leaves out is padding, on which nothing depends.

B completions, G of each prompt, C completion slots.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax.parallel import common_maximum
from rljax.types import Prompts


class Buckets(NamedTuple):
    """How completions are scored by length."""

    number: int = 1
    """Widths to choose from; 1: all slots, and nothing is sorted."""
    parts: int = 1
    """Passes that a batch is scored in, of equally many rows of similar lengths."""

    def require_slots(self, slots: int) -> None:
        """Raise ValueError unless so many completion slots can be halved into these widths."""
        if 2 ** (self.number - 1) > slots:
            raise ValueError(
                f"length_buckets is {self.number}, but sampling.max_new_tokens {slots} cannot be "
                f"halved {self.number - 1} times: lower it"
            )


ONE_WIDTH = Buckets()


def bucket_widths(slots: int, count: int) -> tuple[int, ...]:
    """Return `count` rising widths, the last `slots`, each half of the next (rounded up).

    Fewer where they would be less than 1. Where lengths are geometric, halves leave as little
    padding as twice as many even steps, and each width is a program to compile.
    """
    return tuple(sorted({-(-slots // 2**k) for k in range(min(count, slots.bit_length() + 1))}))


def in_smallest_bucket(
    widths: tuple[int, ...], longest: jax.Array, function: Callable[[int], Any]
) -> Any:
    """Return function(width) of the first of the rising `widths` that is `longest` or more.

    longest: int32 scalar, at most the last width. The results must have one shape. On a mesh all
    devices take the same width, so that the function may hold collectives.
    """
    if len(widths) == 1:
        return function(widths[0])
    place = jnp.searchsorted(jnp.asarray(widths, jnp.int32), common_maximum(longest))
    return jax.lax.switch(place, [lambda width=width: function(width) for width in widths])


def length_order(lengths: jax.Array, unit: int) -> jax.Array:
    """Return the rows [B] by rising length; `unit` rows in turn stay together, as their longest."""
    longest = jnp.max(lengths.reshape(-1, unit), axis=1)
    order = jnp.argsort(longest, stable=True)
    return (order[:, None] * unit + jnp.arange(unit)).reshape(-1)


def map_by_length(
    function: Callable[[Prompts, Any], Any],
    prompts: Prompts,
    written: Any,
    mask: jax.Array,
    buckets: Buckets,
    group: int = 1,
) -> Any:
    """Compute function(prompts, written), a pytree of [B, C, ...], in passes of similar lengths.

    written: a pytree of [B, C, ...]; mask: bool [B, C], where it is real. The function is given
    some rows of both, and of `written` their first slots; it works row by row, or on whole groups.
    Slots that a pass leaves out come back as 0. group: so many rows in turn stay together.
    """
    batch, slots = mask.shape
    if buckets.number == 1:
        return function(prompts, written)
    unit = group if batch % group == 0 else 1
    parts = math.gcd(buckets.parts, batch // unit)
    widths = bucket_widths(slots, buckets.number)
    lengths = jnp.sum(mask, axis=1)
    order = length_order(lengths, unit)

    def one(part: tuple[Prompts, Any, jax.Array]) -> Any:
        asked, made, reach = part

        def cut(width: int) -> Any:
            found = function(asked, jax.tree.map(lambda x: x[:, :width], made))
            return jax.tree.map(lambda x: _widen(x, slots), found)

        return in_smallest_bucket(widths, jnp.max(reach), cut)

    rows = jax.tree.map(
        lambda x: jnp.asarray(x)[order].reshape(parts, -1, *x.shape[1:]),
        (prompts, written, lengths),
    )
    found = jax.lax.map(one, rows)
    back = jnp.argsort(order)
    return jax.tree.map(lambda x: x.reshape(batch, *x.shape[2:])[back], found)


def _widen(x: jax.Array, slots: int) -> jax.Array:
    room = [(0, 0), (0, slots - x.shape[1])] + [(0, 0)] * (x.ndim - 2)
    return jnp.pad(x, room)
