"""Recomputation: the same gradients, and less memory in the documented order."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.models.architectures import find_architecture
from rljax.models.config import TransformerConfig
from rljax.models.transformer import make_model
from rljax.planning.programs import QUICK
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.scoring import make_score
from rljax.types import Completions, Prompts
from tests.conftest import noisy_params, quick_jit, tiny_config
from tests.jaxprs import equations

CHOICES = ("none", "attention", "products", "layers")


def loss(config: TransformerConfig, remat: str, *, scan: bool, dtype: str, rows: int, group=1):
    """Build (params, prompts, completions) -> mean log-prob, as an update computes it."""
    model = make_model(config, dtype, remat, scan_layers=scan)
    sampling = SamplingConfig(max_new_tokens=4, temperature=1.0)
    score = make_score(model, sampling, (), rows=rows)
    return lambda params, *text: jnp.mean(score(params, *text, group=group).log_probs)


def text(batch: int, prompt: int, new: int, make) -> tuple[Prompts, Completions]:
    asked, written = (make((batch, width), jnp.int32) for width in (prompt, new))
    floats = make((batch, new), jnp.float32)
    real = make((batch, prompt), bool), make((batch, new), bool)
    rows = make((batch,), jnp.int32)
    return Prompts(asked, real[0], rows, rows), Completions(written, real[1], floats, floats)


def made(shape, kind):
    if kind == jnp.int32:
        return jax.random.randint(jax.random.key(len(shape)), shape, 0, 61)
    return jnp.ones(shape, kind)


@functools.lru_cache
def gradients(remat: str, scan: bool, dtype: str, group: int):
    config = tiny_config(num_layers=3 if scan else 1, attention_softcap=20.0)
    run = jax.grad(loss(config, remat, scan=scan, dtype=dtype, rows=16, group=group))
    return quick_jit(run)(noisy_params(make_model(config)), *text(4, 5, 6, made))


@pytest.mark.parametrize(
    "remat",
    [*(pytest.param(n, marks=pytest.mark.slow) for n in ("attention", "products")), "layers"],
)
@pytest.mark.parametrize(
    "scan, dtype, group",
    [
        (False, "float32", 2),
        pytest.param(True, "float32", 1, marks=pytest.mark.slow),
        pytest.param(False, "bfloat16", 1, marks=pytest.mark.slow),
    ],
)
def test_gradients_are_equal(remat, scan, dtype, group):
    found, expected = gradients(remat, scan, dtype, group), gradients("none", scan, dtype, group)
    scale = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(expected))
    bound = scale * (1e-5 if dtype == "float32" else 0.02)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=bound), found, expected)


def count_products(remat: str) -> tuple[int, int]:
    """Count the products of a gradient with parameters, and those of attention (with a batch)."""
    config = tiny_config()
    run = jax.grad(loss(config, remat, scan=False, dtype="float32", rows=64))
    params = jax.eval_shape(make_model(config).init, jax.random.key(0))
    traced = jax.make_jaxpr(run)(params, *text(2, 5, 6, jax.ShapeDtypeStruct))
    found = [e for e in equations(traced.jaxpr) if e.primitive.name == "dot_general"]
    batched = sum(bool(e.params["dimension_numbers"][1][0]) for e in found)
    return len(found) - batched, batched


def test_what_is_computed_again():
    """2 layers of 7 products with parameters, and the head; 6 products of attention.

    Of a prompt with itself, of a completion with its prompt, and with itself.
    """
    whole = 3 * (2 * 7 + 1)
    assert count_products("none") == (whole, 2 * 18)
    linear, attention = count_products("attention")
    assert linear == whole and 2 * 18 < attention <= 2 * 24
    linear, attention = count_products("products")
    assert linear == whole and 2 * 18 < attention <= 2 * 24
    linear, attention = count_products("layers")
    assert whole + 2 * 5 < linear <= whole + 2 * 7 and 2 * 18 < attention <= 2 * 24


def temporary(
    config: TransformerConfig, remat: str, batch: int, prompt: int, new: int, *, scan: bool
) -> float:
    """Read the memory of a gradient from its compiled program, in MB; nothing runs."""
    params = jax.eval_shape(make_model(config).init, jax.random.key(0))
    run = jax.grad(loss(config, remat, scan=scan, dtype="float32", rows=256))
    shapes = (params, *text(batch, prompt, new, jax.ShapeDtypeStruct))
    program = jax.jit(run).lower(*shapes).compile(compiler_options=QUICK)
    return program.memory_analysis().temp_size_in_bytes / 1e6


@pytest.mark.slow
@pytest.mark.parametrize("scan", [False, True])
def test_memory_falls_in_the_order_of_the_choices(scan):
    config = tiny_config(num_layers=3, context_length=256)
    sizes = [temporary(config, remat, 4, 32, 96, scan=scan) for remat in CHOICES]
    assert all(less < 0.9 * more for more, less in itertools.pairwise(sizes)), sizes
    assert sizes[3] < 0.5 * sizes[0]


@pytest.mark.slow
def test_memory_of_smollm2():
    """8 rows of 256 + 256 tokens, gradients included, within a tenth of what was measured."""
    config = find_architecture("shape:smollm2-135m")
    sizes = [temporary(config, remat, 8, 256, 256, scan=True) for remat in CHOICES]
    np.testing.assert_allclose(sizes, [12729, 8155, 3787, 1653], rtol=0.1)


def test_other_choices_are_refused():
    with pytest.raises(ValueError, match="remat is True; one of none, attention, products, layers"):
        make_model(tiny_config(), remat=True)
