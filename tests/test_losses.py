"""Token losses: golden values, hand cases of each clip, and the identity with REINFORCE."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.losses import (
    cispo_loss,
    clipped_policy_loss,
    clipped_value_loss,
    sequence_log_ratio,
)


def test_clipped_policy_loss_goldens():
    # google-deepmind/rlax, rlax/_src/policy_gradients_test.py::ClippedSurrogatePGLossTest.
    logits = jnp.array([[1.0, 1, 1], [2, 0, 0], [-1, -2, -3]])
    old_logits = jnp.array([[1.0, 1, 1], [2, 0, 0], [-3, -2, -1]])
    tokens = jnp.array([0, 1, 2])
    log_probs = jax.nn.log_softmax(logits)[jnp.arange(3), tokens]
    old_log_probs = jax.nn.log_softmax(old_logits)[jnp.arange(3), tokens]
    advantages = jnp.array([[0.3, 0.2, 0.1], [-0.3, -0.2, -0.1]])
    loss, _ = clipped_policy_loss(
        jnp.tile(log_probs, (2, 1)), jnp.tile(old_log_probs, (2, 1)), advantages, clip_eps=0.2
    )
    np.testing.assert_allclose(loss.mean(axis=1), [-0.17117467, 0.19333333], atol=1e-5)


def ratio_loss(ratio, advantage, **clips):
    loss, clipped = clipped_policy_loss(
        jnp.log(jnp.array([[ratio]])), jnp.zeros((1, 1)), jnp.array([[advantage]]), **clips
    )
    return float(loss[0, 0]), bool(clipped[0, 0])


@pytest.mark.parametrize(
    ("ratio", "advantage", "clips", "expected", "clipped"),
    [
        (1.25, 1.0, {"clip_eps": 0.2}, -1.2, True),
        (1.25, 1.0, {"clip_eps": 0.2, "clip_eps_high": 0.28}, -1.25, False),
        (1.30, 1.0, {"clip_eps": 0.2, "clip_eps_high": 0.28}, -1.28, True),
        (0.70, 1.0, {"clip_eps": 0.2}, -0.7, False),
        (0.70, -1.0, {"clip_eps": 0.2}, 0.8, True),
        (0.70, -1.0, {"clip_eps": 0.2, "clip_eps_high": 0.5}, 0.8, True),
        (5.00, -1.0, {"clip_eps": 0.2}, 5.0, False),
        (5.00, -1.0, {"clip_eps": 0.2, "dual_clip": 3.0}, 3.0, True),
        (2.00, -1.0, {"clip_eps": 0.2, "dual_clip": 3.0}, 2.0, False),
        (5.00, 1.0, {"clip_eps": 0.2, "dual_clip": 3.0}, -1.2, True),
    ],
)
def test_policy_clips_by_hand(ratio, advantage, clips, expected, clipped):
    loss, indicator = ratio_loss(ratio, advantage, **clips)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert indicator == clipped


def test_clip_indicator_marks_where_the_gradient_is_zero():
    rng = np.random.default_rng(0)
    log_probs, advantages = jnp.asarray(rng.normal(size=(2, 8, 16)), jnp.float32)
    clips = {"clip_eps": 0.2, "clip_eps_high": 0.3, "dual_clip": 2.0}
    zeros = jnp.zeros_like(log_probs)
    _, clipped = clipped_policy_loss(log_probs, zeros, advantages, **clips)
    grad = jax.grad(lambda x: clipped_policy_loss(x, zeros, advantages, **clips)[0].sum())(
        log_probs
    )
    np.testing.assert_array_equal(clipped, grad == 0)
    assert 0 < clipped.mean() < 1


def test_gradient_equals_reinforce_at_ratio_one():
    # HF "RLOO" post: logits [1, 2, 1, 1], token 1, advantage 1.
    logits = jnp.array([1.0, 2.0, 1.0, 1.0])

    def ppo(x):
        log_prob = jax.nn.log_softmax(x)[1]
        old = jax.lax.stop_gradient(log_prob)
        return -clipped_policy_loss(log_prob, old, jnp.ones(()), clip_eps=0.2)[0]

    grad = jax.grad(ppo)(logits)
    np.testing.assert_allclose(grad, [-0.1749, 0.5246, -0.1749, -0.1749], atol=1e-4)
    reinforce = jax.grad(lambda x: jax.nn.log_softmax(x)[1])(logits)
    np.testing.assert_allclose(grad, reinforce, rtol=1e-6)


def test_dual_clip_must_exceed_one():
    with pytest.raises(ValueError, match="dual_clip"):
        ratio_loss(1.0, 1.0, clip_eps=0.2, dual_clip=1.0)


def test_value_loss_by_hand():
    values = jnp.array([[1.0, 1.0, 0.1]])
    old_values = jnp.array([[0.0, 0.0, 0.0]])
    returns = jnp.array([[2.0, 0.0, 1.0]])
    loss, clipped = clipped_value_loss(values, old_values, returns, value_clip_eps=0.2)
    # Towards the return but further than 0.2: the clipped error (0.2 - 2)^2 is the larger one.
    np.testing.assert_allclose(loss, [[0.5 * 1.8**2, 0.5, 0.5 * 0.9**2]], rtol=1e-6)
    np.testing.assert_array_equal(clipped, [[True, False, False]])
    plain, none_clipped = clipped_value_loss(values, old_values, returns, value_clip_eps=None)
    np.testing.assert_allclose(plain, [[0.5, 0.5, 0.5 * 0.9**2]], rtol=1e-6)
    assert not none_clipped.any()


def test_losses_equal_loops():
    rng = np.random.default_rng(0)
    values, old_values, returns, ratios, advantages = rng.normal(size=(5, 200)).astype(np.float32)
    loss, clipped = clipped_value_loss(values, old_values, returns, value_clip_eps=0.3)
    policy_loss, policy_clipped = clipped_policy_loss(
        ratios, np.zeros(200), advantages, clip_eps=0.2, clip_eps_high=0.4
    )
    for i in range(200):
        near = min(max(values[i], old_values[i] - 0.3), old_values[i] + 0.3)
        errors = (values[i] - returns[i]) ** 2, (near - returns[i]) ** 2
        assert float(loss[i]) == pytest.approx(max(errors) / 2, rel=1e-4)
        assert bool(clipped[i]) == (errors[1] > errors[0])
        ratio = np.exp(ratios[i])
        gains = ratio * advantages[i], min(max(ratio, 0.8), 1.4) * advantages[i]
        assert float(policy_loss[i]) == pytest.approx(-min(gains), rel=1e-4)
        assert bool(policy_clipped[i]) == (gains[1] < gains[0])
    assert 0 < clipped.mean() < 1


def test_cispo_by_hand():
    # ratios 0.5, 1, 2, 8 between bounds 0.8 and 3; advantage 2, log-probs -1
    ratios = jnp.array([[0.5, 1.0, 2.0, 8.0]])
    log_probs = jnp.full((1, 4), -1.0)
    clips = {"clip_eps": 0.2, "clip_eps_high": 2.0}

    def total(x):
        return cispo_loss(x, jnp.log(ratios) + x - log_probs, jnp.full((1, 4), 2.0), **clips)

    loss, clipped = total(log_probs)
    np.testing.assert_allclose(loss, [[1.6, 2.0, 4.0, 6.0]], rtol=1e-6)
    np.testing.assert_array_equal(clipped, [[True, False, False, True]])
    # the weight has no gradient, and a clipped token keeps its own
    grad = jax.grad(lambda x: total(x)[0].sum())(log_probs)
    np.testing.assert_allclose(grad, [[-1.6, -2.0, -4.0, -6.0]], rtol=1e-6)
    alike, _ = cispo_loss(log_probs, jnp.log(ratios), jnp.full((1, 4), 2.0), clip_eps=0.2)
    np.testing.assert_allclose(alike, [[1.6, 2.0, 2.4, 2.4]], rtol=1e-6)


def test_sequence_ratio_is_the_geometric_mean_with_the_gradient_of_gspo():
    rng = np.random.default_rng(0)
    log_probs, old = jnp.asarray(-rng.uniform(size=(2, 3, 4)), jnp.float32)
    lengths = np.array([4, 2, 0])
    mask = jnp.arange(4) < lengths[:, None]
    advantages = jnp.array([1.5, -2.0, 3.0])
    got = sequence_log_ratio(log_probs, old, mask)
    for row, length in enumerate(lengths):
        ratios = np.exp(np.asarray(log_probs - old))[row, :length]
        mean = np.prod(ratios) ** (1 / max(length, 1))
        np.testing.assert_allclose(np.exp(got[row, :length]), mean, rtol=1e-5)
    np.testing.assert_array_equal(np.asarray(got)[~np.asarray(mask)], 0)

    def by_token(x):  # the mean over the tokens of each completion
        losses = advantages[:, None] * jnp.exp(sequence_log_ratio(x, old, mask))
        return jnp.sum(jnp.where(mask, losses, 0) / jnp.maximum(lengths, 1)[:, None])

    def by_sequence(x):  # A s, s = (pi / pi_old)^(1 / length): eq. 7
        total = jnp.sum(jnp.where(mask, x - old, 0), axis=1)
        return jnp.sum(jnp.where(lengths > 0, advantages * jnp.exp(total / lengths), 0))

    np.testing.assert_allclose(
        jax.grad(by_token)(log_probs),
        np.nan_to_num(jax.grad(by_sequence)(log_probs)),
        rtol=1e-5,
    )


def test_sequence_ratio_leaves_each_token_its_own_advantage():
    """With advantages per token, the gradient of token t is A_t s: GSPO-token, section 4.3."""
    log_probs, old = jnp.array([[-1.0, -2.0]]), jnp.array([[-1.5, -1.9]])
    advantages, mask = jnp.array([[1.0, -3.0]]), jnp.ones((1, 2), bool)
    grad = jax.grad(lambda x: jnp.sum(advantages * jnp.exp(sequence_log_ratio(x, old, mask))))
    np.testing.assert_allclose(grad(log_probs), advantages * np.exp(0.2), rtol=1e-5)
