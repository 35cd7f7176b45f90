"""Shares of parameters, on a mesh of one device: what is gathered, in which dtype, how often."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from rljax.models.lora import combine
from rljax.shares import Share, after, gathered, has_shares, regathered


def on_mesh(function):
    mesh = jax.make_mesh((1,), ("fsdp",), axis_types=(AxisType.Auto,))
    return jax.shard_map(function, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)


def layer(params, x):
    return jnp.tanh(x @ gathered(params)["kernel"])


def test_whole_parameters_are_left_alone():
    params = {"kernel": jnp.ones((2, 3))}
    assert gathered(params)["kernel"] is params["kernel"] and not has_shares(params)
    assert after(params, jnp.ones(1)) is params
    plain = jax.make_jaxpr(jax.grad(lambda p, x: layer(p, x).sum()))
    again = jax.make_jaxpr(jax.grad(lambda p, x: regathered(layer)(p, x).sum()))
    assert str(plain(params, jnp.ones((4, 2)))) == str(again(params, jnp.ones((4, 2))))


@pytest.mark.parametrize(("kind", "sent"), [(None, jnp.float32), (jnp.bfloat16, jnp.bfloat16)])
def test_shares_are_sent_in_the_dtype_that_is_asked_for(kind, sent):
    """Gradients are summed as the parameter is stored."""
    part, factor = jnp.linspace(0, 1, 6).reshape(2, 3), jnp.arange(6.0).reshape(2, 3)

    def loss(part):
        whole = gathered({"kernel": Share(part, -2)}, kind)["kernel"]
        assert whole.dtype == sent
        return jnp.sum(whole * factor.astype(sent)).astype(jnp.float32)

    value, grads = on_mesh(jax.value_and_grad(loss))(part)
    assert grads.dtype == jnp.float32
    np.testing.assert_allclose(grads, factor)
    np.testing.assert_allclose(value, jnp.sum(part.astype(sent) * factor.astype(sent)), rtol=1e-2)


@pytest.mark.parametrize(("recompute", "products"), [(False, 5), (True, 7)])
def test_the_backward_pass_gathers_again(recompute, products):
    """Two layers: the first needs no gradient of its input, and so no parameter again.

    A product has two more in the backward pass, of the kernel and of the input.
    """

    def loss(part, x):
        step = regathered(layer, recompute=recompute)
        params = {"kernel": Share(part, -1)}
        return jnp.sum(step(after(params, x), step(params, x)))

    program = str(jax.make_jaxpr(on_mesh(jax.grad(loss)))(jnp.ones((4, 4)), jnp.ones((2, 4))))
    assert program.count("dot_general[") == products
    assert program.count("all_gather[") == 3 + recompute
    assert program.count("reduce_scatter[") == 2


def test_adapters_may_be_shares():
    base = {"kernel": jnp.ones((4, 4))}
    adapters = {"a": Share(jnp.ones((2, 4)), -1), "b": Share(jnp.ones((4, 2)), -2)}
    made = combine(base, adapters, 3.0)
    assert made["lora_b"].dim == -2
    np.testing.assert_array_equal(made["lora_b"].part, jnp.full((4, 2), 3.0))
