"""Continuous batching writes what the plain sampler writes, whatever the slots and the lengths."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms.actor_critic import make_act
from rljax.algorithms.distillation import DistillConfig
from rljax.algorithms.ppo import PPOConfig
from rljax.experiment import DistillExperiment, PPOExperiment
from rljax.models.cache import empty_cache, replace_prompts, take_rows
from rljax.models.config import gpt2_config
from rljax.models.lora import LoRAConfig, combine, init_lora
from rljax.models.transformer import make_model
from rljax.rollout.continuous import make_continuous_sampler
from rljax.rollout.distribution import ActionMask, SamplingConfig
from rljax.types import Prompts
from tests.conftest import noisy_params, quick_jit, tiny_config

EOS, PAD = tuple(range(3, 61, 6)), 3  # about every sixth token ends a completion
KEY = jax.random.key(42)
SAMPLING = SamplingConfig(max_new_tokens=12, temperature=1.0)
ROWS, WIDTH = 11, 6
CONFIGS = {
    "llama": tiny_config(),
    "gpt2": gpt2_config(
        vocab_size=61, hidden_size=32, num_layers=2, num_heads=4, context_length=64
    ),
    "gemma": tiny_config(
        sliding_window=4, layer_windows=(True, False), local_rope_theta=1000.0, qk_norm=True,
        post_norms=True, attention_softcap=20.0, logits_softcap=30.0, embedding_scale=5.6,
    ),
}  # fmt: skip


@functools.lru_cache
def policy(name, **options):
    model = make_model(CONFIGS[name], **options)
    return model, noisy_params(model)


@functools.lru_cache
def sampler(model, sampling, mask=None, **options):
    return quick_jit(make_continuous_sampler(model, sampling, EOS, PAD, mask, **options))


@functools.lru_cache
def prompts(group=1, number=ROWS) -> Prompts:
    rows, samples = jnp.arange(number) // group, jnp.arange(number) % group
    tokens = jax.random.randint(jax.random.key(5), (number, WIDTH), 0, 61)
    mask = jnp.arange(WIDTH) >= (jnp.arange(number) % 5)[:, None]
    return Prompts(tokens[rows], mask[rows], rows, samples)


def slots(number, **changes) -> SamplingConfig:
    return dataclasses.replace(SAMPLING, slots=number, **changes)


def same(made, plain):
    """The tokens to the bit; what is computed of them to rounding."""
    np.testing.assert_array_equal(made.tokens, plain.tokens)
    np.testing.assert_array_equal(made.mask, plain.mask)
    np.testing.assert_allclose(made.log_probs, plain.log_probs, atol=1e-5)
    np.testing.assert_allclose(made.values, plain.values, atol=1e-5)


def varied(plain):
    """Completions end early, late and not at all: slots are refilled at many places."""
    lengths = np.asarray(plain.mask).sum(axis=1)
    assert lengths.min() < 3 and lengths.max() > 8 and len(set(lengths)) > 4


@pytest.mark.parametrize(
    ("family", "number"),
    [
        ("llama", 3),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("llama", 1), ("llama", ROWS - 1), ("gpt2", 8), ("gemma", 5))
        ),
    ],
)
def test_slots_write_what_the_batch_writes(family, number):
    model, params = policy(family)
    plain = sampler(model, SAMPLING)(params, None, prompts(), KEY)
    varied(plain)
    same(sampler(model, slots(number))(params, None, prompts(), KEY), plain)


def test_the_order_of_the_prompts_and_other_noise():
    model, params = policy("llama")
    sample = sampler(model, slots(3))
    made = sample(params, None, prompts(), KEY)
    order = np.random.default_rng(0).permutation(ROWS)
    turned = sample(params, None, Prompts(*(x[order] for x in prompts())), KEY)
    same(turned, jax.tree.map(lambda x: x[order], made))
    other = sample(params, None, prompts(), jax.random.fold_in(KEY, 1))
    assert not np.array_equal(other.tokens, made.tokens)
    alike = prompts()._replace(tokens=jnp.roll(prompts().tokens, 1, axis=0))
    assert not np.array_equal(sample(params, None, alike, KEY).tokens, made.tokens)


def test_no_fewer_slots_than_prompts_is_the_plain_sampler():
    model, params = policy("llama")
    plain = sampler(model, SAMPLING)(params, None, prompts(), KEY)
    made = sampler(model, slots(ROWS))(params, None, prompts(), KEY)
    jax.tree.map(np.testing.assert_array_equal, made, plain)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"top_k": 9, "top_p": 0.7, "temperature": 0.6, "min_new_tokens": 5},
        {"temperature": 0.0},
        {"min_new_tokens": 12},
        {"max_new_tokens": 1},
    ],
    ids=str,
)
def test_every_way_to_sample(changes):
    model, params = policy("llama")
    plain = sampler(model, slots(None, **changes))(params, None, prompts(), KEY)
    same(sampler(model, slots(4, **changes))(params, None, prompts(), KEY), plain)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "group"), [(1, 1), (2, 4), (5, 4)])
def test_refills_of_any_size_and_groups_that_share_a_prompt(size, group):
    model, params = policy("llama")
    rows = prompts(group, 12)
    plain = sampler(model, SAMPLING)(params, None, rows, KEY)
    refilled = sampler(model, slots(5), group=group, refill_size=size)
    same(refilled(params, None, rows, KEY), plain)
    part, made = jax.tree.map(lambda x: x[1:], (rows, plain))  # begins within a group
    same(refilled(params, None, part, KEY), made)
    with pytest.raises(ValueError, match="refill_size is 6"):
        sampler(model, slots(5), refill_size=6)


@pytest.mark.slow
def test_values_adapters_and_looped_layers():
    model, params = policy("llama")
    adapters = init_lora(KEY, params, LoRAConfig(rank=2))
    adapters = jax.tree.map(lambda x: x + 0.1, adapters)
    adapted = combine(params, adapters, 0.5)
    head = {"kernel": jax.random.normal(KEY, (1, 32)), "bias": jnp.array([0.3])}
    plain = sampler(model, SAMPLING)(adapted, head, prompts(), KEY)
    assert not np.array_equal(
        plain.tokens, sampler(model, SAMPLING)(params, None, prompts(), KEY)[0]
    )
    assert np.abs(plain.values).max() > 0.5
    looped = policy("llama", scan_layers=True)[0]
    same(sampler(looped, slots(4))(adapted, head, prompts(), KEY), plain)


@pytest.mark.slow
def test_a_masking_policy_decodes_in_step():
    model, params = policy("llama")
    masking, mask = noisy_params(model, seed=7), ActionMask(top_p=0.5, min_tokens=4)
    asked = (params, None, prompts(), KEY, masking)
    plain, made = sampler(model, SAMPLING, mask)(*asked), sampler(model, slots(4), mask)(*asked)
    same(made, plain)
    np.testing.assert_array_equal(made.allowed, plain.allowed)
    with pytest.raises(ValueError, match="mask_params are missing"):
        sampler(model, slots(4), mask)(*asked[:-1])


@pytest.mark.slow
def test_a_cache_in_bfloat16():
    model, params = policy("llama")
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    plain = sampler(model, SAMPLING)(params, None, prompts(), KEY)
    made = sampler(model, slots(4))(params, None, prompts(), KEY)
    agree = np.all(np.asarray(made.tokens) == np.asarray(plain.tokens), axis=1)
    assert agree.mean() > 0.8  # the last bits are coarse: a close call may go the other way
    gaps = np.abs(made.log_probs - plain.log_probs)[agree]
    assert gaps.max() < 0.1 and made.log_probs.dtype == jnp.float32


def test_acting_goes_through_the_slots():
    model, params = policy("llama")

    def loops(number):
        act = make_act(model, slots(number), EOS, PAD)
        return str(jax.make_jaxpr(act)({"policy": params}, prompts(), KEY)).count("while[")

    assert loops(None) == loops(ROWS) < loops(2) < loops(4)  # two slots leave none to drain


@pytest.mark.parametrize(
    "experiment",
    [
        PPOExperiment(sampling=slots(8), ppo=PPOConfig(batch_size=8)),
        DistillExperiment(
            sampling=slots(8), distill=DistillConfig(batch_size=8, on_policy_fraction=0.5)
        ),
    ],
)
def test_slots_for_a_whole_batch_are_refused(experiment):
    with pytest.raises(ValueError, match="slots is 8, but a batch has only 8 completions"):
        experiment.validate()
    dataclasses.replace(experiment, sampling=slots(7)).validate()


def test_what_cannot_be_is_refused():
    model, params = policy("llama")
    with pytest.raises(ValueError, match="slots is 0"):
        make_continuous_sampler(model, slots(0), EOS, PAD)
    long = slots(3, max_new_tokens=60)
    with pytest.raises(ValueError, match="exceed the model's context of 64"):
        make_continuous_sampler(model, long, EOS, PAD)(params, None, prompts(), KEY)


def test_rows_of_a_cache_are_replaced_and_taken():
    old = {"keys": jnp.zeros((2, 3, 1, 2, 5)), "values": jnp.zeros((2, 3, 1, 5, 2))}
    new = {"keys": jnp.ones((2, 2, 1, 2, 3)), "values": jnp.ones((2, 2, 1, 3, 2))}
    made = replace_prompts(old, new, jnp.array([1, 7]))  # the second is dropped
    assert float(made["keys"].sum()) == float(made["values"].sum()) == 2 * 2 * 3
    assert np.all(made["keys"][:, 1, :, :, :3] == 1) and np.all(made["values"][:, 1, :, :3] == 1)
    assert take_rows(made, jnp.array([1]))["keys"].sum() == 12
    assert empty_cache(new, 7)["values"].shape == (2, 7, 1, 3, 2)
