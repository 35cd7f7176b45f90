"""Compute the losses of single tokens.

Shapes: B batch, C completion; every array is [B, C]. Reduce with `rljax.masking.aggregate_loss`.
Values on padding do not matter as long as they are finite: put the same log-probability on both
sides there (0, say), so that the ratio is 1.
"""

import jax
import jax.numpy as jnp

from rljax.masking import masked_mean


def clipped_policy_loss(
    log_probs: jax.Array,
    old_log_probs: jax.Array,
    advantages: jax.Array,
    *,
    clip_eps: float | jax.Array,
    clip_eps_high: float | jax.Array | None = None,
    dual_clip: float | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Compute PPO's clipped surrogate loss, and where the clip holds the token back.

    ratio = exp(log_probs - old_log_probs)
    loss = max(-A ratio, -A clip(ratio, 1 - clip_eps, 1 + clip_eps_high))
    Schulman et al. 2017, eq. 7 (https://arxiv.org/abs/1707.06347). `clip_eps_high` (default
    `clip_eps`) is the clip-higher of DAPO (https://arxiv.org/abs/2503.14476, section 3.1).
    `dual_clip` c > 1 bounds the loss by -A c where A < 0: Ye et al. 2020, eq. 5
    (https://arxiv.org/abs/1912.09729).

    Returns the loss and a bool, true where the clipped branch (or the dual clip) was taken: the
    gradient is 0 there. Raises ValueError for dual_clip <= 1.
    """
    if dual_clip is not None and dual_clip <= 1:
        raise ValueError(f"dual_clip must be greater than 1, got {dual_clip}")
    high = clip_eps if clip_eps_high is None else clip_eps_high
    ratio = jnp.exp(log_probs - old_log_probs)
    unclipped_loss = -advantages * ratio
    clipped_loss = -advantages * jnp.clip(ratio, 1 - clip_eps, 1 + high)
    clipped = clipped_loss > unclipped_loss
    loss = jnp.maximum(unclipped_loss, clipped_loss)
    if dual_clip is not None:
        bound = -advantages * dual_clip
        held = (advantages < 0) & (bound < loss)
        loss = jnp.where(held, bound, loss)
        clipped = clipped | held
    return loss, clipped


def clipped_value_loss(
    values: jax.Array,
    old_values: jax.Array,
    returns: jax.Array,
    *,
    value_clip_eps: float | jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    """Compute the critic's squared error, held near the old values, and where the clip acts.

    loss = 1/2 max((V - R)^2, (clip(V, V_old - eps, V_old + eps) - R)^2)
    as in OpenAI's lm-human-preferences (Ziegler et al. 2019, https://arxiv.org/abs/1909.08593);
    `value_clip_eps` None leaves the plain 1/2 (V - R)^2. Returns the loss and a bool, true where
    the clipped error is the larger one.
    """
    squared_error = jnp.square(values - returns)
    if value_clip_eps is None:
        return 0.5 * squared_error, jnp.zeros(squared_error.shape, jnp.bool_)
    near = jnp.clip(values, old_values - value_clip_eps, old_values + value_clip_eps)
    near_error = jnp.square(near - returns)
    return 0.5 * jnp.maximum(squared_error, near_error), near_error > squared_error


def sequence_log_ratio(
    log_probs: jax.Array, old_log_probs: jax.Array, mask: jax.Array
) -> jax.Array:
    """Compute the mean log-ratio of each completion's real tokens, spread to all of them: [B, C].

    log s_t = sg(mean_u log ratio_u) + log_probs_t - sg(log_probs_t). Its exponential is GSPO's
    length-normalised ratio in the form of GSPO-token: Zheng et al. 2025, eq. 7 and section 4.3
    (https://arxiv.org/abs/2507.18071). Each token's gradient goes to its own log-probability,
    times its own advantage: where a completion's tokens have one advantage and one weight it is
    the gradient of GSPO, and where they differ (a KL charged on tokens) it is still right.
    """
    mean = masked_mean(log_probs - old_log_probs, mask, axis=1)
    detached = jax.lax.stop_gradient(mean[:, None] - log_probs)
    return jnp.where(mask, detached + log_probs, 0)


def cispo_loss(
    log_probs: jax.Array,
    log_ratio: jax.Array,
    advantages: jax.Array,
    *,
    clip_eps: float,
    clip_eps_high: float | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Compute -sg(clip(ratio, 1 - clip_eps, 1 + clip_eps_high)) A log_probs: CISPO.

    The clip bounds the weight of a token and never takes its gradient away. MiniMax-M1, 2025, eq. 4
    (https://arxiv.org/abs/2506.13585). Returns the loss, and where the weight was clipped.
    """
    high = clip_eps if clip_eps_high is None else clip_eps_high
    ratio = jnp.exp(log_ratio)
    weight = jax.lax.stop_gradient(jnp.clip(ratio, 1 - clip_eps, 1 + high))
    return -weight * advantages * log_probs, weight != ratio


def truncated_importance_weights(
    log_ratio: jax.Array, mask: jax.Array, *, cap: float | jax.Array
) -> jax.Array:
    """Compute sg(min(exp(log_ratio), cap)) on real tokens, 0 on padding.

    log_ratio: log-probability under the policy that a step starts from, less that under the policy
    that sampled. The weight makes the expectation over the latter's tokens one over the former's,
    as far as it is below `cap`, which bounds the variance: rho-bar of IMPALA, Espeholt et al. 2018,
    section 4 (https://arxiv.org/abs/1802.01561).
    """
    weights = jnp.minimum(jnp.exp(log_ratio), cap)
    return jax.lax.stop_gradient(jnp.where(mask, weights, 0))
