"""The distribution over the next token, against sorting references in numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.rollout.distribution import NEGATIVE, SamplingConfig, distribution_logits, inverse_cdf
from tests.conftest import quick_jit


def reference(logits: np.ndarray, s: SamplingConfig) -> np.ndarray:
    """Probabilities of one distribution, by sorting: the order of transformers' processors."""
    logits = logits.astype(np.float64) / s.temperature
    keep = np.ones(len(logits), bool)
    if s.top_k:
        keep &= logits >= np.sort(logits)[-min(s.top_k, len(logits))]
    if s.top_p < 1:
        p = np.exp(np.where(keep, logits, -np.inf))
        p /= p.sum()
        order = np.argsort(-p)
        before = np.concatenate([[0], np.cumsum(p[order])[:-1]])
        nucleus = np.zeros_like(keep)
        nucleus[order[before < s.top_p]] = True
        keep &= nucleus
    if s.min_p:
        keep &= logits >= logits.max() + np.log(s.min_p)
    p = np.where(keep, np.exp(logits - logits.max()), 0)
    return p / p.sum()


CASES = [
    SamplingConfig(temperature=0.7),
    SamplingConfig(temperature=1.3, top_k=7),
    SamplingConfig(temperature=1.0, top_p=0.8),
    SamplingConfig(temperature=0.9, min_p=0.1),
    SamplingConfig(temperature=0.8, top_k=20, top_p=0.6, min_p=0.02),
    SamplingConfig(temperature=1.0, top_k=1),
    SamplingConfig(temperature=1.0, top_k=1000, top_p=0.999),
]


@pytest.mark.parametrize("sampling", CASES, ids=str)
@pytest.mark.parametrize("axis", [0, -1])
def test_matches_sorting(sampling, axis):
    rows = 3.0 * np.random.default_rng(0).standard_normal((5, 97)).astype(np.float32)
    given = rows if axis == -1 else rows.T
    got = jax.nn.softmax(distribution_logits(jnp.asarray(given), sampling, axis=axis), axis=axis)
    got = np.asarray(got if axis == -1 else got.T)
    for row, probabilities in zip(rows, got, strict=True):
        np.testing.assert_allclose(probabilities, reference(row, sampling), atol=1e-6)


def test_forbidden_tokens_get_nothing_and_taken_ones_stay():
    logits = jnp.asarray([[5.0, 4.0, 3.0, 2.0]])
    sampling = SamplingConfig(temperature=1.0, top_k=2)
    forbidden = jnp.asarray([[True, False, False, False]])
    out = distribution_logits(logits, sampling, forbidden=forbidden)
    np.testing.assert_array_equal(out > NEGATIVE / 2, [[False, True, True, False]])
    out = distribution_logits(logits, sampling, taken=jnp.asarray([[3]]))
    np.testing.assert_array_equal(out > NEGATIVE / 2, [[True, True, False, True]])


def test_inverse_cdf_is_exact_on_a_grid_of_uniforms():
    weights = np.random.default_rng(1).random(700).astype(np.float32)
    weights[[0, 13, 255, 256, 699]] = 0
    grid = (np.arange(20000) + 0.5) / 20000
    columns = jnp.broadcast_to(jnp.asarray(weights)[:, None], (700, len(grid)))
    drawn = np.asarray(inverse_cdf(columns, jnp.asarray(grid, jnp.float32)))
    counts = np.bincount(drawn, minlength=700) / len(grid)
    np.testing.assert_allclose(counts, weights / weights.sum(), atol=1.5 / len(grid))
    assert counts[weights == 0].sum() == 0


@pytest.mark.parametrize("index", [0, 255, 256, 511, 599])
def test_inverse_cdf_never_draws_weight_zero(index):
    weights = jnp.zeros((600, 3)).at[index].set(1e-20)
    uniform = jnp.asarray([0.0, 0.5, np.nextafter(np.float32(1), np.float32(0))])
    np.testing.assert_array_equal(inverse_cdf(weights, uniform), [index] * 3)


@pytest.mark.parametrize(
    "changes",
    [{"temperature": -1.0}, {"top_p": 0.0}, {"min_p": 1.0}, {"top_k": -1}, {"max_new_tokens": 0},
     {"min_new_tokens": 99}],
)  # fmt: skip
def test_impossible_sampling_is_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        SamplingConfig(**changes).validate()


@functools.lru_cache
def probabilities_of(sampling, axis):
    def run(x):
        return jax.nn.softmax(distribution_logits(x, sampling, axis=axis), axis=axis)

    return quick_jit(run)


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("spread", [0.01, 1.0, 6.0], ids=["flat", "wide", "peaked"])
@pytest.mark.parametrize(
    "sampling",
    [
        SamplingConfig(temperature=1.0, top_k=50),
        SamplingConfig(temperature=0.7, top_p=0.9),
        SamplingConfig(temperature=1.0, top_k=300, top_p=0.95),
    ],
    ids=str,
)
def test_large_vocabularies_match_sorting(sampling, spread, axis):
    """Long enough that a few chunks are searched first; flat ones need the whole vocabulary."""
    rng = np.random.default_rng(2)
    rows = (spread * rng.standard_normal((3, 40_001))).astype(np.float32)
    if sampling.top_p == 1:  # ties are all kept, where sorting takes some of them
        rows[0, rng.integers(40_001, size=40)] = rows[0].max()
    given = rows if axis == -1 else rows.T
    got = np.asarray(probabilities_of(sampling, axis)(jnp.asarray(given)))
    got = got if axis == -1 else got.T
    for row, probabilities in zip(rows, got, strict=True):
        wanted = reference(row, sampling)
        differing = (probabilities > 0) != (wanted > 0)
        # float32 sums may put the border of a nucleus a few tokens off
        assert differing.sum() <= (0 if sampling.top_p == 1 else 0.001 * (wanted > 0).sum() + 1)
        np.testing.assert_allclose(probabilities[~differing], wanted[~differing], rtol=2e-3)
