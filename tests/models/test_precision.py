"""bfloat16 products from float32 parameters: what is rounded, and what is not."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.models.precision import cast_matrices, masters, product
from rljax.models.transformer import make_model
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.sampler import make_sampler
from rljax.rollout.scoring import make_score
from rljax.types import Completions, Prompts
from tests.conftest import noisy_params, quick_jit, tiny_config
from tests.jaxprs import equations

CONFIG = tiny_config(qk_norm=True)
SAMPLING = SamplingConfig(max_new_tokens=5, temperature=1.0)


@functools.lru_cache
def params():
    with jax.ensure_compile_time_eval():  # kept, and first asked for while something is traced
        return noisy_params(make_model(CONFIG))


def text() -> tuple[Prompts, Completions]:
    prompts, written = (
        jax.random.randint(jax.random.key(i), (4, length), 0, 61) for i, length in ((0, 7), (1, 5))
    )
    mask = jnp.arange(7)[None] >= jnp.array([0, 0, 3, 3])[:, None]
    zeros = jnp.zeros(written.shape)
    made = Completions(written, jnp.ones(written.shape, bool), zeros, zeros)
    return Prompts(prompts, mask, jnp.arange(4), jnp.zeros(4, jnp.int32)), made


def loss(dtype: str, group: int = 1):
    score, (prompts, made) = make_score(make_model(CONFIG, dtype), SAMPLING, (3,), rows=8), text()

    def mean(params):
        scored = score(params, prompts, made, group=group)
        return -jnp.mean(scored.log_probs), scored.log_probs

    return mean


@functools.lru_cache
def log_probs_and_gradient(dtype: str):
    (_, log_probs), grads = quick_jit(jax.value_and_grad(loss(dtype), has_aux=True))(params())
    return log_probs, jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(grads)])


@pytest.mark.slow
def test_log_probs_and_gradients_are_near_those_of_float32():
    full, half = log_probs_and_gradient("float32"), log_probs_and_gradient("bfloat16")
    gaps = np.abs(full[0] - half[0])
    assert half[0].dtype == half[1].dtype == jnp.float32
    assert 1e-4 < np.mean(gaps) < 0.05 and np.max(gaps) < 0.3  # rounded, and not by much
    cosine = jnp.vdot(full[1], half[1]) / jnp.linalg.norm(full[1]) / jnp.linalg.norm(half[1])
    assert cosine > 0.995
    assert jnp.linalg.norm(half[1]) == pytest.approx(float(jnp.linalg.norm(full[1])), rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("group", [1, 2])
def test_all_products_read_bfloat16_and_scores_and_logits_are_summed_in_float32(group):
    traced = jax.make_jaxpr(jax.grad(lambda p: loss("bfloat16", group)(p)[0]))(params())
    products = [e for e in equations(traced.jaxpr) if e.primitive.name == "dot_general"]
    assert len(products) > 40
    for equation in products:
        assert {x.aval.dtype.name for x in equation.invars} == {"bfloat16"}, equation
    wide = [e for e in products if e.outvars[0].aval.dtype == jnp.float32]
    heads = [e for e in wide if e.outvars[0].aval.shape[-1] == CONFIG.vocab_size]
    assert heads and len(wide) > len(heads)  # logits, and attention scores
    for equation in equations(traced.jaxpr):
        if equation.primitive.name in ("exp", "log", "rsqrt", "reduce_sum"):
            assert "bfloat16" not in {x.aval.dtype.name for x in equation.invars}, equation


@pytest.mark.parametrize("scan_layers", [False, True])
def test_the_sampler_casts_matrices_before_its_loop(scan_layers):
    config = dataclasses.replace(CONFIG, num_layers=3)
    model = make_model(config, "bfloat16", scan_layers=scan_layers)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    sample = make_sampler(model, SAMPLING, (3,), 0)
    traced = jax.make_jaxpr(sample)(shapes, None, text()[0], jax.random.key(0))
    loops = [e for e in equations(traced.jaxpr) if e.primitive.name == "while"]
    loop = max(loops, key=lambda e: len(e.params["body_jaxpr"].jaxpr.eqns))
    casts = [
        e.invars[0].aval.shape
        for e in equations(loop.params["body_jaxpr"].jaxpr)
        if e.primitive.name == "convert_element_type"
        and (e.invars[0].aval.dtype, e.outvars[0].aval.dtype) == (jnp.float32, jnp.bfloat16)
    ]
    assert casts  # activations after norms and softmax
    matrices = {leaf.shape for leaf in jax.tree.leaves(shapes) if leaf.ndim > 1}
    assert not matrices & set(casts)


@pytest.mark.slow
def test_what_is_held_in_bfloat16_computes_the_same_bit_for_bit():
    model = make_model(CONFIG, "bfloat16")
    held = cast_matrices(params(), "bfloat16")
    kinds = {leaf.dtype.name for leaf in jax.tree.leaves(held)}
    assert kinds == {"bfloat16", "float32"}  # the latter: norms
    apply = quick_jit(model.apply)
    tokens = text()[0].tokens
    np.testing.assert_array_equal(apply(params(), tokens), apply(held, tokens))
    stacked = make_model(CONFIG, "bfloat16", scan_layers=True).prepare(params())
    again = cast_matrices(stacked, "bfloat16")
    assert jax.tree.all(jax.tree.map(lambda a, b: a.dtype == b.dtype, stacked, again))
    assert cast_matrices(params(), None) is params()


def test_masters_are_float32_copies():
    made = masters({"a": jnp.ones(3, jnp.bfloat16), "b": (kept := jnp.ones(3))})
    assert made["a"].dtype == made["b"].dtype == jnp.float32
    assert made["b"].unsafe_buffer_pointer() != kept.unsafe_buffer_pointer()


def test_a_product_of_bfloat16_is_summed_in_float32():
    ones = jnp.ones((1, 1024), jnp.bfloat16)
    small = jnp.full((1, 1024), 1 + 2**-7, jnp.bfloat16)
    assert product("ab,cb->ac", ones, small).item() == 1024 + 8  # 1032 is no bfloat16 number
    assert product("ab,cb->ac", ones.astype("float32"), small.astype("float32")).item() == 1032
