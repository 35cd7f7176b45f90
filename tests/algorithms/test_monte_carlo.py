"""Sampled values of prefixes: right in the mean, and each prefix goes on as it began."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms.monte_carlo import monte_carlo_values, prefix_prompts
from rljax.algorithms.ppo import PPOConfig, advantages_and_returns
from rljax.models.gru import make_gru
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.sampler import make_sampler
from rljax.sweeps.walks import Walks
from rljax.types import Completions, Prompts
from tests.conftest import quick_jit

WORLD = Walks(nodes=5, edges=2, moves=3)
MODEL = make_gru(WORLD.vocabulary, 8)
PARAMS = MODEL.init(jax.random.key(1))
SAMPLE = make_sampler(MODEL, SamplingConfig(max_new_tokens=3, temperature=1.0), (WORLD.eos,), 0)


def ask(ids):
    tokens = jnp.asarray(WORLD.prompts())[ids]
    return Prompts(tokens, jnp.ones_like(tokens, bool), ids, jnp.arange(len(ids)))


def test_prefixes_stand_behind_their_prompt():
    made = Completions(jnp.array([[3, 4, 1]]), jnp.ones((1, 3), bool), *[jnp.zeros((1, 3))] * 2)
    asked = prefix_prompts(ask(jnp.array([1])), made, 2)
    texts = [list(map(int, row[mask])) for row, mask in zip(asked.tokens, asked.mask, strict=True)]
    assert texts == [[2], [2], [2, 3], [2, 3], [2, 3, 4], [2, 3, 4]]
    assert bool(asked.mask[:, -1].all())  # left-padded
    assert len(set(np.asarray(asked.samples).tolist())) == 6


@pytest.mark.slow
def test_the_mean_of_many_samples_is_the_exact_value():
    ids = jnp.array([0, 1, 2, 3])
    made = SAMPLE(PARAMS, None, ask(ids), jax.random.key(0))

    def estimate(key):
        return monte_carlo_values(
            lambda params, prompts, key: SAMPLE(params, None, prompts, key),
            lambda ids, text: WORLD.judge(ids, text)["score"],
            PARAMS, ask(ids), made, key, samples=400,
        )  # fmt: skip

    values = quick_jit(estimate)(jax.random.key(5))
    exact = WORLD.exact_values(MODEL, PARAMS)[WORLD.prefixes(ids, made.tokens)]
    real = np.asarray(made.mask)
    assert np.ptp(np.asarray(exact)[real]) > 0.1  # there is something to tell apart
    np.testing.assert_allclose(np.asarray(values)[real], np.asarray(exact)[real], atol=0.09)
    assert not np.any(np.asarray(values)[~real])


@pytest.mark.slow
def test_exact_values_are_the_expected_scores():
    ids = jnp.repeat(jnp.arange(4), 2000)
    made = quick_jit(lambda key: SAMPLE(PARAMS, None, ask(ids), key))(jax.random.key(2))
    scores = WORLD.judge(ids, made)["score"].reshape(4, -1).mean(axis=1)
    np.testing.assert_allclose(WORLD.exact_values(MODEL, PARAMS)[:4], scores, atol=0.04)


def test_a_shortest_walk_scores_one_and_an_illegal_one_nothing():
    legal = WORLD.adjacent
    start = 1 + int(np.flatnonzero(WORLD.fewest[1:] == 2)[0])
    middle = next(n for n in range(1, 5) if legal[start, n] and legal[n, 0])
    stranger = next(n for n in range(1, 5) if not legal[start, n])
    tokens = jnp.array([[middle, 0, 0], [stranger, 0, 0]])
    mask = jnp.array([[True, True, False]] * 2)
    made = Completions(tokens, mask, *[jnp.zeros((2, 3))] * 2)
    scores = WORLD.judge(jnp.full(2, start - 1), made)["score"]
    assert scores.tolist() == [1.0, 0.0]


def test_the_critic_may_have_a_lambda_of_its_own():
    rng = np.random.default_rng(0)
    values, rewards = (jnp.asarray(rng.normal(size=(2, 4)), jnp.float32) for _ in range(2))
    mask = jnp.ones((2, 4), bool)
    made = Completions(jnp.zeros((2, 4), jnp.int32), mask, values, values)
    plain = {"whiten_rewards": False, "whiten_advantages": False, "gae_lambda": 0.5}
    one = advantages_and_returns(PPOConfig(**plain), made, rewards)
    other = advantages_and_returns(PPOConfig(**plain, value_lambda=1.0), made, rewards)
    np.testing.assert_array_equal(one[0], other[0])
    to_come = jnp.cumsum(rewards[:, ::-1], axis=1)[:, ::-1]
    np.testing.assert_allclose(other[1], to_come, atol=1e-5)
    assert float(jnp.max(jnp.abs(one[1] - to_come))) > 0.1
    with pytest.raises(ValueError, match="value_lambda"):
        PPOConfig(value_lambda=1.5).validate()
