"""Read several tokens more into a cache, for every sequence where it stands.

B sequences, T new tokens at most, S cache slots, D hidden.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rljax.models.cache import Cache
from rljax.models.layer_cache import LayerCache
from rljax.models.layers import Block, Norm
from rljax.models.settings import Params, Settings, embed, tables
from rljax.models.stack import run_layers


def extend(
    settings: Settings,
    params: Params,
    tokens: jax.Array,
    counts: jax.Array,
    positions: jax.Array,
    first: jax.Array,
    slot_mask: jax.Array,
    cache: Cache,
) -> tuple[jax.Array, Cache]:
    """Run the new tokens [B, T] of each sequence after what its cache holds.

    counts [B]: how many of them are real, the first ones; others are written nowhere, and their
    states mean nothing. positions [B, T]. first [B]: the slot of the first one; the others follow.
    slot_mask [B, S]: the slots before `first` that are read; slots stand in the order of positions.
    Returns the states after the final norm [B, T, D], and the cache.
    """
    config, kind = settings.config, settings.compute_dtype(params)
    slots = jnp.arange(slot_mask.shape[1])
    steps = jnp.arange(tokens.shape[1])
    places = first[:, None] + steps
    distance = places[:, :, None] - slots  # [B, T, S]
    new = (slots >= first[:, None, None]) & (distance >= 0)
    masks = {False: slot_mask[:, None] | new}
    if config.sliding_window is not None:
        masks[True] = masks[False] & (distance < config.sliding_window)
    places = jnp.where(steps < counts[:, None], places, len(slots))
    ropes = {slides: tables(config, positions, local=slides) for slides in set(config.slides)}
    block = Block(config, kind)

    def step(layer_params: Params, x: Any, layer: Any, slides: bool) -> tuple[Any, LayerCache]:
        arguments = (x, ropes[slides], masks[slides], layer, places)
        return block.apply({"params": layer_params}, *arguments, method="extend")

    x = embed(config, params, tokens, positions, kind)
    x, cache = run_layers(settings.layers(), params, x, cache, step)
    return Norm(config, kind).apply({"params": params["final_norm"]}, x), cache
