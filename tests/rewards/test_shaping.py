"""Reward shaping: where rewards land, which penalties fire, and the running scale."""

import jax.numpy as jnp
import numpy as np
import pytest

from rljax.masking import completion_mask_from_tokens, masked_whiten
from rljax.rewards import shaping

EOS = 2


def test_score_lands_on_the_eos_and_the_penalty_on_every_real_token():
    tokens = jnp.array([[5, 6, EOS, EOS], [7, 8, 9, 5], [EOS, EOS, EOS, EOS]])  # pad id is EOS too
    mask = completion_mask_from_tokens(tokens, [EOS])
    log_probs = jnp.full((3, 4), -1.0)
    ref_log_probs = jnp.full((3, 4), -1.5)
    rewards = shaping.token_rewards(
        jnp.array([0.7, -0.4, 1.0]), log_probs, ref_log_probs, mask, kl_coef=0.1
    )
    expected = [[-0.05, -0.05, 0.65, 0], [-0.05, -0.05, -0.05, -0.45], [0.95, 0, 0, 0]]
    np.testing.assert_allclose(rewards, expected, rtol=1e-6)
    assert rewards.dtype == jnp.float32


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_penalty_equals_a_loop(estimator):
    rng = np.random.default_rng(1)
    mask = np.arange(6) < np.array([0, 3, 6])[:, None]
    log_probs, ref = rng.normal(size=(2, 3, 6)).astype(np.float32)
    log_probs[~mask] = np.nan
    scores = rng.normal(size=3).astype(np.float32)
    rewards = shaping.token_rewards(scores, log_probs, ref, mask, kl_coef=0.3, estimator=estimator)
    expected = np.zeros((3, 6))
    for b, t in zip(*np.nonzero(mask), strict=True):
        d = log_probs[b, t] - ref[b, t]
        kl = {"k1": d, "k2": d * d / 2, "k3": np.exp(-d) + d - 1}[estimator]
        expected[b, t] = -0.3 * kl + (scores[b] if t == mask[b].sum() - 1 else 0)
    np.testing.assert_allclose(rewards, expected, atol=1e-5)


def test_integer_scores_raise_everywhere():
    scores, mask = jnp.array([1, 0]), jnp.ones((2, 3), bool)
    tokens = jnp.zeros((2, 3), int)
    zeros = jnp.zeros((2, 3))
    moments = shaping.init_running_moments()
    for call in (
        lambda: shaping.token_rewards(scores, zeros, zeros, mask, kl_coef=0.1),
        lambda: shaping.penalise_missing_eos(scores, tokens, mask, [EOS], penalty=-1.0),
        lambda: shaping.penalise_not_found(scores, mask[:, 0], penalty=-1.0),
        lambda: shaping.clip_scores(scores, limit=1.0),
        lambda: shaping.update_running_moments(moments, scores),
        lambda: shaping.scale_scores(scores, moments),
    ):
        with pytest.raises(TypeError, match="floating"):
            call()


def test_missing_eos_replaces_the_score():
    tokens = jnp.array([[5, EOS, 7], [5, 6, 7], [5, 6, 3], [5, 6, EOS]])
    mask = jnp.array([[1, 1, 0], [1, 1, 1], [1, 1, 1], [1, 1, 0]], bool)
    scores = jnp.array([0.5, 0.6, 0.7, 0.8])
    out = shaping.penalise_missing_eos(scores, tokens, mask, (EOS, 3), penalty=-1.0)
    # The last row's EOS stands on padding: it was never said.
    np.testing.assert_allclose(out, [0.5, -1.0, 0.7, -1.0])
    with pytest.raises(ValueError, match="EOS"):
        shaping.penalise_missing_eos(scores, tokens, mask, (), penalty=-1.0)


def test_truncation_takes_the_first_stop_at_or_after_the_position():
    stop, pad = 9, 0
    tokens = jnp.array(
        [[9, 1, 9, 3, 9, 4], [1, 2, 3, 4, 5, 6], [1, 9, 2, 3, 4, 5], [9, 9, 1, 9, 9, 9]]
    )
    mask = jnp.ones((4, 6), bool).at[3, 3:].set(False)
    cut, kept, found = shaping.truncate_completions(
        tokens, mask, truncate_token=stop, truncate_after=2, pad_id=pad
    )
    np.testing.assert_array_equal(cut[0], [9, 1, 9, 0, 0, 0])
    np.testing.assert_array_equal(kept[0], [1, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(cut[1:3], tokens[1:3])
    assert kept[1:3].all()
    np.testing.assert_array_equal(kept[3], mask[3])
    np.testing.assert_array_equal(found, [True, False, False, False])
    scores = shaping.penalise_not_found(jnp.array([0.5, 0.6, 0.7, 0.8]), found, penalty=-1.0)
    np.testing.assert_allclose(scores, [0.5, -1, -1, -1])


def test_clipping():
    np.testing.assert_allclose(
        shaping.clip_scores(jnp.array([-3.0, 0.2, 3.0]), limit=0.8), [-0.8, 0.2, 0.8]
    )
    with pytest.raises(ValueError, match="positive"):
        shaping.clip_scores(jnp.zeros(1), limit=0.0)


def test_running_moments_equal_one_pass_over_everything():
    rng = np.random.default_rng(0)
    scores = (1000 + 3 * rng.normal(size=90)).astype(np.float32)
    moments = shaping.init_running_moments()
    for part in np.split(scores, [1, 20, 64]):
        moments = shaping.update_running_moments(moments, jnp.asarray(part))
    exact = scores.astype(np.float64)
    np.testing.assert_allclose(moments.count, 90)
    np.testing.assert_allclose(moments.mean, exact.mean(), rtol=1e-6)
    np.testing.assert_allclose(shaping.running_std(moments), exact.std(), rtol=1e-4)
    scaled = shaping.scale_scores(jnp.asarray(scores), moments, shift_mean=True)
    np.testing.assert_allclose(scaled.mean(), 0, atol=1e-4)
    np.testing.assert_allclose(scaled.std(), 1, atol=1e-4)
    unshifted = shaping.scale_scores(jnp.asarray(scores), moments)
    np.testing.assert_allclose(unshifted, exact / exact.std(), rtol=1e-4)


def test_scaling_leaves_constant_scores_alone():
    moments = shaping.update_running_moments(shaping.init_running_moments(), jnp.ones(4))
    np.testing.assert_allclose(shaping.scale_scores(jnp.ones(4), moments), np.ones(4))


def test_reward_whitening_keeps_the_mean_and_is_zero_on_padding():
    mask = jnp.array([[1, 1, 0], [1, 0, 0]], bool)
    rewards = jnp.array([[1.0, 2.0, 50.0], [6.0, 50.0, 50.0]])
    out = masked_whiten(rewards, mask, shift_mean=False)
    np.testing.assert_allclose(np.asarray(out)[mask].mean(), 3.0, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(out)[mask].std(), 1.0, rtol=1e-5)
    assert (np.asarray(out)[~mask] == 0).all()


def test_moments_leave_out_what_has_no_score():
    start = shaping.update_running_moments(shaping.init_running_moments(), jnp.array([1.0, 5.0]))
    some = shaping.update_running_moments(start, jnp.array([2.0, jnp.nan, 7.0]))
    plain = shaping.update_running_moments(start, jnp.array([2.0, 7.0]))
    for a, b in zip(some, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    for a, b in zip(
        shaping.update_running_moments(start, jnp.array([jnp.nan])), start, strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    none = shaping.update_running_moments(shaping.init_running_moments(), jnp.array([jnp.nan]))
    assert [float(x) for x in none] == [0, 0, 0]
