"""Sampling in 8 bits: near the model, the same with and without slots, smaller; never on the quiet.

The exact sampler is held to the learner's log-probs elsewhere; here its text does not move.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms.grpo import GRPOConfig
from rljax.algorithms.ppo import PPOConfig
from rljax.experiment import GRPOExperiment, OnlineDPOExperiment, PPOExperiment
from rljax.models import int8
from rljax.models.layer_cache import LayerCache, append, read_keys, read_values, rounded_cache
from rljax.models.transformer import make_model
from rljax.rollout.agreement import COARSE_KL, Disagreement, check_coarse, coarse_kl
from rljax.rollout.continuous import make_continuous_sampler
from rljax.rollout.distribution import ActionMask, SamplingConfig
from rljax.rollout.sampler import make_sampler
from rljax.rollout.scoring import make_score
from rljax.types import Completions, Prompts
from tests.conftest import noisy_params, quick_jit
from tests.rollout.test_continuous import CONFIGS

EOS, PAD = (3, 30), 3
KEY = jax.random.key(42)
SAMPLING = SamplingConfig(max_new_tokens=10, temperature=1.0)
slow = pytest.mark.slow


@functools.lru_cache
def policy(name, **options):
    model = make_model(CONFIGS[name], **options)
    return model, noisy_params(model)


@functools.lru_cache
def prompts(group=1) -> Prompts:
    rows, samples = jnp.arange(8) // group, jnp.arange(8) % group
    tokens = jax.random.randint(jax.random.key(5), (8, 6), 0, 61)
    mask = jnp.arange(6) >= (jnp.arange(8) % 5)[:, None]
    return Prompts(tokens[rows], mask[rows], rows, samples)


def coarse(**changes) -> SamplingConfig:
    return dataclasses.replace(SAMPLING, **changes)


BOTH = coarse(weights="int8", cache="int8")


@functools.lru_cache
def sampled(name, sampling, group=1, **options):
    model, params = policy(name, **options)
    sample = quick_jit(make_continuous_sampler(model, sampling, EOS, PAD, group=group))
    return sample(params, None, prompts(group), KEY)


@functools.lru_cache
def learner(name):
    return quick_jit(make_score(policy(name)[0], SAMPLING, EOS))


def kl(name, made, group=1):
    scored = learner(name)(policy(name)[1], prompts(group), made).log_probs
    return coarse_kl(made, scored)


# ---------------------------------------------------------------------------------- Arithmetic


def test_rounding_is_to_the_nearest_of_255_and_keeps_zeros():
    x = jnp.array([[0.0, -2.54, 1.27, 0.011], [0.0, 0.0, 0.0, 0.0]])
    made = int8.round_over(x, 1)
    np.testing.assert_array_equal(made.values, [[0, -127, 64, 1], [0, 0, 0, 0]])
    np.testing.assert_allclose(made.scale[:, 0], [0.02, 0.0], rtol=1e-6)
    parts, scale = int8.split_over(x, 1)
    whole = (parts[0] + parts[1] / int8.STEP) * scale
    np.testing.assert_allclose(whole, x, atol=0.02 / 127 / 2)


@pytest.mark.parametrize("columns", [1, 5])
def test_a_product_in_8_bits_is_that_of_the_rounded_factors(columns):
    kernel, x = (
        jax.random.normal(key, shape)
        for key, shape in zip(jax.random.split(KEY), ((7, 16), (16, columns)), strict=True)
    )

    def products(kernel, x):
        left, right = int8.round_over(kernel, 1), int8.round_over(x, 0)
        scale = left.scale[:, 0]
        return (
            (left.values * left.scale) @ (right.values * right.scale),
            int8.linear(left.values, scale, x, columns=True),
            int8.linear(left.values, scale, x.T, columns=False).T,
        )

    expected, *found = quick_jit(products)(kernel, x)
    for made in found:
        np.testing.assert_allclose(made, expected, rtol=1e-5, atol=1e-5)
    assert 1e-4 < np.max(np.abs(expected - kernel @ x)) < 0.2


@pytest.mark.slow
def test_a_rounded_cache_is_read_as_its_numbers_say():
    """Also where a softmax gives one key nearly all of the weight."""
    keys, values, query, new = (
        jax.random.normal(key, shape)
        for key, shape in zip(
            jax.random.split(KEY, 4),
            ((2, 3, 8, 20), (2, 3, 20, 8), (2, 3, 2, 8), (2, 3, 8)),
            strict=True,
        )
    )

    def read(cache, query):
        scores = read_keys(query, cache)
        weights = jax.nn.softmax(read_keys(query, cache).at[..., 0].add(9.0))
        shared = jnp.stack([query, query + 1], axis=1)  # two sequences read one prompt
        return scores, read_values(weights, cache), read_keys(shared, cache)[:, 0]

    def everything(keys, values, query, new):
        cache = append(rounded_cache(LayerCache(keys, values)), new, 2 * new, jnp.int32(4))
        plain = LayerCache(cache.keys * cache.key_scales, cache.values * cache.value_scales)
        return cache, plain, read(cache, query), read(plain, query)

    cache, plain, made, expected = quick_jit(everything)(keys, values, query, new)
    assert cache.keys.dtype == cache.values.dtype == jnp.int8
    np.testing.assert_allclose(plain.keys[..., 4], new, atol=0.02)
    np.testing.assert_allclose(plain.values[:, :, 4], 2 * new, atol=0.04)
    for one, other in zip(made, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)
    np.testing.assert_allclose(made[2], made[0], atol=1e-6)


# ------------------------------------------------------------------------------------- Sampler


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("llama", {"weights": "int8", "cache": "int8"}),
        pytest.param("llama", {"weights": "int8"}, marks=slow),
        pytest.param("llama", {"cache": "int8"}, marks=slow),
        pytest.param("gpt2", {"weights": "int8", "cache": "int8"}, marks=slow),
        ("gemma", {"weights": "int8", "cache": "int8"}),
    ],
)
def test_the_sampler_is_near_the_learner_and_not_the_learner(name, changes):
    made = sampled(name, coarse(**changes))
    assert 1e-8 < kl(name, made) < 2e-3
    gap = learner(name)(policy(name)[1], prompts(), made).log_probs - made.log_probs
    assert 1e-4 < np.max(np.abs(gap)) < 0.3
    check_coarse(kl(name, made))


@slow
@pytest.mark.parametrize("name", CONFIGS)
def test_slots_write_what_the_plain_sampler_writes(name):
    plain = sampled(name, BOTH)
    queued = sampled(name, dataclasses.replace(BOTH, slots=3))
    np.testing.assert_array_equal(queued.tokens, plain.tokens)
    np.testing.assert_allclose(queued.log_probs, plain.log_probs, atol=1e-4)


@slow
@pytest.mark.parametrize("options", [{}, {"scan_layers": True}])
def test_groups_share_a_rounded_prompt(options):
    """Both parts of a softmax are rounded by themselves: a token may fall to the other side."""
    model, params = policy("llama", **options)
    alone = quick_jit(make_sampler(model, BOTH, EOS, PAD))(params, None, prompts(4), KEY)
    shared = sampled("llama", BOTH, 4, **options)
    alike = np.cumprod(alone.tokens == shared.tokens, axis=1).astype(bool)
    assert np.mean(alike) > 0.9
    np.testing.assert_allclose(shared.log_probs[alike], alone.log_probs[alike], atol=0.02)


def test_the_cache_is_smaller_and_the_matrices_too():
    """Of the shapes alone: nothing is compiled."""
    model = make_model(dataclasses.replace(CONFIGS["llama"], head_dim=64))
    params = jax.eval_shape(model.init, KEY)

    def size(tree) -> int:
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

    def cache(rounded):
        tokens, mask = prompts().tokens, prompts().mask
        call = functools.partial(model.prefill, rounded=rounded)
        return jax.eval_shape(lambda p: call(p, tokens, mask, 20, 1)[1], params)

    assert size(cache(False)) / size(cache(True)) == pytest.approx(4 * 64 / 68)
    layers = jax.eval_shape(int8.round_params, params)["layers"]
    assert 3.5 < size(params["layers"]) / size(layers) < 4


# ---------------------------------------------------------------------------- What is refused


def test_combinations_that_would_be_wrong_are_refused():
    weighted = PPOConfig(importance_cap=2.0)
    PPOExperiment(sampling=BOTH, ppo=weighted).validate()
    OnlineDPOExperiment(sampling=BOTH).validate()
    with pytest.raises(ValueError, match="weights int8.*cache model.*set importance_cap"):
        PPOExperiment(sampling=coarse(weights="int8")).validate()
    with pytest.raises(ValueError, match="weights model.*cache int8.*set importance_cap"):
        GRPOExperiment(sampling=coarse(cache="int8"), grpo=GRPOConfig()).validate()
    masked = dataclasses.replace(weighted, mask_top_p=0.9)
    with pytest.raises(ValueError, match="do not go with mask_top_p"):
        PPOExperiment(sampling=BOTH, ppo=masked).validate()
    with pytest.raises(ValueError, match="with an action mask"):
        make_continuous_sampler(policy("llama")[0], BOTH, EOS, PAD, ActionMask(0.9, 2))
    for name in ("weights", "cache"):
        with pytest.raises(ValueError, match=f"sampling.{name} is int4; it must be one of"):
            coarse(**{name: "int4"}).validate()


def test_a_sampler_that_is_far_away_stops_the_run():
    ones = jnp.ones((1, 2))
    made = Completions(ones, jnp.array([[True, False]]), -ones, ones)
    assert coarse_kl(made, -ones) == 0
    assert coarse_kl(made, jnp.array([[-1.5, 7.0]])) == pytest.approx(np.exp(-0.5) - 0.5)
    check_coarse(COARSE_KL)
    for kl in (2 * COARSE_KL, float("nan")):
        with pytest.raises(Disagreement, match=r"--sampling.weights and --sampling.cache to model"):
            check_coarse(kl)
