"""Divergences against NumPy, their limits and their zeros."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.divergences import divergence

TEACHER = np.random.RandomState(0).normal(0, 2, (5, 7)).astype(np.float32)
STUDENT = np.random.RandomState(1).normal(0, 2, (5, 7)).astype(np.float32)
KINDS = [("forward", None), ("reverse", None), ("jsd", 0.3)]


def probabilities(logits):
    weights = np.exp(logits.astype(np.float64))
    return weights / weights.sum(-1, keepdims=True)


def kl(a, b):
    return np.sum(a * np.log(a / b), axis=-1)


P, Q = probabilities(TEACHER), probabilities(STUDENT)


def test_against_numpy():
    np.testing.assert_allclose(divergence(TEACHER, STUDENT, "forward"), kl(P, Q), rtol=1e-5)
    np.testing.assert_allclose(divergence(TEACHER, STUDENT, "reverse"), kl(Q, P), rtol=1e-5)
    mean = 0.3 * P + 0.7 * Q
    expected = 0.3 * kl(P, mean) + 0.7 * kl(Q, mean)
    found = divergence(TEACHER, STUDENT, "jsd", jsd_beta=0.3)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_worked_by_hand():
    """p = (3/4, 1/4), q = (1/2, 1/2)."""
    p, q = jnp.log(jnp.asarray([0.75, 0.25])), jnp.zeros(2)
    assert float(divergence(p, q, "forward")) == pytest.approx(
        0.75 * np.log(1.5) - 0.25 * np.log(2)
    )
    assert float(divergence(p, q, "reverse")) == pytest.approx(0.5 * np.log(4 / 3))
    half = float(divergence(p, q, "jsd", jsd_beta=0.5))
    by_hand = 0.5 * (0.75 * np.log(6 / 5) + 0.25 * np.log(2 / 3))
    by_hand += 0.5 * (0.5 * np.log(4 / 5) + 0.5 * np.log(4 / 3))
    assert half == pytest.approx(by_hand, rel=1e-5)


def test_jensen_shannon_is_bounded_and_has_the_kls_as_limits():
    small = 1e-3
    near_forward = divergence(TEACHER, STUDENT, "jsd", jsd_beta=small) / small
    near_reverse = divergence(TEACHER, STUDENT, "jsd", jsd_beta=1 - small) / small
    np.testing.assert_allclose(near_forward, kl(P, Q), rtol=0.05)
    np.testing.assert_allclose(near_reverse, kl(Q, P), rtol=0.05)
    far = divergence(50 * TEACHER, 50 * STUDENT, "jsd", jsd_beta=0.5)
    assert np.all(np.asarray(far) <= np.log(2) + 1e-6)


@pytest.mark.parametrize("kind, beta", KINDS)
def test_equal_distributions_give_zero_and_no_gradient(kind, beta):
    def total(student):
        # Logits that differ by a constant are the same distribution.
        return jnp.sum(divergence(student + 0.0, TEACHER + 3.0, kind, jsd_beta=beta))

    value, grad = jax.value_and_grad(total)(jnp.asarray(TEACHER))
    assert abs(float(value)) < 1e-5
    np.testing.assert_allclose(grad, 0, atol=1e-5)


@pytest.mark.parametrize("kind, beta", KINDS)
def test_the_gradient_is_that_of_differences(kind, beta):
    def total(student):
        return jnp.sum(divergence(TEACHER, student, kind, jsd_beta=beta))

    grad = jax.grad(total)(jnp.asarray(STUDENT))
    step = np.zeros_like(STUDENT)
    step[2, 3] = 1e-2
    slope = (float(total(STUDENT + step)) - float(total(STUDENT - step))) / 2e-2
    assert float(grad[2, 3]) == pytest.approx(slope, rel=2e-2, abs=1e-3)


def test_impossible_choices():
    with pytest.raises(ValueError, match="unknown divergence 'kl'"):
        divergence(TEACHER, STUDENT, "kl")
    with pytest.raises(ValueError, match="jsd_beta goes with"):
        divergence(TEACHER, STUDENT, "jsd")
    with pytest.raises(ValueError, match="jsd_beta goes with"):
        divergence(TEACHER, STUDENT, "forward", jsd_beta=0.5)
    with pytest.raises(ValueError, match="jsd_beta must be in"):
        divergence(TEACHER, STUDENT, "jsd", jsd_beta=1.0)
