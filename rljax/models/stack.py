"""Run a decoder's layers one after another: written out, or as one body that is looped over.

Where layers alternate (Gemma: sliding, full), the body is one period of them. Layers that fill no
whole period are written out after the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax.shares import after

Params = dict[str, Any]
Step = Callable[[Params, jax.Array, Any, bool], tuple[jax.Array, Any]]
"""(layer's params, x, layer's cache or None, does it slide) -> x, layer's cache."""

STACKED = "stacked_layers"


class Layers(NamedTuple):
    """The kinds of the layers in order, and whether they are looped over."""

    slides: tuple[bool, ...]
    scan: bool

    @property
    def period(self) -> int:
        """Length of the shortest pattern that the layers repeat."""
        total = len(self.slides)
        return next(
            p for p in range(1, total + 1) if all(
                self.slides[i] == self.slides[i % p] for i in range(total)
            )
        )  # fmt: skip

    @property
    def looped(self) -> int:
        """Number of layers inside the loop; 0 where all are written out."""
        if not self.scan:
            return 0
        whole = len(self.slides) // self.period * self.period
        return whole if whole > self.period else 0


def stack_layers(layers: Layers, params: Params) -> Params:
    """Put the looped layers' parameters on a leading axis, one stack a place in the period.

    Returns params as they are where nothing is looped, or where it has been done. Raises ValueError
    where low-rank adapters stand in some of the layers only.
    """
    if not layers.looped or STACKED in params:
        return params
    places = [
        [params["layers"][str(i)] for i in range(place, layers.looped, layers.period)]
        for place in range(layers.period)
    ]
    for place in places:
        if len({jax.tree.structure(layer) for layer in place}) > 1:
            raise ValueError(
                "scan_layers needs layers of one shape, but lora.targets gives adapters to some of "
                "them only: adapt all layers, or leave out scan_layers"
            )
    stacks = tuple(jax.tree.map(lambda *leaves: jnp.stack(leaves), *place) for place in places)
    return params | {STACKED: stacks}


def run_layers(
    layers: Layers,
    params: Params,
    x: jax.Array,
    cache: Any,
    step: Step,
    last_step: Step | None = None,
) -> tuple[jax.Array, Any]:
    """Apply `step` for every layer; cache: what an earlier call returned, or None.

    last_step: for the last layer, where that is not looped over; None: `step`. Returns x and the
    cache: (stacks of the looped layers, one entry for each of the others).
    """
    stacks, singles = ((None,) * layers.period, None) if cache is None else cache
    made: Any = ()
    if layers.looped:

        def body(x: jax.Array, inputs: Any) -> tuple[jax.Array, Any]:
            stacked, caches = inputs
            out = []
            for place in range(layers.period):
                x, one = step(stacked[place], x, caches[place], layers.slides[place])
                out.append(one)
            return x, tuple(out)

        x, made = jax.lax.scan(body, x, (stack_layers(layers, params)[STACKED], stacks))
    rest, earlier = [], x
    for place, index in enumerate(range(layers.looped, len(layers.slides))):
        before = None if singles is None else singles[place]
        # a shared-out layer may be gathered while the one before it runs, but no earlier
        layer = after(params["layers"][str(index)], earlier)
        earlier = x
        if last_step is not None and index == len(layers.slides) - 1:
            step = last_step
        x, one = step(layer, x, before, layers.slides[index])
        rest.append(one)
    return x, (made, tuple(rest))
