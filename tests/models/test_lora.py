"""Low-rank adapters: what they compute, merging, and what they leave alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.models.lora import LoRAConfig, combine, init_lora, linear_maps, merge
from rljax.models.trainable import make_trainable
from rljax.models.transformer import make_model
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.sampler import make_sampler
from rljax.types import Prompts
from tests.conftest import noisy_params, quick_jit, tiny_config

EVERY = LoRAConfig(rank=3, alpha=6.0, targets="attention|mlp")
CHOICES = {
    "full": {},
    "lora": {"lora_config": EVERY},
    "layers": {"train_layers": 1},
}


def noisy(tree, seed=0):
    leaves, kind = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(kind, drawn)


@pytest.fixture(scope="module")
def world(tiny):
    model, params = tiny
    return model, params, quick_jit(model.apply)


@pytest.fixture(scope="module")
def adapted(world):
    model, params, _ = world
    adapters = noisy(init_lora(jax.random.key(0), params, EVERY))
    return combine(params, adapters, EVERY.scale)


TOKENS = jnp.arange(18).reshape(2, 9) % 61
MASK = jnp.arange(9)[None] >= jnp.array([0, 3])[:, None]


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOICES)
def test_nothing_changes_at_the_start_and_merged_equals_combined(world, choice):
    _, params, apply = world
    trainable = make_trainable(**CHOICES[choice])
    policy, base = trainable.split(params, jax.random.key(0))
    for a, b in zip(jax.tree.leaves(base), jax.tree.leaves(params), strict=True):
        assert a is b  # no second copy
    before = apply(params, TOKENS, MASK)
    np.testing.assert_allclose(apply(trainable.compose(base, policy), TOKENS, MASK), before, atol=0)
    moved = noisy(policy)
    after = apply(trainable.compose(base, moved), TOKENS, MASK)
    assert np.abs(after - before)[np.asarray(MASK)].max() > 0.05
    plain = trainable.merge(base, moved)
    assert jax.tree.structure(plain) == jax.tree.structure(params)
    merged = apply(plain, TOKENS, MASK)
    np.testing.assert_allclose(merged[MASK], after[MASK], atol=2e-5)


def test_gradients_reach_the_trained_part_only(world):
    model, params, _ = world
    for choice in ("lora", "layers"):
        trainable = make_trainable(**CHOICES[choice])
        policy, base = trainable.split(params, jax.random.key(0))

        def loss(policy, base, trainable=trainable):
            logits = model.apply(trainable.compose(base, policy), TOKENS, MASK)
            return jnp.sum(jnp.square(jnp.where(MASK[..., None], logits, 0)))

        grads = quick_jit(jax.grad(loss))(noisy(policy), base)
        assert jax.tree.structure(grads) == jax.tree.structure(policy)
        assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads))
    total = len(params["layers"])
    assert set(policy["layers"]) == {str(total - 1)} and set(policy) == {"layers", "final_norm"}


def test_an_adapter_is_b_a_x_times_alpha_over_rank(world):
    _, params, apply = world
    config = LoRAConfig(rank=2, alpha=5.0, targets=r"layers/1/mlp/down")
    adapters = noisy(init_lora(jax.random.key(1), params, config))
    (made,) = [adapters["layers"]["1"]["mlp"]["down"]]
    assert made["a"].shape == (2, 64) and made["b"].shape == (32, 2)
    assert set(adapters["layers"]) == {"1"} and set(adapters["layers"]["1"]) == {"mlp"}
    changed = jax.tree.map(lambda x: x, params)
    kernel = changed["layers"]["1"]["mlp"]["down"]["kernel"]
    changed["layers"]["1"]["mlp"]["down"]["kernel"] = kernel + 2.5 * made["b"] @ made["a"]
    expected = apply(changed, TOKENS, MASK)
    found = apply(combine(params, adapters, config.scale), TOKENS, MASK)
    np.testing.assert_allclose(found[MASK], expected[MASK], atol=2e-5)


def test_start_depends_on_key_and_path_alone(world):
    _, params, _ = world
    some = init_lora(jax.random.key(0), params, LoRAConfig(rank=3, targets="1/mlp/up"))
    every = init_lora(jax.random.key(0), params, EVERY)
    other = init_lora(jax.random.key(1), params, EVERY)
    up = every["layers"]["1"]["mlp"]["up"]
    np.testing.assert_array_equal(some["layers"]["1"]["mlp"]["up"]["a"], up["a"])
    assert np.abs(up["a"] - other["layers"]["1"]["mlp"]["up"]["a"]).max() > 0.1
    assert np.abs(up["a"] - every["layers"]["0"]["mlp"]["up"]["a"]).max() > 0.1
    assert np.abs(up["a"]).max() <= 32**-0.5 and not np.any(up["b"])
    assert len(list(linear_maps(params))) == 2 * 7


def sample(model, params):
    tokens = jax.random.randint(jax.random.key(0), (4, 5), 4, 61)
    prompts = Prompts(tokens, tokens > 0, jnp.arange(4), jnp.zeros(4, jnp.int32))
    sampler = make_sampler(model, SamplingConfig(max_new_tokens=5), [3], 3)
    return quick_jit(sampler)(params, None, prompts, jax.random.key(1))


@pytest.mark.slow
def test_decoding_merges_and_looping_over_layers_is_the_same(world, adapted):
    model, params, apply = world
    looped = make_model(model.config, scan_layers=True)
    prepared = looped.prepare(adapted)
    assert looped.prepare(prepared) is not None
    stacked = prepared["stacked_layers"][0]["attention"]["query"]
    assert set(stacked) == {"kernel"} and stacked["kernel"].shape[0] == 2
    found = quick_jit(looped.apply)(adapted, TOKENS, MASK)
    np.testing.assert_allclose(found[MASK], apply(adapted, TOKENS, MASK)[MASK], atol=2e-5)
    plain, made, again = (
        sample(model, merge(adapted)), sample(model, adapted), sample(looped, adapted)
    )  # fmt: skip
    for other in (made, again):
        np.testing.assert_array_equal(plain.tokens, other.tokens)
        np.testing.assert_allclose(plain.log_probs, other.log_probs, atol=1e-5)


def test_decode_without_preparing_adds_the_adapters_too(world, adapted):
    model, _, _ = world
    slots, last = TOKENS.shape[1], TOKENS.shape[1] - 1

    def step(params):
        _, cache = model.prefill(params, TOKENS[:, :last], MASK[:, :last], slots)
        position = MASK.sum(1) - 1
        return model.decode(params, TOKENS[:, last], position, last, MASK, cache)[0].T

    whole = quick_jit(model.hidden)(adapted, TOKENS, MASK)[:, -1]
    np.testing.assert_allclose(quick_jit(step)(adapted), whole, atol=2e-5)


def test_merging_stacks_is_stacking_the_merged(world, adapted):
    model = make_model(world[0].config, scan_layers=True)
    stack = jax.tree.map(lambda *x: jnp.stack(x), *adapted["layers"].values())
    merged = merge({"stacked_layers": (stack,)})["stacked_layers"][0]
    expected = model.prepare(merge(adapted))["stacked_layers"][0]
    for a, b in zip(jax.tree.leaves(merged), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_half_precision_models_keep_their_dtype():
    model = make_model(tiny_config(num_layers=1))
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), noisy_params(model))
    adapters = noisy(init_lora(jax.random.key(0), params, EVERY))
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(adapters))
    combined = combine(params, adapters, 1.0)
    kinds = {x.dtype for x in jax.tree.leaves(merge(combined))}
    assert kinds == {jnp.dtype(jnp.bfloat16)}
    assert jax.eval_shape(model.hidden, combined, TOKENS).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    "fields, word",
    [
        ({"rank": -1}, "lora.rank"),
        ({"alpha": 3.0}, "lora.alpha"),
        ({"targets": "mlp"}, "lora.targets"),
        ({"rank": 2, "alpha": 0.0}, "lora.alpha"),
        ({"rank": 2, "targets": "("}, "no regular expression"),
        ({"rank": 2, "targets": "atention"}, r"matches no linear map.*layers/N/attention/query"),
        ({"rank": 40}, "rank of layers/0/attention/query, which is 32 x 32"),
        ({}, "lora.rank is 0"),
    ],
)
def test_what_cannot_be_is_refused(world, fields, word):
    with pytest.raises(ValueError, match=word):
        init_lora(jax.random.key(0), world[1], LoRAConfig(**fields))


def test_choices_that_exclude_each_other(world):
    with pytest.raises(ValueError, match=r"train_layers 2 and lora.rank"):
        make_trainable(EVERY, train_layers=2)
    with pytest.raises(ValueError, match="train_layers is -1"):
        make_trainable(train_layers=-1)
    with pytest.raises(ValueError, match="train_layers is 3, but the model has 2"):
        make_trainable(train_layers=3).split(world[1], jax.random.key(0))
    some = init_lora(jax.random.key(0), world[1], LoRAConfig(rank=2, targets="layers/1"))
    looped = make_model(world[0].config, scan_layers=True)
    with pytest.raises(ValueError, match="scan_layers needs"):
        looped.hidden(combine(world[1], some, 1.0), TOKENS)
