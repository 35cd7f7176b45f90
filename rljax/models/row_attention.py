"""Attention of whole rows: of sequences, or of prompts with all of their completions behind them.

Heads come before slots while queries read, so that each product is one of a batch of matrices as
they lie in memory, and is divided by the sum of its weights afterwards: h numbers a query instead
of S. In the usual order, attention and its projections took 1.1 (SmolLM2-135M) and 1.2 times (GPT-2
of 4 x 128) as long on 2 CPU cores, with their gradients.

B batch, T queries, S keys, K key/value heads, Q = H / K queries each, h head_dim.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rljax.models.precision import product

NEGATIVE = -1e30  # finite, so that a row without any key gives no NaN


class GroupMask(NamedTuple):
    """What queries see where a row is a prompt and then the G completions of it, one by one.

    N prompts of P slots, G completions of C slots each: T = P + G C.
    """

    prompt: jax.Array
    """[N, P, P]: the prompt's tokens among themselves; [N, R, P] where only the last R read."""
    prefix: jax.Array
    """[N, C, P]: what the token in a completion slot sees of the prompt."""
    own: jax.Array
    """[N, G, C, C]: what it sees of its own completion; it sees no other."""

    def split(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Take rows [N, T, ...] apart: prompts [N, P, ...] and completions [N, G, C, ...].

        Of queries, what is there of the prompts.
        """
        shape = self.own.shape[:3]
        width = x.shape[1] - shape[1] * shape[2]
        return x[:, :width], x[:, width:].reshape(*shape, *x.shape[2:])

    def join(self, prompts: jax.Array, completions: jax.Array) -> jax.Array:
        """Put them together again."""
        rows, groups, length, _ = self.own.shape
        flat = completions.reshape(rows, groups * length, *prompts.shape[2:])
        return jnp.concatenate([prompts, flat], axis=1)


def read_rows(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array | GroupMask,
    cap: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """Let queries [B, T, K, Q, h] read keys and values [B, T, K, h]: [B, T, K, Q, h].

    mask: [B, T, T], true where the query may see the key, or that of groups. cap: what is done with
    the float32 products of queries and keys before the softmax, which is float32, too.
    """
    if isinstance(mask, GroupMask):
        return _read_groups(query, key, value, mask, cap)
    query = query.transpose(0, 2, 3, 1, 4)  # [B, K, Q, T, h]
    scores = cap(_compare(query, _heads_first(key), 2))
    scores = jnp.where(mask[:, None, None], scores, NEGATIVE)
    mixed = _weigh([scores], [(_heads_first(value), 2)])
    return mixed.transpose(0, 3, 1, 2, 4)


def _read_groups(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: GroupMask,
    cap: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """Do it for prompts and their completions: those read two parts, of which one is shared."""
    queries, keys, values = mask.split(query), mask.split(key), mask.split(value)
    prompt = read_rows(queries[0], keys[0], values[0], mask.prompt, cap)
    reader = queries[1].transpose(0, 3, 1, 4, 2, 5)  # [N, K, G, Q, C, h]
    shared = cap(_compare(reader, _heads_first(keys[0]), 2))
    own = cap(_compare(reader, _heads_first(keys[1]), 3))
    scores = [
        jnp.where(mask.prefix[:, None, None, None], shared, NEGATIVE),
        jnp.where(mask.own[:, None, :, None], own, NEGATIVE),
    ]
    mixed = _weigh(scores, [(_heads_first(values[0]), 2), (_heads_first(values[1]), 3)])
    return mask.join(prompt, mixed.transpose(0, 2, 4, 1, 3, 5))


def _heads_first(x: jax.Array) -> jax.Array:
    """Turn [B, ..., K, h] into [B, K, ..., h]."""
    return jnp.moveaxis(x, -2, 1)


def _matrices(x: jax.Array, lead: int) -> jax.Array:
    """Put the axes between the first `lead` and the last into one."""
    return x.reshape(*x.shape[:lead], math.prod(x.shape[lead:-1]), x.shape[-1])


def _compare(query: jax.Array, key: jax.Array, lead: int) -> jax.Array:
    """Multiply queries [*lead, ..., h] and keys [*lead, S, h]: [*lead, ..., S] float32."""
    scores = product("...th,...sh->...ts", _matrices(query, lead), key)
    return scores.reshape(*query.shape[:-1], key.shape[-2])


def _weigh(scores: Sequence[jax.Array], values: Sequence[tuple[jax.Array, int]]) -> jax.Array:
    """Compute the mean of values under the softmax of scores, [..., h].

    scores: [..., S] float32, of each part's keys. values: each part's, [*lead, S, h], and how many
    of the axes lead.
    """
    # a part may have no keys: completions of one token
    highest = [jnp.max(x, axis=-1, keepdims=True, initial=NEGATIVE) for x in scores]
    # what is subtracted changes no number, and so no gradient
    offset = jax.lax.stop_gradient(functools.reduce(jnp.maximum, highest))
    total = mixed = jnp.float32(0)
    for part, (value, lead) in zip(scores, values, strict=True):
        weights = jnp.exp(part - offset)
        total += jnp.sum(weights, axis=-1, keepdims=True)
        flat = _matrices(weights, lead).astype(value.dtype)
        read = product("...ts,...sh->...th", flat, value)
        mixed += read.reshape(*part.shape[:-1], value.shape[-1])
    return (mixed / total).astype(values[0][0].dtype)
