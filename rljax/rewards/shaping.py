"""Turn the scores of completions into the rewards of tokens.

Shapes: B batch, C completion. Scores [B] are float, one per completion; `completion_mask` [B, C]
is bool, the first EOS included. Whitening rewards is `rljax.masking.masked_whiten(rewards,
completion_mask, shift_mean=False)`, per minibatch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rljax.kl import KLEstimator, kl_estimate
from rljax.masking import (
    has_any_of,
    masked_mean,
    masked_sum,
    place_at_last_token,
    require_float,
    require_mask,
)


def token_rewards(
    scores: jax.Array,
    log_probs: jax.Array,
    ref_log_probs: jax.Array,
    mask: jax.Array,
    *,
    kl_coef: float | jax.Array,
    estimator: KLEstimator = "k1",
    turn_rewards: jax.Array | None = None,
) -> jax.Array:
    """Combine the score of a completion with the KL penalty of its tokens: float32 [B, C].

    r_t = -kl_coef KL_t + (score if t is the last real token, EOS included), 0 on padding.
    Ziegler et al. 2019, eq. 2 (https://arxiv.org/abs/1909.08593). turn_rewards [B, C]: of a
    conversation, each turn's on its last own token, in place of the score, which is their sum.
    Raises TypeError for integer scores or rewards.
    """
    require_mask(mask)
    penalties = kl_coef * kl_estimate(log_probs, ref_log_probs, estimator)
    if turn_rewards is None:
        given = place_at_last_token(scores, mask)
    else:
        require_float("turn_rewards", turn_rewards)
        given = jnp.where(mask, turn_rewards, 0)
    rewards = given - jnp.where(mask, penalties, 0)
    return rewards.astype(jnp.float32)


def penalise_missing_eos(
    scores: jax.Array,
    tokens: jax.Array,
    mask: jax.Array,
    eos_ids: Sequence[int],
    *,
    penalty: float,
) -> jax.Array:
    """Replace the score of a completion that never ends by `penalty`.

    A completion ends when one of its real tokens is one of `eos_ids`. "EOS trick" of Huang et al.
    2024, where the penalty is -1 (https://arxiv.org/abs/2403.17031). Raises ValueError without any
    EOS id, for the penalty would then hit every completion.
    """
    require_float("scores", scores)
    if not eos_ids:
        raise ValueError("the missing-EOS penalty needs at least one EOS id; got none")
    return jnp.where(has_any_of(tokens, mask, eos_ids), scores, jnp.asarray(penalty, scores.dtype))


def truncate_completions(
    tokens: jax.Array,
    mask: jax.Array,
    *,
    truncate_token: int,
    truncate_after: int,
    pad_id: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Cut completions [B, C] after the first `truncate_token` at or after a position.

    Positions count from 0. The token itself stays; later ones become `pad_id` and are masked. A
    completion without such a token is left whole. Returns tokens, mask, and `found` [B]: give
    completions that are not found a fixed score with `penalise_not_found`. Ziegler et al. 2019,
    section 3.1.1 and appendix A: a period from position 16 on, else -1
    (https://arxiv.org/abs/1909.08593).
    """
    require_mask(mask)
    positions = jnp.arange(tokens.shape[1])
    is_stop = (tokens == truncate_token) & (positions >= truncate_after) & mask  # [B, C]
    counts = jnp.cumsum(is_stop.astype(jnp.int32), axis=1)
    kept = mask & (counts - is_stop == 0)
    return jnp.where(kept, tokens, pad_id), kept, jnp.any(is_stop, axis=1)


def penalise_not_found(scores: jax.Array, found: jax.Array, *, penalty: float) -> jax.Array:
    """Replace the scores [B] of completions without the wanted token (`found` false)."""
    require_float("scores", scores)
    return jnp.where(found, scores, jnp.asarray(penalty, scores.dtype))


def clip_scores(scores: jax.Array, *, limit: float) -> jax.Array:
    """Hold scores within [-limit, limit]. Raises ValueError unless the limit is positive."""
    require_float("scores", scores)
    if limit <= 0:
        raise ValueError(f"the score limit must be positive, got {limit}")
    return jnp.clip(scores, -limit, limit)


class RunningMoments(NamedTuple):
    """Count, mean and sum of squared distances of everything seen: three float32 scalars."""

    count: jax.Array
    mean: jax.Array
    squares: jax.Array


def init_running_moments() -> RunningMoments:
    """Start with nothing seen."""
    # three buffers: a state that is donated may not hold one buffer twice
    return RunningMoments(*(jnp.zeros((), jnp.float32) for _ in range(3)))


def update_running_moments(moments: RunningMoments, scores: jax.Array) -> RunningMoments:
    """Add a batch of scores [B] to the moments; NaN, a completion without a score, is left out.

    Chan et al. 1983's parallel update: exact, whatever the split into batches.
    """
    require_float("scores", scores)
    judged = ~jnp.isnan(scores)
    size = jnp.sum(judged).astype(jnp.float32)
    count = moments.count + size
    share = size / jnp.maximum(count, 1)
    batch_mean = masked_mean(scores, judged)
    delta = batch_mean - moments.mean
    batch_squares = masked_sum(jnp.square(scores - batch_mean), judged)
    squares = moments.squares + batch_squares + jnp.square(delta) * moments.count * share
    return RunningMoments(count, moments.mean + delta * share, squares)


def running_std(moments: RunningMoments) -> jax.Array:
    """Compute the standard deviation (ddof 0) of what was seen; 1 before there is any spread."""
    variance = moments.squares / jnp.maximum(moments.count, 1)
    return jnp.where(variance > 0, jnp.sqrt(variance), 1)


def scale_scores(
    scores: jax.Array, moments: RunningMoments, *, shift_mean: bool = False, eps: float = 1e-8
) -> jax.Array:
    """Divide scores by the running standard deviation, after centring them if `shift_mean`.

    (score - mean) / (std + eps). Update the moments with the batch first. "Secrets of RLHF I",
    section 5.3.1 (https://arxiv.org/abs/2307.04964), centres and clips as well.
    """
    require_float("scores", scores)
    centred = scores - moments.mean if shift_mean else scores
    return centred / (running_std(moments) + eps)
