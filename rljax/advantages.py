"""Turn rewards and values into advantages and returns.

Shapes: B batch, C completion; all arrays are [B, C] and float, `mask` is bool. `values[:, t]` is
the critic's value before token t is chosen, `rewards[:, t]` comes with token t. After the last real
token comes `bootstrap_values` [B]: 0 (the default) for an episode that has ended, the critic's
value of the state that was reached for one that was cut off. A masked position between real tokens
(text that the environment wrote) is stepped over: its two neighbours follow each other directly.
"""

import jax
import jax.numpy as jnp

from rljax.masking import require_float, require_mask


def _prepare(
    rewards: jax.Array,
    mask: jax.Array,
    gamma: float | jax.Array,
    bootstrap_values: jax.Array | None,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Return time-major rewards, mask and discounts [C, B], and the bootstrap values [B]."""
    require_float("rewards", rewards)
    require_mask(mask)
    if bootstrap_values is None:
        bootstrap_values = jnp.zeros(rewards.shape[0], rewards.dtype)
    require_float("bootstrap_values", bootstrap_values)
    rewards = jnp.where(mask, rewards, 0)
    discounts = jnp.broadcast_to(jnp.asarray(gamma, rewards.dtype), rewards.shape)
    return rewards.T, mask.T, discounts.T, bootstrap_values


def gae(
    rewards: jax.Array,
    values: jax.Array,
    mask: jax.Array,
    *,
    gamma: float | jax.Array,
    gae_lambda: float | jax.Array,
    bootstrap_values: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Compute generalised advantages and the value targets, both [B, C] and 0 on padding.

    delta_t = r_t + gamma V_{t+1} - V_t,  A_t = delta_t + gamma lambda A_{t+1},  return = A_t + V_t.
    Schulman et al. 2016, eq. 16 (https://arxiv.org/abs/1506.02438). `gamma` in [0, 1] is a number
    or [B, C]; `gae_lambda` in [0, 1] is a number. Raises TypeError for integer rewards or values
    and for a mask that is not bool.
    """
    require_float("values", values)
    steps = _prepare(rewards, mask, gamma, bootstrap_values)
    rewards_t, mask_t, discounts_t, bootstrap = steps
    values = jnp.where(mask, values, 0)

    def step(
        carry: tuple[jax.Array, jax.Array], xs: tuple[jax.Array, ...]
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        next_value, next_advantage = carry
        reward, value, real, discount = xs
        delta = reward + discount * next_value - value
        advantage = delta + discount * gae_lambda * next_advantage
        carry = jnp.where(real, value, next_value), jnp.where(real, advantage, next_advantage)
        return carry, jnp.where(real, advantage, 0)

    _, advantages_t = jax.lax.scan(
        step,
        (bootstrap, jnp.zeros_like(bootstrap)),
        (rewards_t, values.T, mask_t, discounts_t),
        reverse=True,
    )
    advantages = advantages_t.T
    return advantages, advantages + values


def lambda_returns(
    rewards: jax.Array,
    values: jax.Array,
    mask: jax.Array,
    *,
    gamma: float | jax.Array,
    gae_lambda: float | jax.Array,
    bootstrap_values: jax.Array | None = None,
) -> jax.Array:
    """Compute the lambda-returns [B, C]; 0 on padding.

    G_t = r_t + gamma ((1 - lambda) V_{t+1} + lambda G_{t+1}), and G = `bootstrap_values` after the
    end. Sutton and Barto 2018, section 12.1. Equal to `gae`'s returns.
    """
    require_float("values", values)
    rewards_t, mask_t, discounts_t, bootstrap = _prepare(rewards, mask, gamma, bootstrap_values)

    def step(
        carry: tuple[jax.Array, jax.Array], xs: tuple[jax.Array, ...]
    ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        next_value, next_return = carry
        reward, value, real, discount = xs
        mixed = (1 - gae_lambda) * next_value + gae_lambda * next_return
        target = reward + discount * mixed
        carry = jnp.where(real, value, next_value), jnp.where(real, target, next_return)
        return carry, jnp.where(real, target, 0)

    _, returns_t = jax.lax.scan(
        step, (bootstrap, bootstrap), (rewards_t, values.T, mask_t, discounts_t), reverse=True
    )
    return returns_t.T


def discounted_returns(
    rewards: jax.Array,
    mask: jax.Array,
    *,
    gamma: float | jax.Array,
    bootstrap_values: jax.Array | None = None,
) -> jax.Array:
    """Compute the discounted sums of later rewards, G_t = r_t + gamma G_{t+1}; 0 on padding."""
    rewards_t, mask_t, discounts_t, bootstrap = _prepare(rewards, mask, gamma, bootstrap_values)

    def step(next_return: jax.Array, xs: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        reward, real, discount = xs
        target = reward + discount * next_return
        return jnp.where(real, target, next_return), jnp.where(real, target, 0)

    _, returns_t = jax.lax.scan(step, bootstrap, (rewards_t, mask_t, discounts_t), reverse=True)
    return returns_t.T
