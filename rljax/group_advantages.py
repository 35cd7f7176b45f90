"""Turn the scores of completions into advantages without a critic.

Shapes: B completions, G of each prompt: rows g G to (g + 1) G are one group. Scores are float [B];
`good` [B] is bool, false where a reward failed: such a row enters no mean, and its advantage is 0.
All return advantages [B].
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rljax.masking import masked_mean, require_float


def _groups(
    scores: jax.Array, good: jax.Array, group_size: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return scores, good [B / G, G], and the number of good rows [B / G, 1]."""
    require_float("scores", scores)
    grouped = good.reshape(-1, group_size)
    scores = jnp.where(grouped, scores.reshape(-1, group_size), 0)
    return scores, grouped, jnp.sum(grouped, axis=1, keepdims=True)


def batch_mean_advantages(scores: jax.Array, good: jax.Array) -> jax.Array:
    """Subtract the mean of the batch: REINFORCE with a baseline (Williams 1992)."""
    require_float("scores", scores)
    return jnp.where(good, scores - masked_mean(scores, good), 0)


def baseline_advantages(scores: jax.Array, good: jax.Array, baseline: jax.Array) -> jax.Array:
    """Subtract a baseline, one number or [B].

    With the score of the greedy completion of the same prompt it is self-critical training
    (Rennie et al. 2017, https://arxiv.org/abs/1612.00563) and ReMax (Li et al. 2024,
    https://arxiv.org/abs/2310.10505, section 3).
    """
    require_float("scores", scores)
    known = good & ~jnp.isnan(baseline)
    return jnp.where(known, scores - jnp.where(jnp.isnan(baseline), 0, baseline), 0)


def leave_one_out_advantages(scores: jax.Array, good: jax.Array, *, group_size: int) -> jax.Array:
    """Subtract the mean of the group's other completions: RLOO.

    A_i = s_i - mean(s_j, j != i) = G / (G - 1) (s_i - mean). Ahmadian et al. 2024, eq. 8
    (https://arxiv.org/abs/2402.14740). A row alone in its group gets 0.
    """
    grouped, valid, count = _groups(scores, good, group_size)
    others = (jnp.sum(grouped, axis=1, keepdims=True) - grouped) / jnp.maximum(count - 1, 1)
    return jnp.where(valid & (count > 1), grouped - others, 0).reshape(-1)


def group_advantages(
    scores: jax.Array,
    good: jax.Array,
    *,
    group_size: int,
    divide_by_std: bool,
    ddof: int = 1,
    eps: float = 1e-4,
) -> jax.Array:
    """Subtract the group's mean, and divide by its standard deviation if asked.

    A_i = (s_i - mean) / (std + eps): GRPO, Shao et al. 2024, section 4.1.2
    (https://arxiv.org/abs/2402.03300), where ddof is 1 in most code. Without the division: Dr.
    GRPO, Liu et al. 2025 (https://arxiv.org/abs/2503.20783), section 3.1. A group of equal scores
    gives 0.
    """
    grouped, valid, count = _groups(scores, good, group_size)
    mean = jnp.sum(grouped, axis=1, keepdims=True) / jnp.maximum(count, 1)
    centred = jnp.where(valid, grouped - mean, 0)
    if divide_by_std:
        squares = jnp.sum(jnp.square(centred), axis=1, keepdims=True)
        variance = squares / jnp.maximum(count - ddof, 1)
        centred = centred / (jnp.sqrt(variance) + eps)
    return centred.reshape(-1)


def best_advantages(scores: jax.Array, good: jax.Array, *, group_size: int) -> jax.Array:
    """Give 1 to the best completion of each group (the first of equals) and 0 to the others.

    The policy then learns by likelihood from the best of G: RAFT, Dong et al. 2023, algorithm 1
    (https://arxiv.org/abs/2304.06767); expert iteration with G candidates.
    """
    grouped, valid, _ = _groups(scores, good, group_size)
    best = jnp.argmax(jnp.where(valid, grouped, -jnp.inf), axis=1)
    chosen = jnp.arange(group_size) == best[:, None]
    return jnp.where(chosen & valid, 1.0, 0.0).reshape(-1)


def informative_groups(scores: jax.Array, good: jax.Array, *, group_size: int) -> jax.Array:
    """Say which groups [B / G] hold at least two different scores: only those teach anything.

    The condition of DAPO's dynamic sampling, Yu et al. 2025, eq. 11
    (https://arxiv.org/abs/2503.14476).
    """
    grouped, valid, _ = _groups(scores, good, group_size)
    low = jnp.min(jnp.where(valid, grouped, jnp.inf), axis=1)
    high = jnp.max(jnp.where(valid, grouped, -jnp.inf), axis=1)
    return high > low


def overlong_penalty(lengths: jax.Array, *, max_length: int, buffer: int) -> jax.Array:
    """Compute DAPO's soft punishment of long completions, in [-1, 0], of their lengths [B].

    0 up to max_length - buffer, then falling linearly to -1 at max_length. Yu et al. 2025, eq. 13
    (https://arxiv.org/abs/2503.14476). Raises ValueError unless 0 < buffer <= max_length.
    """
    if not 0 < buffer <= max_length:
        raise ValueError(f"buffer must be in (0, {max_length}], got {buffer}")
    return jnp.clip((max_length - buffer - lengths) / buffer, -1, 0)
