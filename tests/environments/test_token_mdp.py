"""Token MDPs: their families, their functions, and the bridge to token rewards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.environments.sequences import SequenceTree
from rljax.environments.token_mdp import (
    Tabular,
    as_token_reward,
    is_deterministic,
    make_token_mdp,
    random_mdp,
    sequence_bandit,
    simulate,
)
from rljax.types import Completions


def test_a_random_mdp_is_what_was_asked_for():
    mdp = random_mdp(jax.random.key(1), 6, 2, branching=3, end_probability=0.25)
    np.testing.assert_allclose(jnp.sum(mdp.transitions, axis=2), 0.75, rtol=1e-5)
    np.testing.assert_array_equal(jnp.sum(mdp.transitions > 0, axis=2), 3)
    assert not is_deterministic(mdp)
    other = random_mdp(jax.random.key(2), 6, 2, branching=3, end_probability=0.25)
    assert not np.array_equal(mdp.rewards, other.rewards)
    for flags, problem in (
        ({"branching": 7, "end_probability": 0.0}, "branching is 7"),
        ({"branching": 1, "end_probability": 1.0}, "end_probability is 1.0"),
    ):
        with pytest.raises(ValueError, match=problem):
            random_mdp(jax.random.key(0), 6, 2, **flags)


@pytest.mark.slow
def test_steps_have_the_probabilities_of_the_table():
    mdp = random_mdp(jax.random.key(1), 4, 2, branching=2, end_probability=0.3)
    functions = make_token_mdp(mdp, 9)

    def one(key):
        state = functions.reset(key)
        return state.index, functions.step(state, jnp.int32(1))

    begin, (after, reward, done) = jax.jit(jax.vmap(one))(
        jax.random.split(jax.random.key(0), 20_000)
    )
    assert not np.any(begin) and np.all(reward == mdp.rewards[0, 1])
    assert reward.dtype == jnp.float32 and np.all(after.time == 1)
    counts = np.bincount(np.where(done, 4, after.index), minlength=5) / 20_000
    np.testing.assert_allclose(counts[:4], mdp.transitions[0, 1], atol=0.015)
    np.testing.assert_allclose(counts[4], 0.3, atol=0.015)


def test_certain_transitions_never_end_an_episode_by_rounding():
    """Thirds add up to a little less than 1 in float32; the horizon ends, nothing else does."""
    third = jnp.full((3, 1, 3), 1 / 3)
    mdp = make_token_mdp(Tabular(jnp.full(3, 1 / 3), third, jnp.ones((3, 1))), 50)
    keys = jax.random.split(jax.random.key(0), 500)
    episodes = jax.vmap(lambda key: simulate(mdp, jnp.ones((3, 1)), key))(keys)
    assert np.all(episodes.mask) and np.all(episodes.rewards == 1)
    counts = np.bincount(np.ravel(episodes.states), minlength=3) / episodes.states.size
    np.testing.assert_allclose(counts, 1 / 3, atol=0.02)


@pytest.mark.slow
def test_an_episode_of_a_tree_is_a_completion_and_its_reward():
    tree = SequenceTree(3, 3, eos=2)
    rewards = jnp.arange(1.0, len(tree.tokens) + 1)
    mdp = make_token_mdp(tree.tabular(rewards), tree.length)
    policy = jnp.full((tree.num_prefixes, 3), 1 / 3)
    keys = jax.random.split(jax.random.key(0), 200)
    episodes = jax.vmap(lambda key: simulate(mdp, policy, key))(keys)
    which = tree.index(episodes.actions, episodes.mask)
    np.testing.assert_array_equal(episodes.mask, tree.mask[which])
    np.testing.assert_allclose(jnp.sum(episodes.rewards, axis=1), rewards[which])
    assert len(set(np.asarray(which).tolist())) == len(tree.tokens)
    with pytest.raises(ValueError, match="horizon is 0"):
        make_token_mdp(tree.tabular(rewards), 0)


def test_the_tree_lists_every_completion_once():
    tree = SequenceTree(3, 2, eos=1)
    expected = [[0, 0], [0, 1], [0, 2], [1, 1], [2, 0], [2, 1], [2, 2]]
    np.testing.assert_array_equal(tree.tokens, expected)
    np.testing.assert_array_equal(np.sum(tree.mask, axis=1), [2, 2, 2, 1, 2, 2, 2])
    assert tree.num_prefixes == 4 and tree.eos_ids == (1,)
    np.testing.assert_array_equal(tree.prefixes(tree.tokens)[:, 1], [1, 1, 1, 2, 3, 3, 3])
    padded = jnp.array([[1, 7], [2, 0]])  # whatever stands behind the end
    np.testing.assert_array_equal(tree.index(padded, jnp.array([[1, 0], [1, 1]], bool)), [3, 4])
    whole = SequenceTree(2, 3)
    assert len(whole.tokens) == 8 and np.all(whole.mask) and whole.eos_ids == ()
    transitions = whole.tabular(jnp.zeros(8)).transitions
    assert transitions[0, 1, 2] == 1 and transitions[2, 0, 5] == 1 and jnp.sum(transitions) == 6
    for sizes, problem in (
        ((0, 3), "tokens and slots"),
        ((3, 3, 3), "eos is 3"),
        ((100, 9), "more than"),
    ):
        with pytest.raises(ValueError, match=problem):
            SequenceTree(*sizes)


@pytest.mark.slow
def test_a_token_reward_plays_the_completion():
    """By hand: 3 actions; tokens 4 and 7 are action 1; what comes after the end pays nothing."""
    reward = as_token_reward(sequence_bandit(jnp.array([[1.0, 2, 3], [10, 20, 30]])), horizon=2)
    tokens = jnp.array([[4, 8, 0], [7, 0, 2], [2, 2, 2]])
    mask = jnp.array([[1, 1, 1], [1, 0, 0], [1, 1, 0]], bool)
    zeros = jnp.zeros(tokens.shape)
    made = Completions(tokens, mask, zeros, zeros)
    np.testing.assert_array_equal(reward.score(None, made), [2 + 30, 2, 3 + 30])
    short = as_token_reward(sequence_bandit(jnp.array([[1.0, 2, 3], [10, 20, 30]])), horizon=1)
    np.testing.assert_array_equal(short.score(None, made), [2, 2, 3])
    drawn = random_mdp(jax.random.key(0), 3, 2, branching=2, end_probability=0.0)
    with pytest.raises(ValueError, match="does not decide its reward"):
        as_token_reward(drawn, horizon=3)
    certain = random_mdp(jax.random.key(0), 3, 2, branching=1, end_probability=0.0)
    assert is_deterministic(certain)
