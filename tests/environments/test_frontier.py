"""The frontier of reward over KL, against closed forms and other ways to compute it."""

import jax
import numpy as np
import pytest

from rljax.environments import frontier
from rljax.environments.tabular import World, local_rewards

WORLD = World(3, 3, eos=None, seed=1)
REFERENCE = np.asarray(WORLD.log_probs(WORLD.reference), np.float64)
REFERENCE -= np.log(np.sum(np.exp(REFERENCE)))  # float32's rounding
REWARDS = np.asarray(WORLD.rewards, np.float64)


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_the_tilted_reference_has_the_optimum(beta):
    best = frontier.tilted(REFERENCE, REWARDS, beta)
    found = frontier.point(best, REFERENCE, REWARDS)
    assert found.reward - beta * found.kl == pytest.approx(
        frontier.optimum(REFERENCE, REWARDS, beta), abs=1e-12
    )
    assert frontier.optimum(REFERENCE, REWARDS, beta) == pytest.approx(
        float(WORLD.optimum(beta)), rel=1e-4
    )
    assert frontier.reward_at(REFERENCE, REWARDS, found.kl) == pytest.approx(found.reward, abs=1e-9)


def test_no_policy_is_above_it():
    rng = np.random.default_rng(0)
    for scale in (0.3, 1.0, 3.0):
        policy = frontier.log_normalised(REFERENCE + scale * rng.normal(size=len(REFERENCE)))
        found = frontier.point(policy, REFERENCE, REWARDS)
        assert found.reward < frontier.reward_at(REFERENCE, REWARDS, found.kl)
    assert frontier.reward_at(REFERENCE, REWARDS, 1e6) == np.max(REWARDS)
    assert frontier.reward_at(REFERENCE, REWARDS, 0.0) == pytest.approx(
        float(np.exp(REFERENCE) @ REWARDS), abs=1e-6
    )
    with pytest.raises(ValueError, match="below 0"):
        frontier.reward_at(REFERENCE, REWARDS, -1.0)


def test_best_of_n_by_counting():
    """Two of three completions, one of reward 1: it wins unless neither sample is it."""
    probs, rewards = np.array([0.5, 0.3, 0.2]), np.array([0.0, 0.0, 1.0])
    made = np.exp(frontier.best_of_n(np.log(probs), rewards, 2))
    np.testing.assert_allclose(made, [0.64 * 5 / 8, 0.64 * 3 / 8, 0.36], rtol=1e-12)
    np.testing.assert_allclose(frontier.best_of_n(np.log(probs), rewards, 1), np.log(probs))
    best = frontier.point(frontier.best_of_n(REFERENCE, REWARDS, 4), REFERENCE, REWARDS)
    assert best.kl < np.log(4) - 3 / 4 + 1e-9  # the bound is met where no completion is likely
    with pytest.raises(ValueError, match="at least one"):
        frontier.best_of_n(REFERENCE, REWARDS, 0)


def test_exact_numbers_are_those_of_the_tree():
    table = WORLD.reference + jax.random.normal(jax.random.key(0), WORLD.reference.shape)
    reward, kl = WORLD.exact(table)
    np.testing.assert_allclose(reward - 0.3 * kl, WORLD.objective(table, 0.3), rtol=1e-4)
    np.testing.assert_allclose(
        WORLD.log_probs(table), np.sum(WORLD.token_log_probs(table), axis=1), rtol=1e-4
    )


def test_local_rewards_by_hand():
    """Mean 0 and the deviation asked for, and no more than places and pairs of neighbours."""
    tree = World(2, 3, eos=None).tree
    rewards = local_rewards(tree, 3, scale=2.0)
    assert np.mean(rewards) == pytest.approx(0, abs=1e-12)
    assert np.std(rewards) == pytest.approx(2)
    by_token = {tuple(row): value for row, value in zip(tree.tokens, rewards, strict=True)}
    # what the first token changes does not depend on the third
    first = [by_token[1, b, c] - by_token[0, b, c] for b in (0, 1) for c in (0, 1)]
    assert first[0] == pytest.approx(first[1]) and first[2] == pytest.approx(first[3])
    assert first[0] != pytest.approx(first[2])
