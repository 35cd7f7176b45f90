"""Schedules and uniform tokens: their numbers, and one distribution for sampler and scorer."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.environments.tabular import World
from rljax.rollout.continuous import make_continuous_sampler
from rljax.rollout.distribution import (
    NEGATIVE,
    ActionMask,
    SamplingConfig,
    distribution_logits,
    mix_uniformly,
)
from rljax.rollout.exploration import ExplorationConfig
from rljax.rollout.sampler import make_sampler
from rljax.rollout.scoring import make_score
from rljax.types import Prompts
from tests.conftest import quick_jit

WORLD = World(4, 2, eos=3)
SAMPLING = SamplingConfig(max_new_tokens=2, temperature=0.8, top_k=3)
EPSILON, BATCH = 0.3, 6000
PARAMS = {"table": WORLD.reference}


def test_the_mixture_by_hand():
    logits = jnp.log(jnp.array([0.5, 0.25, 0.25, 1.0])).at[3].set(NEGATIVE)
    mixed, log_pi = mix_uniformly(logits, 0.3)
    np.testing.assert_allclose(mixed, [0.45, 0.275, 0.275, 0], rtol=1e-6)
    np.testing.assert_allclose(log_pi[:3], jnp.log(jnp.array([0.5, 0.25, 0.25])), rtol=1e-6)


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize(
    "sampling",
    [
        SamplingConfig(temperature=50.0, top_p=0.6),
        SamplingConfig(temperature=0.5, top_k=5, min_p=0.01),
        SamplingConfig(temperature=1.0),
    ],
    ids=str,
)
def test_the_mixture_sums_to_one_on_what_the_policy_allows(sampling, axis):
    rows = 2 * jax.random.normal(jax.random.key(0), (6, 31))
    forbidden = jnp.arange(31) == 4
    given, out = (rows, forbidden) if axis == -1 else (rows.T, forbidden[:, None])
    logits = distribution_logits(given, sampling, forbidden=out, axis=axis)
    mixed, log_pi = mix_uniformly(logits, 0.2, axis)
    pi = jax.nn.softmax(logits, axis=axis)
    np.testing.assert_allclose(jnp.sum(mixed, axis=axis), 1, rtol=1e-5)
    np.testing.assert_array_equal(mixed > 0, pi > 0)
    assert np.all(pi <= mixed / 0.8 + 1e-7)
    np.testing.assert_allclose(jnp.exp(log_pi), pi, atol=1e-6)
    assert not np.any(np.moveaxis(np.asarray(mixed), axis, -1)[..., 4])


@pytest.fixture(scope="module")
def sampled():
    prompts = WORLD.prompts(jnp.zeros(BATCH, jnp.int32), jnp.arange(BATCH))
    sample = make_sampler(WORLD.model, SAMPLING, WORLD.eos_ids, 3, epsilon=EPSILON)
    made = quick_jit(sample)(PARAMS, None, prompts, jax.random.key(1))
    score = quick_jit(make_score(WORLD.model, SAMPLING, WORLD.eos_ids))
    return prompts, made, score(PARAMS, prompts, made).log_probs


def test_completions_are_as_frequent_as_the_mixture_says(sampled):
    _, made, _ = sampled
    mixed, _ = mix_uniformly(distribution_logits(WORLD.reference, SAMPLING), EPSILON)
    likely = np.exp(np.sum(WORLD.tree.token_log_probs(mixed), axis=1))
    likely = np.where(np.all(np.asarray(WORLD.tree.token_log_probs(mixed)) > -1e9, 1), likely, 0)
    assert likely.sum() == pytest.approx(1, abs=1e-5)
    counts = np.bincount(WORLD.tree.index(made.tokens, made.mask), minlength=len(likely)) / BATCH
    assert np.all(np.abs(counts - likely) <= 4.5 * np.sqrt(likely * (1 - likely) / BATCH) + 1e-6)


def test_the_learner_agrees_with_both_log_probs(sampled):
    """Its own is the policy's to rounding; the old one is the mixture's, token by token."""
    _, made, scored = sampled
    np.testing.assert_allclose(made.policy_log_probs, scored, atol=1e-5)
    np.testing.assert_array_equal(made.own_log_probs, made.policy_log_probs)
    mixed, _ = mix_uniformly(distribution_logits(WORLD.reference, SAMPLING), EPSILON)
    expected = jnp.log(mixed[WORLD.tree.prefixes(made.tokens), made.tokens])
    np.testing.assert_allclose(made.log_probs, jnp.where(made.mask, expected, 0), atol=1e-5)
    assert np.max(np.abs(made.log_probs - made.policy_log_probs)) > 0.3


def test_without_epsilon_nothing_is_recorded_and_nothing_changes(sampled):
    prompts, _, _ = sampled
    plain = quick_jit(make_sampler(WORLD.model, SAMPLING, WORLD.eos_ids, 3))
    made = plain(PARAMS, None, prompts, jax.random.key(1))
    assert made.policy_log_probs is None and made.own_log_probs is made.log_probs

    def traced(epsilon, prompts, key):
        sample = make_sampler(WORLD.model, SAMPLING, WORLD.eos_ids, 3, epsilon=epsilon)
        return sample(PARAMS, None, prompts, key)

    zero = quick_jit(traced)(jnp.float32(0), prompts, jax.random.key(1))
    assert np.mean(zero.tokens == made.tokens) > 0.999  # sums are rounded otherwise
    np.testing.assert_allclose(zero.log_probs, zero.policy_log_probs, atol=1e-5)


def test_an_action_mask_bounds_what_is_mixed_in():
    prompts = WORLD.prompts(jnp.zeros(400, jnp.int32), jnp.arange(400))
    plain = SamplingConfig(max_new_tokens=2, temperature=1.0)
    mask = ActionMask(top_p=0.01, min_tokens=2)
    sample = make_sampler(WORLD.model, plain, WORLD.eos_ids, 3, mask, epsilon=0.9)
    made = quick_jit(sample)(PARAMS, None, prompts, jax.random.key(0), PARAMS)
    best = np.argsort(-np.asarray(WORLD.reference[0]))[:2]
    assert set(np.asarray(made.tokens[:, 0]).tolist()) == set(best.tolist())
    mixed = 0.1 * jnp.exp(made.policy_log_probs[:, 0]) + 0.45
    np.testing.assert_allclose(jnp.exp(made.log_probs[:, 0]), mixed, rtol=1e-5)


@pytest.mark.slow
def test_slots_write_the_same_mixture(tiny):
    model, params = tiny
    tokens = jax.random.randint(jax.random.key(0), (12, 4), 0, 61)
    prompts = Prompts(tokens, tokens >= 0, jnp.arange(12), jnp.zeros(12, jnp.int32))
    sampling = SamplingConfig(max_new_tokens=6, temperature=1.0)
    slots = dataclasses.replace(sampling, slots=4)
    made, few = (
        quick_jit(make_continuous_sampler(model, how, (3, 9, 20), 0, epsilon=0.5))(
            params, None, prompts, jax.random.key(1)
        )
        for how in (sampling, slots)
    )
    np.testing.assert_array_equal(made.tokens, few.tokens)
    for name in ("log_probs", "policy_log_probs"):
        found, expected = getattr(few, name), getattr(made, name)
        np.testing.assert_allclose(jnp.where(few.mask, found, 0), expected, atol=1e-4)


# ------------------------------------------------------------------------------------ schedules


def test_the_numbers_of_every_step():
    explore = ExplorationConfig(
        temperature_start=1.5, top_p_start=0.5, epsilon=0.2, epsilon_end=0.0, decay_steps=4
    )
    sampling = SamplingConfig(temperature=0.7, top_p=0.9)
    rows = [explore.numbers(sampling, step, 10) for step in range(10)]
    shares = np.minimum(np.arange(10) / 4, 1)
    for name, start, end in (("temperature", 1.5, 0.7), ("top_p", 0.5, 0.9), ("epsilon", 0.2, 0.0)):
        found = [float(row[name]) for row in rows]
        np.testing.assert_allclose(found, (1 - shares) * start + shares * end, rtol=1e-6)
        assert found[0] == np.float32(start) and found[-1] == np.float32(end)
    whole = ExplorationConfig(temperature_start=1.5)
    assert float(whole.numbers(sampling, 9, 10)["temperature"]) == np.float32(0.7)
    assert float(whole.numbers(sampling, 8, 10)["temperature"]) > 0.75
    made, epsilon = explore.at(sampling, jnp.int32(2), 10)
    assert float(made.temperature) == pytest.approx(1.1) and float(epsilon) == pytest.approx(0.1)
    assert made.max_new_tokens == sampling.max_new_tokens
    same, epsilon = ExplorationConfig(epsilon=0.2).at(sampling, jnp.int32(2), 10)
    assert same is sampling and epsilon == 0.2


@pytest.mark.parametrize("axis", [0, -1])
def test_a_traced_distribution_is_the_static_one(axis):
    rows = 3 * jax.random.normal(jax.random.key(2), (7, 50))
    rows = rows if axis == -1 else rows.T

    @quick_jit
    def traced(temperature, top_p):
        sampling = SamplingConfig(temperature=temperature, top_p=top_p)
        return distribution_logits(rows, sampling, axis=axis)

    for temperature, top_p in ((0.7, 0.8), (1.3, 0.3)):
        sampling = SamplingConfig(temperature=temperature, top_p=top_p)
        static = distribution_logits(rows, sampling, axis=axis)
        np.testing.assert_allclose(traced(temperature, top_p), static, rtol=1e-5)
    assert np.all(traced(1.0, 1.0) > NEGATIVE / 2)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"temperature_start": 0.0}, "exploration.temperature_start is 0.0; it must be above 0"),
        ({"temperature_start": 0.7}, "temperature_start is 0.7; it must be another than sampling"),
        ({"top_p_start": 1.5}, r"top_p_start is 1.5; it must be in \(0, 1\]"),
        ({"top_p_start": 1.0}, "top_p_start is 1.0; it must be another than sampling.top_p"),
        ({"epsilon": 1.0}, r"epsilon is 1.0; it must be in \[0, 1\)"),
        ({"epsilon": 0.1, "epsilon_end": -0.1}, "epsilon_end is -0.1"),
        ({"epsilon": 0.1, "epsilon_end": 0.1}, "epsilon_end is 0.1; it must be another than"),
        ({"epsilon": 0.1, "decay_steps": 3}, "decay_steps is 3; it must be None where nothing"),
        ({"temperature_start": 1.0, "decay_steps": 0}, r"decay_steps is 0; it must be in 1\.\.9"),
        ({"temperature_start": 1.0, "decay_steps": 10}, "for a run of 10 steps"),
    ],
)
def test_what_means_nothing_is_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        ExplorationConfig(**flags).check(SamplingConfig(), 10)


def test_uniform_tokens_need_an_exact_sampler():
    coarse = SamplingConfig(cache="int8")
    with pytest.raises(ValueError, match="epsilon is 0.1; it must be 0 with sampling in 8 bits"):
        ExplorationConfig(epsilon=0.1).check(coarse, 10)
    ExplorationConfig(temperature_start=1.0).check(coarse, 10)
