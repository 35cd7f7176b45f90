"""Do arithmetic over the real tokens of a padded batch.

Shapes: B batch, C completion. Masks are bool and true on real tokens; what stands on padding, NaN
included, never reaches a result. Every mean names what it divides by, and a batch without a single
real token gives 0 with finite gradients.
"""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp

LossAggregation = Literal["token", "sequence", "constant"]
Axis = int | tuple[int, ...] | None


def require_float(name: str, array: jax.Array) -> None:
    """Raise TypeError unless `array` is floating point: an integer reward turns 0.7 into 0."""
    dtype = jnp.asarray(array).dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{name} must be floating point, got {dtype}; convert with astype(float32)")


def require_mask(mask: jax.Array) -> None:
    """Raise TypeError unless `mask` is bool: token ids and 0/1 floats hide mistakes."""
    dtype = jnp.asarray(mask).dtype
    if dtype != jnp.bool_:
        raise TypeError(f"a mask must be bool, got {dtype}; compare explicitly, such as `mask > 0`")


def masked_sum(x: jax.Array, mask: jax.Array, axis: Axis = None) -> jax.Array:
    """Sum `x` where `mask` is true; padding may hold anything, NaN included."""
    require_mask(mask)
    return jnp.sum(jnp.where(mask, x, 0), axis=axis)


def masked_mean(x: jax.Array, mask: jax.Array, axis: Axis = None) -> jax.Array:
    """Average `x` over the true entries of `mask` (0 where there are none).

    sum(x * mask) / sum(mask), along `axis` or over everything. `mask` has the shape of `x`.
    """
    count = jnp.sum(mask, axis=axis)
    return masked_sum(x, mask, axis) / jnp.maximum(count, 1)


def masked_var(x: jax.Array, mask: jax.Array, *, ddof: int = 0) -> jax.Array:
    """Compute the variance over the true entries of `mask`, divided by count - ddof.

    `ddof` 0 is TensorFlow's and OpenAI's variance, 1 is torch's default. Fewer than two entries
    give 0.
    """
    centred = jnp.where(mask, x, 0) - masked_mean(x, mask)
    count = jnp.sum(mask)
    return masked_sum(jnp.square(centred), mask) / jnp.maximum(count - ddof, 1)


def masked_std(x: jax.Array, mask: jax.Array, *, ddof: int = 0) -> jax.Array:
    """Compute the square root of `masked_var`, with gradient 0 (not infinite) where it is 0."""
    variance = masked_var(x, mask, ddof=ddof)
    positive = variance > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1)), 0)


def masked_whiten(
    x: jax.Array,
    mask: jax.Array,
    *,
    shift_mean: bool = True,
    ddof: int = 0,
    eps: float = 1e-8,
) -> jax.Array:
    """Scale `x` to unit variance over the real tokens, and to mean 0 if `shift_mean`.

    (x - mean) / sqrt(var + eps), plus the mean again when `shift_mean` is false: OpenAI whitens
    advantages with the shift and rewards without. Padding comes back as 0. Ziegler et al. 2019
    (https://arxiv.org/abs/1909.08593), where ddof is 0.
    """
    x = jnp.where(mask, x, 0)
    mean = masked_mean(x, mask)
    whitened = (x - mean) * jax.lax.rsqrt(masked_var(x, mask, ddof=ddof) + eps)
    return jnp.where(mask, whitened if shift_mean else whitened + mean, 0)


def token_weights(
    mask: jax.Array, mode: LossAggregation, *, constant_length: int | None = None
) -> jax.Array:
    """Compute the weight [B, C] of every token in the loss of this batch; 0 on padding.

    The loss is sum(weights * token_loss):
    - "token": 1 / (real tokens in the batch); every token counts alike (DAPO,
      https://arxiv.org/abs/2503.14476).
    - "sequence": 1 / (sequences with a real token) / (real tokens of this sequence); every sequence
      counts alike (GRPO, https://arxiv.org/abs/2402.03300).
    - "constant": 1 / (B * constant_length), whatever the lengths (Dr. GRPO,
      https://arxiv.org/abs/2503.20783); rows that are wholly masked still count in B.

    For gradient accumulation compute the weights once on the whole minibatch and slice them with
    the micro-batches: the micro-batch losses then add up to the loss of the minibatch.

    Raises ValueError for an unknown mode, and for a `constant_length` that is missing, not
    positive, or given to a mode that does not read it.
    """
    require_mask(mask)
    if (mode == "constant") != (constant_length is not None):
        raise ValueError(f"constant_length goes with mode 'constant': {mode=} {constant_length=}")
    real = mask.astype(jnp.float32)
    if mode == "token":
        return real / jnp.maximum(jnp.sum(real), 1)
    if mode == "sequence":
        lengths = jnp.sum(real, axis=1, keepdims=True)
        return real / jnp.maximum(lengths, 1) / jnp.maximum(jnp.sum(lengths > 0), 1)
    if mode == "constant" and constant_length is not None:
        if constant_length <= 0:
            raise ValueError(f"constant_length must be positive, got {constant_length}")
        return real / (mask.shape[0] * constant_length)
    raise ValueError(f"unknown loss aggregation {mode!r}: use 'token', 'sequence' or 'constant'")


def weighted_loss(loss: jax.Array, weights: jax.Array) -> jax.Array:
    """Sum weights * loss over the tokens whose weight is not 0 (see `token_weights`)."""
    return jnp.sum(weights * jnp.where(weights != 0, loss, 0))


def aggregate_loss(
    loss: jax.Array,
    mask: jax.Array,
    mode: LossAggregation,
    *,
    constant_length: int | None = None,
) -> jax.Array:
    """Reduce a token loss [B, C] to a scalar with the weights of `token_weights`."""
    return weighted_loss(loss, token_weights(mask, mode, constant_length=constant_length))


def last_token_index(mask: jax.Array) -> jax.Array:
    """Find the position [B] of the last real token of each row; -1 in a row that has none."""
    require_mask(mask)
    positions = jnp.arange(mask.shape[1], dtype=jnp.int32)
    return jnp.max(jnp.where(mask, positions, -1), axis=1)


def place_at_last_token(scores: jax.Array, mask: jax.Array) -> jax.Array:
    """Spread scores [B] to [B, C]: the score on the last real token, 0 elsewhere.

    A row without real tokens gets none. Raises TypeError for integer scores.
    """
    require_float("scores", scores)
    is_last = jnp.arange(mask.shape[1]) == last_token_index(mask)[:, None]  # [B, C]
    return jnp.where(is_last, scores[:, None], 0)


def is_any_of(tokens: jax.Array, ids: Sequence[int]) -> jax.Array:
    """Mark the tokens that are one of `ids`; nothing is marked when `ids` is empty."""
    return jnp.any(tokens[..., None] == jnp.asarray(list(ids), jnp.int32), axis=-1)


def has_any_of(tokens: jax.Array, mask: jax.Array, ids: Sequence[int]) -> jax.Array:
    """Say which rows [B] hold one of `ids` among their real tokens."""
    return jnp.any(is_any_of(tokens, ids) & mask, axis=1)


def completion_mask_from_tokens(tokens: jax.Array, eos_ids: Sequence[int]) -> jax.Array:
    """Mark completion tokens [B, C] up to and including the first end-of-sequence token.

    Pad ids are never looked at, so it is right where the pad token is the EOS token too. A row
    without EOS is real throughout.
    """
    is_eos = is_any_of(tokens, eos_ids).astype(jnp.int32)
    return jnp.cumsum(is_eos, axis=1) - is_eos == 0
