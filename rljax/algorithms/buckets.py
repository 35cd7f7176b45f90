"""Gradients of short sequences: each pass of a minibatch in the smallest width that holds it.

B rows of a pass, K completions of a row, C completion slots.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax.rollout.buckets import bucket_widths, in_smallest_bucket, length_order
from rljax.rollout.scoring import whole_group
from rljax.tasks.preference_batches import PreferenceBatch

Metrics = dict[str, jax.Array]
Gradients = Callable[[Any, Any, Any], tuple[Any, Metrics]]
"""(params, frozen, rows) -> gradients, metrics."""

FILL = "perf/token_fill"
"""Share of the completion slots that an update computes which hold a real token."""
SLOTS = "perf/completion_slots"
"""Slots that an update computes of a completion, on average."""
_REAL, _COMPUTED, _ROWS = "perf/real_slots", "perf/computed_slots", "perf/rows"


class Shorten(NamedTuple):
    """How the rows of a minibatch are cut to the slots that they use.

    The loss must not depend on the slots that are left out: it is one of sums over real tokens.
    """

    mask: Callable[[Any], jax.Array]
    """minibatch -> bool [B, C] or [B, K, C], true on real tokens, which come first."""
    cut: Callable[[Any, int], Any]
    """(minibatch, width) -> the minibatch with so many completion slots."""
    number: int = 1
    """Widths to choose from; 1: all slots, and nothing is sorted."""

    def lengths(self, minibatch: Any) -> jax.Array:
        """Return how many slots each row [B] uses."""
        used = jnp.sum(self.mask(minibatch), axis=-1)
        return used if used.ndim == 1 else jnp.max(used, axis=1)

    def sort(self, minibatch: Any, parts: int, group: int) -> Any:
        """Put rows of similar lengths side by side, for `parts` passes; groups stay whole."""
        if self.number == 1 or parts == 1:
            return minibatch
        lengths = self.lengths(minibatch)
        order = length_order(lengths, whole_group(group, len(lengths) // parts))
        return jax.tree.map(lambda x: x[order], minibatch)

    def gradients(self, function: Gradients) -> Gradients:
        """Compute gradients in the smallest width; the metrics say what was computed."""

        def shortened(params: Any, frozen: Any, rows: Any) -> tuple[Any, Metrics]:
            mask = self.mask(rows)
            slots, completions = mask.shape[-1], mask.size // mask.shape[-1]

            def cut(width: int) -> tuple[Any, Metrics]:
                grads, metrics = function(params, frozen, self.cut(rows, width))
                return grads, metrics | {_COMPUTED: jnp.float32(completions * width)}

            widths = bucket_widths(slots, self.number)
            grads, metrics = in_smallest_bucket(widths, jnp.max(self.lengths(rows)), cut)
            counts = {_REAL: jnp.sum(mask).astype(jnp.float32), _ROWS: jnp.float32(completions)}
            return grads, metrics | counts

        return shortened


def with_fill(metrics: Metrics) -> Metrics:
    """Turn the counts of a whole minibatch, where there are any, into what they say of a slot."""
    if _REAL not in metrics:
        return metrics
    rest = dict(metrics)
    real, computed, rows = (rest.pop(name) for name in (_REAL, _COMPUTED, _ROWS))
    return rest | {FILL: real / computed, SLOTS: computed / rows}


def shorten_rollouts(count: int) -> Shorten:
    """Shorten minibatches of `rollout` and of arrays [B, C, ...] beside it."""

    def cut(minibatch: Any, width: int) -> Any:
        prompts = minibatch.rollout.prompts
        written = minibatch._replace(rollout=minibatch.rollout._replace(prompts=None))
        made = jax.tree.map(lambda x: x[:, :width], written)
        return made._replace(rollout=made.rollout._replace(prompts=prompts))

    return Shorten(lambda minibatch: minibatch.rollout.completions.real, cut, count)


def shorten_preferences(count: int) -> Shorten:
    """Shorten the one `PreferenceBatch` in a minibatch, which may hold more than that."""

    def is_batch(node: Any) -> bool:
        return isinstance(node, PreferenceBatch)

    def mask(minibatch: Any) -> jax.Array:
        (batch,) = filter(is_batch, jax.tree.leaves(minibatch, is_leaf=is_batch))
        return batch.mask

    def short(node: Any, width: int) -> Any:
        if not is_batch(node):
            return node
        return node._replace(tokens=node.tokens[..., :width], mask=node.mask[..., :width])

    def cut(minibatch: Any, width: int) -> Any:
        return jax.tree.map(lambda node: short(node, width), minibatch, is_leaf=is_batch)

    return Shorten(mask, cut, count)
