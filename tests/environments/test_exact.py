"""Exact solutions of small MDPs, against enumeration, by hand, and against episodes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.environments import exact
from rljax.environments.sequences import SequenceTree
from rljax.environments.token_mdp import (
    Tabular,
    make_token_mdp,
    random_mdp,
    sequence_bandit,
    simulate,
)

RANDOM = random_mdp(jax.random.key(0), 5, 3, branching=3, end_probability=0.1)
TREE = SequenceTree(3, 3, eos=2)
REWARDS = jnp.asarray(np.random.default_rng(1).normal(size=len(TREE.tokens)), jnp.float32)


def some_policy(mdp: Tabular, seed: int) -> jax.Array:
    return jax.nn.softmax(jax.random.normal(jax.random.key(seed), mdp.rewards.shape))


def numpy_values(mdp: Tabular, policy: np.ndarray, gamma: float) -> np.ndarray:
    """The values of a policy in float64, by summing up a thousand steps."""
    moves = np.einsum("sa,sat->st", policy, np.asarray(mdp.transitions, np.float64))
    rewards, values = (
        np.sum(policy * np.asarray(mdp.rewards, np.float64), axis=1),
        np.zeros(len(policy)),
    )
    for _ in range(1000):
        values = rewards + gamma * moves @ values
    return values


@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
def test_a_policys_values_are_the_sums_of_its_rewards(gamma):
    policy = some_policy(RANDOM, 1)
    values = exact.evaluate_policy(RANDOM, policy, gamma=gamma)
    expected = numpy_values(RANDOM, np.asarray(policy, np.float64), gamma)
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)
    q = exact.action_values(RANDOM, values, gamma=gamma)
    np.testing.assert_allclose(jnp.sum(policy * q, axis=1), values, rtol=1e-4, atol=1e-5)
    visits = exact.occupancy(RANDOM, policy, gamma=gamma)
    total = jnp.sum(visits[:, None] * policy * RANDOM.rewards)
    np.testing.assert_allclose(total, values[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        exact.expected_return(RANDOM, policy, gamma=gamma), values[0], rtol=1e-6
    )
    # an episode of a step probability 0.1 to end has 10 steps on average
    if gamma == 1:
        np.testing.assert_allclose(jnp.sum(visits), 10, rtol=1e-4)


def test_monte_carlo_finds_the_exact_values():
    """Within four standard errors of 4,000 episodes of 200 steps at most."""
    policy, gamma = some_policy(RANDOM, 2), 0.95
    mdp = make_token_mdp(RANDOM, 200)
    keys = jax.random.split(jax.random.key(3), 4000)
    episodes = jax.jit(jax.vmap(lambda key: simulate(mdp, policy, key)))(keys)
    discounts = gamma ** np.arange(200)
    returns = np.asarray(episodes.rewards) @ discounts
    error = returns.std() / np.sqrt(len(returns))
    value = exact.evaluate_policy(RANDOM, policy, gamma=gamma)[0]
    assert abs(returns.mean() - value) < 4 * error < 0.2
    visits = np.zeros(5)
    np.add.at(visits, np.asarray(episodes.states), np.asarray(episodes.mask) * discounts)
    expected = exact.occupancy(RANDOM, policy, gamma=gamma)
    np.testing.assert_allclose(visits / len(returns), expected, atol=0.15)


@pytest.mark.parametrize("gamma", [0.5, 0.95, 1.0])
def test_value_iteration_finds_the_best_of_all_policies(gamma):
    """All 3^5 deterministic policies are evaluated; one of them is optimal everywhere."""
    choices = np.array(list(itertools.product(range(3), repeat=5)))
    policies = jax.nn.one_hot(choices, 3)
    evaluate = jax.vmap(lambda policy: exact.evaluate_policy(RANDOM, policy, gamma=gamma))
    best = np.max(evaluate(policies), axis=0)
    found = exact.value_iteration(RANDOM, gamma=gamma, tolerance=1e-4)
    assert float(found.bound) <= 1e-4
    np.testing.assert_allclose(found.values, best, atol=2e-4)
    reached = exact.evaluate_policy(RANDOM, found.policy, gamma=gamma)
    np.testing.assert_allclose(reached, best, atol=2e-4)
    np.testing.assert_allclose(jnp.max(found.action_values, axis=1), best, atol=2e-4)


def test_the_bound_holds_after_every_iteration():
    best = exact.value_iteration(RANDOM, gamma=0.9, tolerance=1e-5).values
    bounds = []
    for count in range(1, 30):
        found = exact.value_iteration(RANDOM, gamma=0.9, max_iterations=count)
        assert int(found.iterations) == count
        assert np.max(np.abs(found.values - best)) <= found.bound + 2e-5
        bounds.append(float(found.bound))
    assert all(b < a for a, b in itertools.pairwise(bounds))


def test_without_discount_nothing_is_known_until_nothing_changes():
    """A state that may stay for ever has no modulus; a tree ends by itself."""
    stuck = Tabular(jnp.ones(1), jnp.ones((1, 1, 1)), jnp.ones((1, 1)))
    found = exact.value_iteration(stuck, gamma=1.0, max_iterations=20)
    assert np.isinf(found.bound) and int(found.iterations) == 20
    tree = exact.value_iteration(TREE.tabular(REWARDS), gamma=1.0)
    assert float(tree.bound) == 0 and int(tree.iterations) == TREE.length + 1
    assert float(tree.values[0]) == pytest.approx(float(jnp.max(REWARDS)))


def test_backward_induction_by_steps_to_go():
    """With 2 steps to go, every pair of decision rules is tried; the rest is evaluation."""
    mdp, gamma = RANDOM, 0.9
    rules = np.array(list(itertools.product(range(3), repeat=5)))
    rewards, transitions = np.asarray(mdp.rewards), np.asarray(mdp.transitions)
    states = np.arange(5)
    last = rewards.max(axis=1)
    two = np.max(
        [rewards[states, rule] + gamma * transitions[states, rule] @ last for rule in rules], axis=0
    )
    values = exact.finite_horizon_values(mdp, horizon=2, gamma=gamma)
    np.testing.assert_allclose(values, [np.zeros(5), last, two], rtol=1e-5, atol=1e-6)
    policy = some_policy(mdp, 4)
    steps = exact.finite_horizon_values(mdp, horizon=300, gamma=gamma, policy=policy)
    whole = exact.evaluate_policy(mdp, policy, gamma=gamma)
    np.testing.assert_allclose(steps[-1], whole, rtol=1e-4, atol=1e-5)
    assert np.max(np.abs(steps[3] - whole)) > 0.1


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_the_soft_optimum_of_a_tree_is_ref_exp_r_over_beta(beta):
    reference = some_policy(TREE.tabular(REWARDS), 5)
    found = exact.soft_value_iteration(TREE.tabular(REWARDS), reference, beta=beta, gamma=1.0)
    ref = jnp.sum(TREE.token_log_probs(reference), axis=1)
    log_z = jax.nn.logsumexp(ref + REWARDS / beta)
    assert float(found.values[0]) == pytest.approx(float(beta * log_z), rel=1e-5)
    policy = jnp.sum(TREE.token_log_probs(found.policy), axis=1)
    np.testing.assert_allclose(policy, ref + REWARDS / beta - log_z, rtol=1e-4, atol=1e-4)


def test_the_soft_optimum_of_an_mdp_is_above_every_policy_and_reached_by_its_own():
    reference, beta, gamma = some_policy(RANDOM, 6), 0.5, 0.9
    found = exact.soft_value_iteration(RANDOM, reference, beta=beta, gamma=gamma)
    assert float(found.bound) <= 1e-5

    def objective(policy):
        charged = exact.charge_kl(RANDOM, policy, reference, beta=beta)
        return exact.evaluate_policy(charged, policy, gamma=gamma)

    np.testing.assert_allclose(objective(found.policy), found.values, atol=1e-3)
    for seed in range(20):
        assert np.all(objective(some_policy(RANDOM, seed)) < found.values)
    # nothing of first order is left: the objective is flat in every direction
    logits = jnp.log(found.policy)
    slope = jax.grad(lambda table: RANDOM.start @ objective(jax.nn.softmax(table)))(logits)
    np.testing.assert_allclose(slope, 0, atol=2e-3)


def test_beta_leads_from_the_reference_to_the_greedy_policy():
    reference = some_policy(RANDOM, 7)
    soft = {
        beta: exact.soft_value_iteration(RANDOM, reference, beta=beta, gamma=0.9)
        for beta in (0.01, 1e4)
    }
    np.testing.assert_allclose(soft[1e4].policy, reference, atol=1e-3)
    hard = exact.value_iteration(RANDOM, gamma=0.9)
    np.testing.assert_array_equal(soft[0.01].policy > 0.5, hard.policy > 0.5)
    np.testing.assert_allclose(soft[0.01].values, hard.values, atol=0.3)


def test_a_bandit_of_sequences_is_solved_token_by_token():
    table = jnp.asarray(np.random.default_rng(2).normal(size=(6, 4)), jnp.float32)
    mdp = sequence_bandit(table)
    found = exact.value_iteration(mdp, gamma=1.0)
    assert float(found.values[0]) == pytest.approx(float(jnp.sum(jnp.max(table, axis=1))), rel=1e-5)
    uniform = jnp.full((6, 4), 0.25)
    soft = exact.soft_value_iteration(mdp, uniform, beta=0.3, gamma=1.0)
    np.testing.assert_allclose(soft.policy, jax.nn.softmax(table / 0.3), rtol=1e-4, atol=1e-6)
