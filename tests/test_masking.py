"""Masked arithmetic: golden values, numpy loops over random masks, and the degenerate batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import masking

LOSS = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], np.float32)
MASK = np.array([[1, 1, 0], [1, 1, 1]], bool)


def random_masks(rng: np.random.Generator, batch: int = 5, length: int = 7) -> np.ndarray:
    """Right-padded rows of every length, an empty one among them."""
    lengths = rng.integers(0, length + 1, batch)
    lengths[rng.integers(batch)] = 0
    return np.arange(length) < lengths[:, None]


def test_masked_mean_and_variance_goldens():
    # Worked by hand; also in google/tunix tests/rl/ppo/ppo_helpers_test.py.
    x = jnp.array([1.0, 2.0, 3.0, 4.0, 5.0])
    mask = jnp.array([True, True, False, False, True])
    np.testing.assert_allclose(masking.masked_mean(x, mask), 8 / 3, rtol=1e-6)
    np.testing.assert_allclose(masking.masked_var(x, mask, ddof=1), 13 / 3, rtol=1e-6)
    np.testing.assert_allclose(masking.masked_var(x, mask), 26 / 9, rtol=1e-6)
    both = jnp.stack([x, x + 5])
    masks = jnp.stack([mask, jnp.ones(5, bool)])
    np.testing.assert_allclose(masking.masked_mean(both, masks), 6.0, rtol=1e-6)
    np.testing.assert_allclose(masking.masked_mean(both, masks, axis=1), [8 / 3, 8], rtol=1e-6)
    np.testing.assert_allclose(masking.masked_var(both, masks, ddof=1), 10.285715, rtol=1e-6)


def test_whiten_golden_without_shift():
    # Huang et al. 2023, detail "rewards whitening": var with ddof 0, mean 1.6 kept.
    x = jnp.arange(1.2, 2.05, 0.1, dtype=jnp.float32).reshape(3, 3)
    expected = [[0.0508, 0.4381, 0.8254], [1.2127, 1.6, 1.9873], [2.3746, 2.7619, 3.1492]]
    mask = jnp.ones((3, 3), bool)
    whitened = masking.masked_whiten(x, mask, shift_mean=False)
    np.testing.assert_allclose(whitened, expected, atol=1e-4)
    shifted = masking.masked_whiten(x, mask)
    np.testing.assert_allclose(shifted, whitened - 1.6, atol=1e-5)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("ddof", [0, 1])
def test_statistics_equal_numpy_on_the_real_tokens(seed, ddof):
    rng = np.random.default_rng(seed)
    mask = random_masks(rng)
    x = rng.normal(size=mask.shape).astype(np.float32)
    dirty = np.where(mask, x, np.nan)
    real = x[mask]
    if real.size < 2:
        pytest.skip("needs two real tokens")
    np.testing.assert_allclose(masking.masked_sum(dirty, mask), real.sum(), atol=1e-5)
    np.testing.assert_allclose(masking.masked_mean(dirty, mask), real.mean(), atol=1e-6)
    np.testing.assert_allclose(
        masking.masked_std(dirty, mask, ddof=ddof), real.std(ddof=ddof), rtol=1e-5
    )
    whitened = np.asarray(masking.masked_whiten(dirty, mask, ddof=ddof))
    np.testing.assert_allclose(
        whitened[mask], (real - real.mean()) / real.std(ddof=ddof), atol=1e-5
    )
    assert (whitened[~mask] == 0).all()


@pytest.mark.parametrize(
    ("mode", "length", "expected"),
    [("token", None, 0.36), ("sequence", None, 0.325), ("constant", 3, 0.30)],
)
def test_aggregate_loss_goldens(mode, length, expected):
    # Also in google/tunix tests/rl/common_test.py::test_aggregate_loss_values.
    loss = masking.aggregate_loss(LOSS, MASK, mode, constant_length=length)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize(("mode", "length"), [("token", None), ("sequence", None), ("constant", 9)])
def test_micro_batches_add_up_to_the_minibatch(mode, length):
    rng = np.random.default_rng(3)
    mask = random_masks(rng, batch=8)
    loss = rng.normal(size=mask.shape).astype(np.float32)
    weights = masking.token_weights(mask, mode, constant_length=length)
    parts = [masking.weighted_loss(loss[i : i + 2], weights[i : i + 2]) for i in range(0, 8, 2)]
    whole = masking.aggregate_loss(loss, mask, mode, constant_length=length)
    np.testing.assert_allclose(sum(parts), whole, atol=1e-6)


def test_sequence_mode_is_not_diluted_by_empty_rows():
    padded_loss = np.concatenate([LOSS, np.full((2, 3), np.nan, np.float32)])
    padded_mask = np.concatenate([MASK, np.zeros((2, 3), bool)])
    np.testing.assert_allclose(
        masking.aggregate_loss(padded_loss, padded_mask, "sequence"), 0.325, rtol=1e-6
    )


@pytest.mark.parametrize(("mode", "length"), [("token", None), ("sequence", None), ("constant", 3)])
def test_wholly_masked_batch_gives_zero_and_finite_gradients(mode, length):
    mask = jnp.zeros((2, 3), bool)
    value, grad = jax.value_and_grad(
        lambda x: (
            masking.aggregate_loss(x, mask, mode, constant_length=length)
            + masking.masked_mean(x, mask)
            + masking.masked_std(x, mask)
            + masking.masked_whiten(x, mask).sum()
        )
    )(jnp.asarray(LOSS))
    assert value == 0
    np.testing.assert_array_equal(grad, np.zeros((2, 3)))


def test_gradient_ignores_nan_on_padding():
    dirty = jnp.where(MASK, LOSS, jnp.nan)
    grad = jax.grad(lambda x: jnp.sum(masking.masked_whiten(x, MASK) ** 3))(dirty)
    assert np.isfinite(grad).all()
    assert (np.asarray(grad)[~MASK] == 0).all()
    grad = jax.grad(lambda x: masking.aggregate_loss(x, MASK, "token"))(dirty)
    np.testing.assert_allclose(grad, MASK / 5, rtol=1e-6)


def test_wrong_arguments_raise():
    with pytest.raises(TypeError, match="mask must be bool"):
        masking.masked_mean(LOSS, MASK.astype(np.float32))
    with pytest.raises(ValueError, match="unknown loss aggregation"):
        masking.token_weights(MASK, "mean")
    with pytest.raises(ValueError, match="constant_length"):
        masking.token_weights(MASK, "constant")
    with pytest.raises(ValueError, match="constant_length"):
        masking.token_weights(MASK, "token", constant_length=3)
    with pytest.raises(ValueError, match="positive"):
        masking.token_weights(MASK, "constant", constant_length=0)


def test_completion_mask_includes_the_first_eos_even_where_it_is_the_pad():
    eos = 2  # also the pad id
    tokens = jnp.array([[5, 2, 2, 2], [2, 2, 2, 2], [5, 6, 7, 8], [5, 9, 2, 7]])
    expected = [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 0]]
    np.testing.assert_array_equal(masking.completion_mask_from_tokens(tokens, [eos]), expected)
    two = masking.completion_mask_from_tokens(tokens, (eos, 9))
    np.testing.assert_array_equal(two[3], [1, 1, 0, 0])
    assert masking.completion_mask_from_tokens(tokens, ()).all()


def test_last_token_and_placing_scores():
    mask = jnp.array([[1, 1, 0], [1, 1, 1], [0, 0, 0]], bool)
    np.testing.assert_array_equal(masking.last_token_index(mask), [1, 2, -1])
    placed = masking.place_at_last_token(jnp.array([0.7, -1.0, 5.0]), mask)
    np.testing.assert_allclose(placed, [[0, 0.7, 0], [0, 0, -1], [0, 0, 0]])
    with pytest.raises(TypeError, match="floating"):
        masking.place_at_last_token(jnp.array([1, 2, 3]), mask)
