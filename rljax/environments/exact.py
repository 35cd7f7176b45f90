"""Solve a small MDP exactly: what policies are worth, and which is best, with and without a KL.

Every function is one compiled program. Policies are [S, A], rows of probabilities; values [S],
action values [S, A]. `gamma` in [0, 1]; 1 needs episodes that surely end. Sutton and Barto 2018,
chapters 3 and 4, unless a function names another source.

S states, A actions, H steps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rljax.environments.token_mdp import Tabular


class Solution(NamedTuple):
    """Where value iteration has come to."""

    values: jax.Array
    """[S]."""
    action_values: jax.Array
    """[S, A], one step ahead of the values."""
    policy: jax.Array
    """[S, A]: that of the action values, greedy (the first of equals) or soft."""
    iterations: jax.Array
    """int32."""
    bound: jax.Array
    """Largest |values - true values| that there can be, up to rounding; inf where nothing is known
    (gamma 1, and the last iteration still changed something)."""


def greedy_policy(action_values: jax.Array) -> jax.Array:
    """Return the policy that takes the best action of each state, the first of equals: [S, A]."""
    return jax.nn.one_hot(jnp.argmax(action_values, axis=1), action_values.shape[1])


def action_values(mdp: Tabular, values: jax.Array, *, gamma: float | jax.Array) -> jax.Array:
    """Compute Q(s, a) = r(s, a) + gamma sum_s' P(s' | s, a) V(s'): [S, A]."""
    return mdp.rewards + gamma * mdp.transitions @ values


def _under(mdp: Tabular, policy: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return a policy's transitions [S, S] and rewards [S]."""
    moves = jnp.einsum("sa,sat->st", policy, mdp.transitions)
    return moves, jnp.sum(policy * mdp.rewards, axis=1)


@jax.jit
def evaluate_policy(mdp: Tabular, policy: jax.Array, *, gamma: float | jax.Array) -> jax.Array:
    """Compute V = (I - gamma P)^-1 r of a policy: [S], differentiable in all of it."""
    moves, rewards = _under(mdp, policy)
    return jnp.linalg.solve(jnp.eye(len(rewards)) - gamma * moves, rewards)


@jax.jit
def occupancy(mdp: Tabular, policy: jax.Array, *, gamma: float | jax.Array) -> jax.Array:
    """Compute how often an episode of a policy visits each state, E sum_t gamma^t 1(s_t = s): [S].

    Its product with the policy and the rewards sums to the policy's expected return.
    """
    moves, _ = _under(mdp, policy)
    return jnp.linalg.solve((jnp.eye(len(moves)) - gamma * moves).T, mdp.start)


@functools.partial(jax.jit, static_argnames="horizon")
def finite_horizon_values(
    mdp: Tabular, *, horizon: int, gamma: float | jax.Array, policy: jax.Array | None = None
) -> jax.Array:
    """Compute by backward induction what a state is worth with h steps to go: [H + 1, S].

    Row h is that of h steps, row 0 is 0. policy: the one that acts; None: the best one, which may
    act by the steps that are left.
    """

    def back(values: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        q = action_values(mdp, values, gamma=gamma)
        values = jnp.max(q, axis=1) if policy is None else jnp.sum(policy * q, axis=1)
        return values, values

    end = jnp.zeros(len(mdp.start))
    rows = jax.lax.scan(back, end, length=horizon)[1]
    return jnp.concatenate([end[None], rows])


def _iterate(
    mdp: Tabular,
    improve: Callable[[jax.Array], jax.Array],
    gamma: float | jax.Array,
    tolerance: float | jax.Array,
    max_iterations: int | jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Repeat V <- improve(Q(V)) until the bound is within the tolerance: V, iterations, bound.

    The Bellman operator shrinks distances by gamma times the largest probability that an episode
    goes on; what k steps have left to go is at most that factor's series of the last change.
    """
    modulus = gamma * jnp.max(jnp.sum(mdp.transitions, axis=2))

    def bound_of(change: jax.Array) -> jax.Array:
        left = jnp.where(modulus < 1 - 1e-6, modulus / jnp.maximum(1 - modulus, 1e-6), jnp.inf)
        return jnp.where(change == 0, 0.0, left * change)

    def unfinished(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        _, done, bound = carry
        return (bound > tolerance) & (done < max_iterations)

    def once(
        carry: tuple[jax.Array, jax.Array, jax.Array],
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        values, done, _ = carry
        new = improve(action_values(mdp, values, gamma=gamma))
        return new, done + 1, bound_of(jnp.max(jnp.abs(new - values)))

    start = (jnp.zeros(len(mdp.start)), jnp.int32(0), jnp.float32(jnp.inf))
    return jax.lax.while_loop(unfinished, once, start)


@jax.jit
def value_iteration(
    mdp: Tabular,
    *,
    gamma: float | jax.Array,
    tolerance: float | jax.Array = 1e-5,
    max_iterations: int | jax.Array = 10_000,
) -> Solution:
    """Compute the optimal values, V = max_a Q, until they are known within `tolerance`.

    Rounding of float32 is not in the bound: a tolerance below about 1e-6 of the values is only met
    where an iteration changes nothing. With gamma 1 that is how it ends; a tree of L tokens needs
    L + 1 iterations. See `bound` of the result where max_iterations was reached.
    """
    values, done, bound = _iterate(
        mdp, lambda q: jnp.max(q, axis=1), gamma, tolerance, max_iterations
    )
    q = action_values(mdp, values, gamma=gamma)
    return Solution(values, q, greedy_policy(q), done, bound)


@jax.jit
def soft_value_iteration(
    mdp: Tabular,
    reference: jax.Array,
    *,
    beta: float | jax.Array,
    gamma: float | jax.Array,
    tolerance: float | jax.Array = 1e-5,
    max_iterations: int | jax.Array = 10_000,
) -> Solution:
    """Compute the optimum of E[sum_t gamma^t (r_t - beta KL(policy || reference at s_t))].

    V(s) = beta log sum_a ref(a | s) exp(Q(s, a) / beta), and the policy is ref exp((Q - V) / beta).
    beta: > 0, nats cost so much. On a tree of completions with gamma 1 that is the optimum of
    RLHF's objective, pi* proportional to ref exp(r / beta) over whole completions (Ziegler et al.
    2019, section 2, https://arxiv.org/abs/1909.08593). Todorov 2006; Haarnoja et al. 2017, theorem
    2 (https://arxiv.org/abs/1702.08165). Tolerance: as in `value_iteration`.
    """
    log_reference = jnp.log(reference)

    def improve(q: jax.Array) -> jax.Array:
        return beta * jax.nn.logsumexp(log_reference + q / beta, axis=1)

    values, done, bound = _iterate(mdp, improve, gamma, tolerance, max_iterations)
    q = action_values(mdp, values, gamma=gamma)
    policy = jax.nn.softmax(log_reference + q / beta, axis=1)
    return Solution(values, q, policy, done, bound)


def charge_kl(
    mdp: Tabular, policy: jax.Array, reference: jax.Array, *, beta: float | jax.Array
) -> Tabular:
    """Return the MDP whose rewards are r - beta log(policy / reference), as PPO charges them.

    What a policy is worth in its own one is the KL-regularised objective.
    """
    taken = policy > 0
    ratio = jnp.log(jnp.where(taken, policy, 1)) - jnp.log(jnp.where(taken, reference, 1))
    return mdp._replace(rewards=mdp.rewards - beta * ratio)


def expected_return(mdp: Tabular, policy: jax.Array, *, gamma: float | jax.Array) -> jax.Array:
    """Compute E[sum_t gamma^t r_t] of a policy from the start, a scalar."""
    return mdp.start @ evaluate_policy(mdp, policy, gamma=gamma)
