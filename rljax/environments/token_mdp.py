"""Small token MDPs in pure JAX: an action is a token, and everything about them can be computed.

A `Tabular` is the MDP as arrays, which `rljax.environments.exact` solves; `make_token_mdp` makes
the pure functions of it that a compiled program steps through; `as_token_reward` hands it to
training as the reward of a completion. Three families: trees of token sequences with a reward for
each completion (`rljax.environments.sequences`), random MDPs, and bandits whose arms are sequences.

S states, A actions, H steps of an episode at most, B completions, C completion slots.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.rewards.protocol import TokenReward, token_reward
from rljax.types import Completions, Prompts


class Tabular(NamedTuple):
    """A Markov decision process as arrays.

    Where the probabilities of `transitions` add up to less than 1, the episode ends with the rest,
    after the reward of the step.
    """

    start: jax.Array
    """[S] float32: how likely an episode begins in a state."""
    transitions: jax.Array
    """[S, A, S] float32: P(next | state, action), of episodes that go on."""
    rewards: jax.Array
    """[S, A] float32: expected reward of an action."""


class State(NamedTuple):
    """Where an episode is; scalars."""

    index: jax.Array
    """int32, in [0, S)."""
    time: jax.Array
    """int32: steps done."""
    key: jax.Array
    """What decides the transitions to come."""


class TokenMDP(NamedTuple):
    """A token MDP as pure functions, which may be traced, mapped and scanned."""

    num_actions: int
    horizon: int
    """Steps after which an episode ends at the latest."""
    reset: Callable[[jax.Array], State]
    """key -> the state in which an episode begins."""
    step: Callable[[State, jax.Array], tuple[State, jax.Array, jax.Array]]
    """(state, action) -> next state, reward (float32), done (bool). The state after `done` has no
    meaning."""


class Episode(NamedTuple):
    """One episode, padded to the horizon: [H] each."""

    states: jax.Array
    actions: jax.Array
    rewards: jax.Array
    """float32; 0 after the end."""
    mask: jax.Array
    """bool: true on steps that were made."""


def _draw(probabilities: jax.Array, uniform: jax.Array) -> jax.Array:
    """Draw an index [S] -> int32 by a uniform number; S itself with the probability that is left.

    Where nothing is left but rounding, the last index of positive probability is drawn.
    """
    edges = jnp.cumsum(probabilities)
    index = jnp.sum(edges <= uniform)
    last = jnp.max(jnp.where(probabilities > 0, jnp.arange(len(edges)), -1))
    whole = edges[-1] > 1 - 1e-5
    return jnp.where(whole, jnp.minimum(index, last), index).astype(jnp.int32)


def make_token_mdp(tabular: Tabular, horizon: int) -> TokenMDP:
    """Build the functions of a tabular MDP whose episodes have `horizon` steps at most.

    Raises ValueError for a horizon below 1.
    """
    if horizon < 1:
        raise ValueError(f"horizon is {horizon}; it must be at least 1")
    states, actions = tabular.rewards.shape

    def reset(key: jax.Array) -> State:
        now, later = jax.random.split(key)
        return State(_draw(tabular.start, jax.random.uniform(now)), jnp.int32(0), later)

    def step(state: State, action: jax.Array) -> tuple[State, jax.Array, jax.Array]:
        now, later = jax.random.split(state.key)
        row = tabular.transitions[state.index, action]
        index = _draw(row, jax.random.uniform(now))
        time = state.time + 1
        done = (index == states) | (time >= horizon)
        reward = tabular.rewards[state.index, action].astype(jnp.float32)
        return State(jnp.minimum(index, states - 1), time, later), reward, done

    return TokenMDP(actions, horizon, reset, step)


def simulate(mdp: TokenMDP, policy: jax.Array, key: jax.Array) -> Episode:
    """Run one episode of a policy [S, A], whose rows are probabilities; pure, so it may be vmapped.

    The length of the result is the horizon.
    """
    first, choices = jax.random.split(key)

    def one(
        carry: tuple[State, jax.Array], choice: jax.Array
    ) -> tuple[tuple[State, jax.Array], Episode]:
        state, live = carry
        action = jax.random.categorical(choice, jnp.log(policy[state.index]))
        after, reward, done = mdp.step(state, action)
        made = Episode(state.index, action, jnp.where(live, reward, 0), live)
        return (after, live & ~done), made

    start = (mdp.reset(first), jnp.bool_(True))
    return jax.lax.scan(one, start, jax.random.split(choices, mdp.horizon))[1]


def random_mdp(
    key: jax.Array, num_states: int, num_actions: int, *, branching: int, end_probability: float
) -> Tabular:
    """Draw an MDP: each action leads to `branching` states with random probabilities.

    A Garnet problem (Archibald, McKinnon and Thomas 1995): the states are drawn without
    replacement, their probabilities are the gaps between sorted uniform numbers, rewards are
    standard normal. Every step ends the episode with `end_probability`; episodes begin in state 0.
    branching 1 and end_probability 0: deterministic. Raises ValueError for a branching outside
    1..num_states and an end_probability outside [0, 1).
    """
    if not 1 <= branching <= num_states:
        raise ValueError(f"branching is {branching}; it must be in 1..{num_states}, the states")
    if not 0 <= end_probability < 1:
        raise ValueError(f"end_probability is {end_probability}; it must be in [0, 1)")
    which_key, cut_key, reward_key = jax.random.split(key, 3)
    pairs = num_states * num_actions

    def choose(one: jax.Array) -> jax.Array:
        return jax.random.permutation(one, num_states)[:branching]

    which = jax.vmap(choose)(jax.random.split(which_key, pairs))
    cuts = jnp.sort(jax.random.uniform(cut_key, (pairs, branching - 1)), axis=1)
    gaps = jnp.diff(cuts, axis=1, prepend=0.0, append=1.0) * (1 - end_probability)
    flat = jnp.zeros((pairs, num_states)).at[jnp.arange(pairs)[:, None], which].set(gaps)
    return Tabular(
        start=jnp.zeros(num_states).at[0].set(1.0),
        transitions=flat.reshape(num_states, num_actions, num_states),
        rewards=jax.random.normal(reward_key, (num_states, num_actions)),
    )


def sequence_bandit(table: jax.Array) -> Tabular:
    """Make a bandit whose arms are the A^L sequences of a reward table [L, A].

    The token at place t is paid table[t, token] at once, so that a sequence is worth the sum of its
    tokens' entries; the state is the place. The best arm has the largest entry of every row.
    """
    length, actions = table.shape
    after = jnp.eye(length, k=1)  # the last place leads nowhere: the episode ends
    return Tabular(
        start=jnp.zeros(length).at[0].set(1.0),
        transitions=jnp.broadcast_to(after[:, None], (length, actions, length)),
        rewards=jnp.asarray(table, jnp.float32),
    )


def is_deterministic(tabular: Tabular) -> bool:
    """Say whether every action has one outcome, so that a sequence of actions has one reward."""
    rows = np.concatenate(
        [np.asarray(tabular.start)[None], np.reshape(tabular.transitions, (-1, len(tabular.start)))]
    )
    return bool(np.all((rows < 1e-6) | (rows > 1 - 1e-6)))


def as_token_reward(tabular: Tabular, *, horizon: int) -> TokenReward:
    """Make a token reward of an MDP: what an episode pays whose actions are a completion's tokens.

    Token i is action i modulo A, so that a model of any vocabulary acts in it; every real token
    acts, an end of text too. The score [B] is the sum of the rewards up to the end of the episode
    or of the completion, undiscounted. In a file of your own, for `--task.reward mine.py:reward`:

        reward = as_token_reward(sequence_bandit(jnp.array([[0.0, 1.0], [1.0, 0.0]])), horizon=2)

    Raises ValueError where transitions are drawn: the completion alone must decide the reward.
    """
    if not is_deterministic(tabular):
        raise ValueError(
            "as_token_reward needs an MDP whose start and transitions are certain: in this one a "
            "completion does not decide its reward"
        )
    mdp = make_token_mdp(tabular, horizon)

    def play(tokens: jax.Array, mask: jax.Array) -> jax.Array:
        def one(
            carry: tuple[State, jax.Array], token: tuple[jax.Array, jax.Array]
        ) -> tuple[tuple[State, jax.Array], jax.Array]:
            (state, live), (action, real) = carry, token
            after, reward, done = mdp.step(state, action)
            return (after, live & ~done), jnp.where(live & real, reward, 0)

        start = (mdp.reset(jax.random.key(0)), jnp.bool_(True))
        return jnp.sum(jax.lax.scan(one, start, (tokens % mdp.num_actions, mask))[1])

    @token_reward
    def reward(prompts: Prompts, completions: Completions) -> jax.Array:
        del prompts
        return jax.vmap(play)(completions.tokens, completions.mask)

    return reward
