"""The variance of a gradient, from the parts that it is computed in."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rljax.algorithms.grpo import GRPOConfig
from rljax.algorithms.learner import VARIANCE, make_learner
from rljax.experiment import GRPOExperiment
from rljax.training.errors import ConfigError
from rljax.training.flags import validate
from rljax.training.mesh import MeshConfig


def variance_of(x: np.ndarray, parts: int) -> float:
    """The estimate for the loss w . mean(x) of rows x [B, D], whose gradient is their mean."""

    def loss(params, frozen, batch):
        return jnp.sum(params["policy"] * batch["x"] * batch["share"][:, None]), {}

    learn = make_learner(
        loss, optax.sgd(0.0), num_epochs=1, num_minibatches=1, parts=parts, measure_variance=True
    )
    batch = {"x": jnp.asarray(x), "share": jnp.full(len(x), 1 / len(x))}
    params = {"policy": jnp.zeros(x.shape[1])}
    state = optax.sgd(0.0).init(params)
    _, metrics = learn((params, state), None, batch, lambda rows: rows, jax.random.key(0))
    return float(metrics[VARIANCE][0])


def test_with_a_row_a_part_it_is_the_variance_of_the_mean():
    x = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32) + 5
    expected = np.sum(np.var(x, axis=0, ddof=1)) / len(x)
    assert variance_of(x, 16) == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
def test_it_is_right_in_the_mean_whatever_the_parts():
    rng = np.random.default_rng(1)
    found = [variance_of(rng.normal(size=(32, 4)).astype(np.float32), 4) for _ in range(60)]
    assert np.mean(found) == pytest.approx(4 / 32, rel=0.15)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ConfigError, match="measure_variance"):
        validate(GRPOConfig(measure_variance=True))
    config = GRPOConfig(measure_variance=True, gradient_accumulation=2)
    with pytest.raises(ConfigError, match="hold all parameters"):
        validate(GRPOExperiment(grpo=config, mesh=MeshConfig(fsdp=2)))


def test_measuring_changes_no_update():
    x = np.random.default_rng(2).normal(size=(8, 3)).astype(np.float32)

    def loss(params, frozen, batch):
        return jnp.sum(jnp.tanh(batch["x"] @ params["policy"]) * batch["share"]), {}

    learnt = []
    for measured in (False, True):
        optimizer = optax.adam(0.1)
        learn = make_learner(
            loss, optimizer, num_epochs=2, num_minibatches=2, parts=2, measure_variance=measured
        )
        params = {"policy": jnp.ones(3)}
        batch = {"x": jnp.asarray(x), "share": jnp.full(len(x), 1 / len(x))}
        given = (params, optimizer.init(params))
        (after, _), _ = learn(given, None, batch, lambda rows: rows, jax.random.key(0))
        learnt.append(np.asarray(after["policy"]))
    np.testing.assert_array_equal(*learnt)
    assert np.all(learnt[0] != 1)
