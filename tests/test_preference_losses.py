"""Preference losses: published and hand-made values, identities, and the optimum of a small MDP."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rljax.preference_losses import (
    all_pairs_loss,
    bradley_terry_loss,
    classification_loss,
    dpo_loss,
    hinge_loss,
    ipo_loss,
    kto_baseline,
    kto_loss,
    orpo_loss,
    plackett_luce_loss,
    regression_loss,
    robust_dpo_loss,
    simpo_loss,
)
from tests.conftest import quick_jit


def recorded() -> tuple[np.ndarray, np.ndarray]:
    """Log-ratios of 4 pairs: the inputs of tunix' test_dpo_loss_fn."""
    np.random.seed(0)
    policy = np.random.normal(0, 5, size=(8, 4)).sum(axis=1)
    reference = np.random.normal(0, 5, size=(8, 4)).sum(axis=1)
    ratio = policy - reference
    return ratio[:4], ratio[4:]


@pytest.mark.parametrize("smoothing, expected", [(0.0, 0.753059), (0.3, 0.925447)])
def test_dpo_gives_the_published_values(smoothing, expected):
    loss = dpo_loss(*recorded(), beta=0.1, label_smoothing=smoothing)
    np.testing.assert_allclose(np.mean(loss), expected, atol=1e-6)


def test_dpo_by_hand():
    loss = dpo_loss(jnp.array([-2.0, 1.0]), jnp.zeros(2), beta=0.1)
    np.testing.assert_allclose(loss, [0.798139, 0.644397], atol=1e-6)


def test_equal_log_ratios_give_ln_2():
    equal = jnp.array([-3.0, 0.0, 50.0])
    for loss in (
        dpo_loss(equal, equal, beta=0.3),
        dpo_loss(equal, equal, beta=0.3, label_smoothing=0.2),
        robust_dpo_loss(equal, equal, beta=0.3, label_smoothing=0.2),
        bradley_terry_loss(equal, equal),
        simpo_loss(equal, equal, beta=2.0, gamma=0.0),
    ):
        np.testing.assert_allclose(loss, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(ipo_loss(equal, equal, beta=0.25), 4.0)
    np.testing.assert_allclose(hinge_loss(equal, equal, beta=0.3), 1.0)


def test_robust_dpo_is_unbiased_under_flipped_labels():
    chosen, rejected = map(jnp.asarray, recorded())
    settings = {"beta": 0.1, "label_smoothing": 0.3}
    right = robust_dpo_loss(chosen, rejected, **settings)
    flipped = robust_dpo_loss(rejected, chosen, **settings)
    np.testing.assert_allclose(
        0.7 * right + 0.3 * flipped, dpo_loss(chosen, rejected, beta=0.1), rtol=1e-5
    )
    with pytest.raises(ValueError, match="label_smoothing must be in"):
        robust_dpo_loss(chosen, rejected, beta=0.1, label_smoothing=0.5)


def test_conservative_dpo_has_its_minimum_where_the_labels_are_right_as_often_as_assumed():
    slope = jax.grad(lambda h: dpo_loss(h, jnp.zeros(()), beta=0.5, label_smoothing=0.1))
    np.testing.assert_allclose(slope(jnp.log(9.0) / 0.5), 0, atol=1e-6)


def test_ipo_and_hinge_by_hand():
    chosen, rejected = jnp.array([1.0, 4.0, -1.0]), jnp.array([0.5, -3.0, 0.0])
    np.testing.assert_allclose(ipo_loss(chosen, rejected, beta=0.1), [20.25, 4.0, 36.0])
    np.testing.assert_allclose(hinge_loss(chosen, rejected, beta=0.2), [0.9, 0.0, 1.2], atol=1e-6)


def test_margins_move_what_is_asked():
    np.testing.assert_allclose(
        dpo_loss(jnp.array(4.0), jnp.array(1.0), beta=0.5, margins=1.5), np.log(2), rtol=1e-6
    )
    np.testing.assert_allclose(
        bradley_terry_loss(jnp.array(4.0), jnp.array(1.0), margins=jnp.array(1.0)),
        np.log1p(np.exp(-2.0)),
        rtol=1e-6,
    )


def test_kto_by_hand():
    ratio = jnp.array([2.0, -1.0])
    loss = kto_loss(
        ratio, jnp.array([True, False]), jnp.float32(1.0), beta=0.5,
        desirable_weight=1.0, undesirable_weight=2.0,
    )  # fmt: skip
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    np.testing.assert_allclose(loss, [1 - sigmoid(0.5), 2 * (1 - sigmoid(1.0))], rtol=1e-6)


def test_kto_baseline_is_a_kl_held_at_zero_without_a_gradient():
    weights = jnp.full(4, 0.25)
    some = jnp.array([1.0, -0.5, 2.0, 0.0])
    np.testing.assert_allclose(kto_baseline(some, weights), 0.625)
    np.testing.assert_allclose(kto_baseline(-some, weights), 0.0)
    assert not np.any(jax.grad(kto_baseline)(some, weights))


def test_kto_pushes_each_kind_its_own_way():
    slope = jax.grad(
        lambda r: jnp.sum(kto_loss(r, jnp.array([True, False]), jnp.float32(0.0), beta=0.1))
    )(jnp.zeros(2))
    assert slope[0] < 0 < slope[1]


def test_orpo_by_hand():
    chosen, rejected = np.log(0.5), np.log(0.2)
    # odds 1 and 1/4: -log sigmoid(log 4) = log 1.25
    np.testing.assert_allclose(
        orpo_loss(jnp.float32(chosen), jnp.float32(rejected), beta=0.1),
        np.log(2) + 0.1 * np.log(1.25),
        rtol=1e-6,
    )
    value, slope = jax.value_and_grad(lambda c: orpo_loss(c, jnp.float32(-1.0), beta=0.1))(0.0)
    assert np.isfinite(value) and np.isfinite(slope)  # a completion that is certain


def test_simpo_by_hand():
    np.testing.assert_allclose(
        simpo_loss(jnp.float32(-1.0), jnp.float32(-1.5), beta=2.0, gamma=0.5),
        np.log1p(np.exp(-0.5)),
        rtol=1e-6,
    )


# ------------------------------------------------------------------------------------ Rankings


def test_rankings_of_two_are_pairs():
    scores = jnp.array([[0.3, 1.2], [2.0, -1.0]])
    values = jnp.array([[0.0, 1.0], [1.0, 0.0]])
    real = jnp.ones((2, 2), bool)
    expected = bradley_terry_loss(jnp.array([1.2, 2.0]), jnp.array([0.3, -1.0]))
    np.testing.assert_allclose(all_pairs_loss(scores, values, real), expected, rtol=1e-6)
    np.testing.assert_allclose(plackett_luce_loss(scores, values, real), expected, rtol=1e-6)


def test_plackett_luce_is_a_distribution_over_rankings():
    scores = jnp.array([[0.5, -1.0, 2.0, 0.1]])
    orders = jnp.array(list(itertools.permutations(range(4))), jnp.float32)
    losses = plackett_luce_loss(
        jnp.repeat(scores, len(orders), 0), orders, jnp.ones(orders.shape, bool)
    )
    np.testing.assert_allclose(np.sum(np.exp(-losses)), 1, rtol=1e-5)
    probabilities = np.exp(scores[0]) / np.sum(np.exp(scores[0]))
    first = np.exp(-losses)[np.argmax(orders, axis=1) == 2].sum()
    np.testing.assert_allclose(first, probabilities[2], rtol=1e-5)


def test_all_pairs_counts_each_pair_once_and_leaves_ties_out():
    scores = jnp.array([[1.0, 0.0, -1.0]])
    values = jnp.array([[2.0, 1.0, 1.0]])
    one, two = np.log1p(np.exp(-1.0)), np.log1p(np.exp(-2.0))
    real = jnp.ones((1, 3), bool)
    np.testing.assert_allclose(all_pairs_loss(scores, values, real), [(one + two) / 2], rtol=1e-6)
    tie = all_pairs_loss(scores, jnp.ones((1, 3)), real)
    np.testing.assert_allclose(tie, [0.0])


@pytest.mark.parametrize("loss", [all_pairs_loss, plackett_luce_loss])
def test_missing_completions_do_not_count(loss):
    scores = jnp.array([[1.0, 0.0, -1.0]])
    values = jnp.array([[0.0, 5.0, 3.0]])
    real = jnp.array([[True, True, False]])
    np.testing.assert_allclose(
        loss(scores, values, real), loss(scores[:, :2], values[:, :2], real[:, :2]), rtol=1e-6
    )
    slope = jax.grad(lambda s: jnp.sum(loss(s, values, real)))(scores)
    assert slope[0, 2] == 0 and np.all(np.isfinite(slope))


def test_pointwise_losses_by_hand():
    np.testing.assert_allclose(regression_loss(jnp.array(1.5), jnp.array(0.5)), 0.5)
    np.testing.assert_allclose(
        classification_loss(jnp.array([2.0, 2.0]), jnp.array([1.0, 0.0])),
        [np.log1p(np.exp(-2.0)), np.log1p(np.exp(2.0))],
        rtol=1e-6,
    )
    smooth = classification_loss(jnp.array(0.7), jnp.array(1.0), label_smoothing=0.25)
    np.testing.assert_allclose(
        smooth, 0.75 * np.log1p(np.exp(-0.7)) + 0.25 * np.log1p(np.exp(0.7)), rtol=1e-6
    )


# ------------------------------------------------------------------------------ A solvable MDP


def test_dpo_on_population_preferences_recovers_the_closed_form_optimum():
    """Autoregressive tables over 3^3 sequences: pi* = pi_ref exp(r / beta) / Z comes out."""
    length, vocabulary, beta = 3, 3, 0.5
    words = np.array(list(itertools.product(range(vocabulary), repeat=length)))
    rows = [np.zeros(len(words), int), 1 + words[:, 0], 4 + 3 * words[:, 0] + words[:, 1]]
    rng = np.random.default_rng(0)
    rewards = jnp.asarray(rng.normal(size=len(words)), jnp.float32)

    def log_probs(table):
        steps = jax.nn.log_softmax(table, axis=-1)  # [13, 3]
        return sum(steps[rows[i], words[:, i]] for i in range(length))

    reference = log_probs(jnp.asarray(rng.normal(size=(13, vocabulary)), jnp.float32))
    prefers = jax.nn.sigmoid(rewards[:, None] - rewards[None, :])

    def loss(table):
        ratio = log_probs(table) - reference
        pairs = dpo_loss(
            ratio[:, None], ratio[None, :], beta=beta, label_smoothing=1 - prefers
        )  # the expected loss over both labels of each pair
        return jnp.mean(pairs)

    optimizer = optax.adam(optax.cosine_decay_schedule(0.1, 1500))

    def fit(table):
        def step(carry, _):
            table, state = carry
            updates, state = optimizer.update(jax.grad(loss)(table), state)
            return (table + updates, state), None

        return jax.lax.scan(step, (table, optimizer.init(table)), length=1500)[0][0]

    found = quick_jit(fit)(jnp.zeros((13, vocabulary)))
    optimum = jax.nn.log_softmax(reference + rewards / beta)
    np.testing.assert_allclose(np.exp(log_probs(found)), np.exp(optimum), atol=1e-4)
    assert np.max(np.abs(np.exp(reference) - np.exp(optimum))) > 0.1
