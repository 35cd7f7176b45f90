"""Values of prefixes without a critic: the mean score of completions that go on from them.

VinePPO, Kazemnejad et al. 2024, section 4 (https://arxiv.org/abs/2410.01679).

B completions, P prompt slots, C completion slots, K samples of each prefix.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rljax.types import Completions, Prompts

Sample = Callable[[Any, Prompts, jax.Array], Completions]
"""(parameters, prompts, key) -> completions of C slots."""
Judge = Callable[[jax.Array, Completions], jax.Array]
"""(prompt ids [B], completions) -> scores [B] float32."""


def prefix_prompts(prompts: Prompts, made: Completions, samples: int) -> Prompts:
    """Make a prompt of every prefix, K times: [B C K, P + C - 1], left-padded.

    Row (b C + t) K + k is prompt b with its first t completion tokens; each has noise of its own.
    """
    rows, slots = made.tokens.shape
    before = jnp.arange(slots)[:, None]  # t
    column = jnp.arange(slots - 1)
    kept = jnp.broadcast_to(column < before, (rows, slots, slots - 1))
    text = jnp.broadcast_to(made.tokens[:, None, :-1], kept.shape)
    width = prompts.tokens.shape[1]
    asked = jnp.broadcast_to(prompts.tokens[:, None], (rows, slots, width))
    real = jnp.broadcast_to(prompts.mask[:, None], (rows, slots, width))
    tokens = jnp.concatenate([asked, text], axis=2)
    mask = jnp.concatenate([real, kept], axis=2)
    order = jnp.argsort(mask, axis=2, stable=True)  # padding first, text in its order
    tokens, mask = (jnp.take_along_axis(x, order, axis=2) for x in (tokens, mask))

    def repeated(x: jax.Array) -> jax.Array:
        return jnp.repeat(x.reshape(rows * slots, -1), samples, axis=0)

    ids = jnp.repeat(prompts.ids, slots * samples)
    return Prompts(repeated(tokens), repeated(mask), ids, jnp.arange(len(ids)))


def monte_carlo_values(
    sample: Sample,
    judge: Judge,
    params: Any,
    prompts: Prompts,
    made: Completions,
    key: jax.Array,
    *,
    samples: int,
) -> jax.Array:
    """Estimate the value before each token by K completions of its prefix: [B, C], 0 on padding.

    What goes on from a prefix of t tokens has C - t tokens at most, as the completion has. The
    score is the whole of the reward: a penalty charged on tokens is not in it.
    """
    rows, slots = made.tokens.shape
    asked = prefix_prompts(prompts, made, samples)
    later = sample(params, asked, key)
    first = jnp.tile(jnp.repeat(jnp.arange(slots), samples), rows)[:, None]  # t
    column = jnp.arange(slots)
    inside = jnp.clip(column - first, 0, slots - 1)
    kept = column < first

    def joined(given: jax.Array, new: jax.Array) -> jax.Array:
        spread = jnp.repeat(given, slots * samples, axis=0)
        return jnp.where(kept, spread, jnp.take_along_axis(new, inside, axis=1))

    tokens, mask = joined(made.tokens, later.tokens), joined(made.mask, later.mask)
    zeros = jnp.zeros(tokens.shape, jnp.float32)
    scores = judge(asked.ids, Completions(tokens, mask, zeros, zeros))
    values = jnp.mean(scores.reshape(rows, slots, samples), axis=2)
    return jnp.where(made.mask, values, 0).astype(jnp.float32)
