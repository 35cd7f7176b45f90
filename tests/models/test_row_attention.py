"""Held against the definition, query by query, in numpy's float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.models.row_attention import GroupMask, read_rows
from tests.conftest import quick_jit

K, Q, H = 2, 3, 4  # key heads, queries of each, head_dim


def draw(rows: int, length: int, seed: int = 0) -> list[np.ndarray]:
    """Draw queries, keys and values."""
    rng = np.random.default_rng(seed)
    shapes = [(rows, length, K, Q, H), (rows, length, K, H), (rows, length, K, H)]
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def half(scores):
    return 0.5 * scores


def capped(scores):
    return 2.0 * jnp.tanh(scores / 2.0)


def defined(query, key, value, mask, cap=half) -> np.ndarray:
    """Read one query at a time; a query that sees nothing gives NaN."""
    out = np.full(query.shape, np.nan)
    for row, place, head, one in np.ndindex(*query.shape[:4]):
        seen = np.flatnonzero(mask[row, place])
        if not len(seen):
            continue
        scores = key[row, seen, head].astype(np.float64) @ query[row, place, head, one]
        weights = np.exp(np.asarray(cap(scores), np.float64))
        out[row, place, head, one] = weights / weights.sum() @ value[row, seen, head]
    return out


def random_mask(rows: int, length: int) -> np.ndarray:
    """Mark keys at random; every query but one, the last of the first row, sees itself."""
    mask = np.random.default_rng(1).random((rows, length, length)) < 0.4
    mask |= np.eye(length, dtype=bool)
    mask[0, -1] = False
    return mask


@pytest.mark.parametrize("cap", [half, capped])
def test_it_is_the_mean_of_values_under_the_softmax(cap):
    inputs, mask = draw(2, 5), random_mask(2, 5)
    made = np.asarray(quick_jit(lambda *x: read_rows(*x, cap))(*inputs, mask))
    expected = defined(*inputs, mask, cap)
    seen = ~np.isnan(expected)
    assert seen.mean() == 0.9
    np.testing.assert_allclose(made[seen], expected[seen], atol=1e-5)
    assert np.all(np.isfinite(made))


@pytest.mark.parametrize("offset", [-300.0, 300.0])
def test_large_scores_neither_overflow_nor_vanish(offset):
    inputs, mask = draw(2, 5), random_mask(2, 5)
    plain, moved = (
        quick_jit(lambda *x, o=o: read_rows(*x, lambda s: half(s) + o))(*inputs, mask)
        for o in (0.0, offset)
    )
    np.testing.assert_allclose(moved, plain, atol=1e-4)


def test_gradients_are_those_of_a_softmax():
    inputs, mask = draw(2, 5), random_mask(2, 5)
    probe = np.random.default_rng(2).normal(size=inputs[0].shape).astype(np.float32)
    probe *= mask.any(axis=-1)[..., None, None, None]

    def usual(query, key, value):
        scores = half(jnp.einsum("btkqh,bskh->bkqts", query, key))
        weights = jax.nn.softmax(jnp.where(mask[:, None, None], scores, -1e30), axis=-1)
        return jnp.einsum("bkqts,bskh->btkqh", weights, value)

    def gradients(function):
        return quick_jit(jax.grad(lambda *x: jnp.sum(probe * function(*x)), (0, 1, 2)))(*inputs)

    made = gradients(lambda *x: read_rows(*x, mask, half))
    for got, expected in zip(made, gradients(usual), strict=True):
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize(("groups", "length"), [(3, 4), (2, 1), (2, 0)])
def test_a_group_reads_as_each_of_its_completions_alone(groups, length):
    rows, width = 2, 3
    inputs = draw(rows, width + groups * length)
    rng = np.random.default_rng(3)
    prompt = np.tril(np.ones((rows, width, width), bool))
    prefix = rng.random((rows, length, width)) < 0.5
    own = np.tril(np.ones((rows, groups, length, length), bool))
    mask = GroupMask(*(jnp.asarray(m) for m in (prompt, prefix, own)))
    made = np.asarray(quick_jit(lambda *x: read_rows(*x, half))(*inputs, mask))
    np.testing.assert_allclose(
        made[:, :width], defined(*(x[:, :width] for x in inputs), prompt), atol=1e-5
    )
    for group in range(groups):
        first = width + group * length
        alone = [np.concatenate([x[:, :width], x[:, first : first + length]], 1) for x in inputs]
        seen = np.zeros((rows, width + length, width + length), bool)
        seen[:, :width, :width] = prompt
        seen[:, width:, :width] = prefix
        seen[:, width:, width:] = own[:, group]
        expected = defined(*alone, seen)[:, width:]
        np.testing.assert_allclose(made[:, first : first + length], expected, atol=1e-5)


def test_bfloat16_is_summed_in_float32():
    inputs, mask = draw(1, 64), np.ones((1, 64, 64), bool)
    low = [jnp.asarray(x, jnp.bfloat16) for x in inputs]
    made = quick_jit(lambda *x: read_rows(*x, half))(*low, mask)
    assert made.dtype == jnp.bfloat16
    expected = defined(*(np.asarray(x, np.float32) for x in low), mask)
    assert np.abs(np.asarray(made, np.float32) - expected).max() < 0.01
