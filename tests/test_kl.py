"""KL estimators against exact values and gradients; controllers against their published runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.kl import KLConfig, kl_estimate, make_kl_controller, openai_kl_coef, rl4lms_kl_coef

POLICY = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05]))
REFERENCE = jnp.log(jnp.array([0.25, 0.25, 0.25, 0.25]))


def exact_kl(p, q):
    return jnp.sum(jnp.exp(p) * (p - q))


def test_estimators_by_hand():
    # log_probs - ref_log_probs = log 2: k1 .6931, k2 .2402, k3 = 1/2 + log 2 - 1 = .1931.
    d = jnp.log(2.0)
    np.testing.assert_allclose(kl_estimate(d, 0.0, "k1"), 0.693147, rtol=1e-5)
    np.testing.assert_allclose(kl_estimate(d, 0.0, "k2"), 0.240227, rtol=1e-5)
    np.testing.assert_allclose(kl_estimate(d, 0.0, "k3"), 0.193147, rtol=1e-5)
    np.testing.assert_allclose(kl_estimate(0.0, d, "k3"), 2 - 0.693147 - 1, rtol=1e-5)
    with pytest.raises(ValueError, match="unknown KL estimator"):
        kl_estimate(d, 0.0, "k4")


def test_k1_and_k3_are_unbiased_and_k2_k3_positive():
    weights = jnp.exp(POLICY)
    kl = exact_kl(POLICY, REFERENCE)
    for name in ("k1", "k3"):
        mean = jnp.sum(weights * kl_estimate(POLICY, REFERENCE, name))
        np.testing.assert_allclose(mean, kl, rtol=1e-5)
    for name in ("k2", "k3"):
        assert (kl_estimate(POLICY, REFERENCE, name) >= 0).all()


def test_k3_is_exact_for_tiny_differences():
    # exp(-d) + d - 1 loses all digits in float32 at d = 1e-4; d^2 / 2 is the limit.
    np.testing.assert_allclose(kl_estimate(jnp.float32(1e-2), 0.0, "k3"), 4.98337e-5, rtol=1e-3)


def test_expected_gradients_of_the_estimators_as_losses():
    # On-policy: k1 has zero expected gradient, k2 that of KL(p || q), k3 that of KL(q || p).
    logits = POLICY + 0.3
    weights = jnp.exp(POLICY)

    def expected(name):
        def loss(x):
            return jnp.sum(weights * kl_estimate(jax.nn.log_softmax(x), REFERENCE, name))

        return jax.grad(loss)(logits)

    forward = jax.grad(lambda x: exact_kl(jax.nn.log_softmax(x), REFERENCE))(logits)
    reverse = jax.grad(lambda x: exact_kl(REFERENCE, jax.nn.log_softmax(x)))(logits)
    np.testing.assert_allclose(expected("k1"), np.zeros(4), atol=1e-6)
    np.testing.assert_allclose(expected("k2"), forward, atol=1e-6)
    np.testing.assert_allclose(expected("k3"), reverse, atol=1e-6)


def test_openai_controller_golden():
    coef, run = jnp.float32(0.15), []
    for kl in (0.0, 8.0, 6.0):
        coef = openai_kl_coef(coef, kl, num_episodes=512, target=6.0, horizon=10_000)
        run.append(float(coef))
    np.testing.assert_allclose(run, [0.148464, 0.14998427, 0.14998427], rtol=1e-6)


def test_rl4lms_controller_golden():
    coef, run = jnp.float32(0.1), []
    for kl in (0.0, 10.0, 10.0):
        coef = rl4lms_kl_coef(coef, kl, target=1.0)
        run.append(float(coef))
    np.testing.assert_allclose(run, [0.098, 0.09996, 0.10195920], rtol=1e-6)
    inside = rl4lms_kl_coef(jnp.float32(0.1), 1.1, target=1.0)  # error 0.1, not clipped
    np.testing.assert_allclose(inside, 0.101, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"), [("fixed", 0.2), ("openai", 0.204), ("rl4lms", 0.204)]
)
def test_controller_follows_its_config(name, expected):
    controller = make_kl_controller(KLConfig(coef=0.2, controller=name, target=2.0, horizon=1000.0))
    state = controller.init()
    assert state.dtype == jnp.float32
    np.testing.assert_allclose(jax.jit(controller.update)(state, 50.0, 100), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "bad",
    [
        {"coef": -0.1},
        {"coef": float("nan")},
        {"target": float("nan")},
        {"controller": "pid"},
        {"estimator": "k4"},
        {"target": 0.0},
        {"horizon": -1.0},
        {"coef": 0.0, "controller": "openai"},
    ],
)
def test_bad_configs_raise(bad):
    with pytest.raises(ValueError, match="kl"):
        KLConfig(**bad)
