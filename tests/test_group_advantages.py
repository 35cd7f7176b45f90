"""Advantages without a critic: published numbers, identities, failed rewards."""

import jax.numpy as jnp
import numpy as np
import pytest

from rljax import group_advantages as ga

ALL = jnp.ones(6, bool)
ONE_TO_SIX = jnp.arange(1.0, 7.0)


def test_leave_one_out_golden():
    got = ga.leave_one_out_advantages(ONE_TO_SIX, ALL, group_size=3)
    np.testing.assert_allclose(got, [-1.5, 0, 1.5, -1.5, 0, 1.5])


def test_identities():
    rng = np.random.default_rng(0)
    scores, good = jnp.asarray(rng.normal(size=12), jnp.float32), jnp.ones(12, bool)
    rloo = ga.leave_one_out_advantages(scores, good, group_size=4)
    centred = ga.group_advantages(scores, good, group_size=4, divide_by_std=False)
    np.testing.assert_allclose(rloo, 4 / 3 * centred, rtol=1e-5)
    grpo = ga.group_advantages(scores, good, group_size=4, divide_by_std=True, eps=0.0)
    spread = np.std(scores.reshape(3, 4), axis=1, ddof=1)
    np.testing.assert_allclose(grpo, centred / np.repeat(spread, 4), rtol=1e-5)


def test_binary_scores_give_the_odds():
    """A of a right answer is sqrt((1 - p) / p) where a share p of the group is right (ddof 0)."""
    scores = jnp.array([1.0, 0, 0, 0, 1, 1, 1, 0])
    got = ga.group_advantages(
        scores, jnp.ones(8, bool), group_size=4, divide_by_std=True, ddof=0, eps=0.0
    )
    np.testing.assert_allclose(got[jnp.array([0, 4])], [3**0.5, 3**-0.5], rtol=1e-5)


def test_equal_scores_teach_nothing():
    scores = jnp.full(6, 0.7)
    for advantages in (
        ga.leave_one_out_advantages(scores, ALL, group_size=3),
        ga.group_advantages(scores, ALL, group_size=3, divide_by_std=True),
        ga.batch_mean_advantages(scores, ALL),
    ):
        np.testing.assert_allclose(advantages, 0, atol=1e-6)
    assert not np.any(ga.informative_groups(scores, ALL, group_size=3))


FUNCTIONS = {
    "rloo": lambda s, g, n: ga.leave_one_out_advantages(s, g, group_size=n),
    "mean": lambda s, g, n: ga.group_advantages(s, g, group_size=n, divide_by_std=False),
    "std": lambda s, g, n: ga.group_advantages(s, g, group_size=n, divide_by_std=True),
    "best": lambda s, g, n: ga.best_advantages(s, g, group_size=n),
    "batch": lambda s, g, n: ga.batch_mean_advantages(s, g),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_failed_reward_is_as_if_it_were_not_there(name):
    """The group without the failed row gives the others the same advantages."""
    with_failed = jnp.array([1.0, np.nan, 3.0, 7.0])
    good = jnp.array([True, False, True, True])
    got = FUNCTIONS[name](jnp.where(good, with_failed, 99.0), good, 4)
    alone = FUNCTIONS[name](jnp.array([1.0, 3.0, 7.0]), jnp.ones(3, bool), 3)
    np.testing.assert_allclose(np.asarray(got)[np.asarray(good)], alone, rtol=1e-5)
    assert got[1] == 0
    nothing = FUNCTIONS[name](with_failed, jnp.zeros(4, bool), 4)
    np.testing.assert_array_equal(nothing, np.zeros(4))


def test_best_takes_the_first_of_equals():
    got = ga.best_advantages(jnp.array([1.0, 2, 2, 5, 4, 5]), ALL, group_size=3)
    np.testing.assert_array_equal(got, [0, 1, 0, 1, 0, 0])


def test_a_failed_greedy_score_is_no_baseline():
    baseline = jnp.array([0.5, np.nan, 1.0, 0, 0, 0])
    got = ga.baseline_advantages(ONE_TO_SIX, ALL, baseline)
    np.testing.assert_allclose(got, [0.5, 0, 2, 4, 5, 6])


def test_informative_groups():
    scores = jnp.array([0.0, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(ga.informative_groups(scores, ALL, group_size=3), [True, False])
    good = jnp.array([True, True, False, True, True, True])
    np.testing.assert_array_equal(ga.informative_groups(scores, good, group_size=3), [False] * 2)


def test_overlong_penalty_golden():
    lengths = jnp.array([100, 16384, 18432, 20480])
    got = ga.overlong_penalty(lengths, max_length=20480, buffer=4096)
    np.testing.assert_allclose(got, [0, 0, -0.5, -1])
    with pytest.raises(ValueError, match="buffer"):
        ga.overlong_penalty(lengths, max_length=10, buffer=11)
