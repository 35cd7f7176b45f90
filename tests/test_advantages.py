"""Advantages: rlax's golden values, a reference loop, and the identities between the returns."""

import jax.numpy as jnp
import numpy as np
import pytest

from rljax.advantages import discounted_returns, gae, lambda_returns

# google-deepmind/rlax, rlax/_src/multistep_test.py.
GAE_REWARDS = jnp.array([[0.0, 0, 1, 0, -0.5], [0, 0, 0, 0, 1]])
GAE_VALUES = jnp.array([[1.0, 4, -3, -2, -1, -1], [-3, -2, -1, 0, 5, -1]])
GAE_DISCOUNTS = jnp.array([[0.99] * 5, [0.9, 0.9, 0.9, 0.0, 0.9]])
GAE_EXPECTED = {
    1.0: [[-1.45118, -4.4557, 2.5396, 0.5249, -0.49], [3, 2, 1, 0, -4.9]],
    0.7: [[-0.676979, -5.248167, 2.4846, 0.6704, -0.49], [2.2899, 1.73, 1, 0, -4.9]],
    0.4: [[0.56731, -6.042, 2.3431, 0.815, -0.49], [1.725, 1.46, 1, 0, -4.9]],
}
REWARDS = jnp.array([[1.0, 0, -1, 0, 1], [0.5, 0.8, -0.7, 0, 2.1]])
DISCOUNTS = jnp.array([[0.5, 0.9, 1, 0.5, 0.8], [0.9, 0.5, 0.3, 0.8, 0.7]])
NEXT_VALUES = jnp.array([[3.0, 1, 5, -5, 3], [-1.7, 1.2, 2.3, 2.2, 2.7]])
FULL = jnp.ones((2, 5), bool)


def reference_gae(rewards, values, mask, gamma, lam, bootstrap):
    """Loop over each row's real tokens only."""
    advantages = np.zeros(rewards.shape)
    for row in range(rewards.shape[0]):
        next_value, next_advantage = bootstrap[row], 0.0
        for t in reversed(np.flatnonzero(mask[row])):
            delta = rewards[row, t] + gamma * next_value - values[row, t]
            next_advantage = delta + gamma * lam * next_advantage
            next_value = values[row, t]
            advantages[row, t] = next_advantage
    return advantages, (advantages + values) * mask


@pytest.mark.parametrize("lam", [1.0, 0.7, 0.4])
def test_gae_goldens(lam):
    advantages, _ = gae(
        GAE_REWARDS,
        GAE_VALUES[:, :-1],
        FULL,
        gamma=GAE_DISCOUNTS,
        gae_lambda=lam,
        bootstrap_values=GAE_VALUES[:, -1],
    )
    np.testing.assert_allclose(advantages, GAE_EXPECTED[lam], atol=1e-3)


def test_lambda_returns_goldens():
    expected = [
        [1.6460547, 0.72281253, 0.7375001, 0.6500001, 3.4],
        [0.7866317, 0.9913063, 0.1101501, 2.834, 3.99],
    ]
    values = jnp.concatenate([jnp.zeros((2, 1)), NEXT_VALUES[:, :-1]], axis=1)
    actual = lambda_returns(
        REWARDS,
        values,
        FULL,
        gamma=DISCOUNTS,
        gae_lambda=0.75,
        bootstrap_values=NEXT_VALUES[:, -1],
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_discounted_returns_goldens():
    expected = [[1.315, 0.63, 0.7, 1.7, 3.4], [1.33592, 0.9288, 0.2576, 3.192, 3.99]]
    actual = discounted_returns(REWARDS, FULL, gamma=DISCOUNTS, bootstrap_values=NEXT_VALUES[:, -1])
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("holes", [False, True])
def test_gae_equals_a_loop_over_real_tokens(seed, holes):
    rng = np.random.default_rng(seed)
    batch, length = 4, 9
    lengths = rng.integers(0, length + 1, batch)
    lengths[0], lengths[1] = 0, length
    mask = np.arange(length) < lengths[:, None]
    if holes:
        mask &= rng.random(mask.shape) < 0.7
    rewards, values = rng.normal(size=(2, batch, length)).astype(np.float32)
    bootstrap = rng.normal(size=batch).astype(np.float32)
    dirty_rewards, dirty_values = np.where(mask, [rewards, values], np.nan)
    arguments = {"gamma": 0.9, "gae_lambda": 0.7, "bootstrap_values": jnp.asarray(bootstrap)}
    advantages, returns = gae(dirty_rewards, dirty_values, mask, **arguments)
    expected, expected_returns = reference_gae(rewards, values, mask, 0.9, 0.7, bootstrap)
    np.testing.assert_allclose(advantages, expected, atol=1e-5)
    np.testing.assert_allclose(returns, expected_returns, atol=1e-5)
    recursive = lambda_returns(dirty_rewards, dirty_values, mask, **arguments)
    np.testing.assert_allclose(returns, recursive, atol=1e-5)


def test_lambda_one_returns_are_discounted_returns_and_lambda_zero_is_one_step():
    rng = np.random.default_rng(0)
    rewards, values = jnp.asarray(rng.normal(size=(2, 2, 5)), jnp.float32)
    _, returns = gae(rewards, values, FULL, gamma=0.9, gae_lambda=1.0)
    np.testing.assert_allclose(returns, discounted_returns(rewards, FULL, gamma=0.9), atol=1e-5)
    _, returns = gae(rewards, values, FULL, gamma=0.9, gae_lambda=0.0)
    next_values = jnp.concatenate([values[:, 1:], jnp.zeros((2, 1))], axis=1)
    np.testing.assert_allclose(returns, rewards + 0.9 * next_values, atol=1e-5)


def test_terminal_score_reaches_every_token_and_padding_gets_nothing():
    mask = jnp.array([[1, 1, 1, 0, 0]], bool)
    rewards = jnp.array([[0.0, 0, 0.7, 9, 9]])
    advantages, returns = gae(rewards, jnp.zeros((1, 5)), mask, gamma=1.0, gae_lambda=0.95)
    expected = [[0.7 * 0.95**2, 0.7 * 0.95, 0.7, 0, 0]]
    np.testing.assert_allclose(advantages, expected, rtol=1e-6)
    np.testing.assert_allclose(returns, expected, rtol=1e-6)


def test_integer_rewards_and_wrong_masks_raise():
    zeros = jnp.zeros((2, 5))
    with pytest.raises(TypeError, match="rewards must be floating"):
        gae(jnp.zeros((2, 5), int), zeros, FULL, gamma=1.0, gae_lambda=1.0)
    with pytest.raises(TypeError, match="rewards must be floating"):
        discounted_returns(jnp.zeros((2, 5), int), FULL, gamma=1.0)
    with pytest.raises(TypeError, match="values must be floating"):
        lambda_returns(zeros, jnp.zeros((2, 5), int), FULL, gamma=1.0, gae_lambda=1.0)
    with pytest.raises(TypeError, match="mask must be bool"):
        gae(zeros, zeros, jnp.ones((2, 5)), gamma=1.0, gae_lambda=1.0)
