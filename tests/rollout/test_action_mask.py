"""Sampling and scoring under a masking policy: both exclude the same tokens, those it excludes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.rollout.distribution import (
    NEGATIVE,
    ActionMask,
    SamplingConfig,
    allowed_tokens,
    distribution_logits,
    most_probable,
)
from rljax.rollout.sampler import make_sampler
from rljax.rollout.scoring import completion_hidden, make_score
from rljax.types import Prompts
from tests.conftest import noisy_params, quick_jit

EOS, PAD, SLOTS = (3, 7), 3, 8
KEY = jax.random.key(42)
SAMPLING = SamplingConfig(max_new_tokens=SLOTS, min_new_tokens=3, temperature=0.8)
GREEDY = dataclasses.replace(SAMPLING, temperature=0.0)
MASK = ActionMask(top_p=0.5, min_tokens=4)


@functools.lru_cache
def sampler(model, mask, sampling=SAMPLING):
    return quick_jit(make_sampler(model, sampling, EOS, PAD, mask))


@functools.lru_cache
def states(model):
    return quick_jit(functools.partial(completion_hidden, model))


def logits_before(model, params, prompts, made) -> np.ndarray:
    """Logits [B, C, V] before each token, by a full forward; EOS has none where it is forbidden."""
    logits = np.array(model.head(params, states(model)(params, prompts, made)))
    logits[:, : SAMPLING.min_new_tokens, list(EOS)] = NEGATIVE
    return logits


def reference(logits: np.ndarray, mask: ActionMask, forbidden: np.ndarray) -> np.ndarray:
    """The allowed tokens of one distribution, by sorting."""
    p = np.where(forbidden, 0, np.exp(logits.astype(np.float64)))
    p /= p.sum()
    order = np.argsort(-p)
    before = np.concatenate([[0], np.cumsum(p[order])[:-1]])
    allowed = np.zeros(len(p), bool)
    allowed[order[before < mask.top_p]] = True
    allowed[order[: mask.min_tokens]] = True
    return allowed


@pytest.mark.parametrize(
    ("mask", "axis"), [(MASK, 0), (ActionMask(0.9, 1), -1), (ActionMask(0.01, 30), -1)], ids=str
)
def test_the_allowed_set_matches_sorting(mask, axis):
    rows = 3.0 * np.random.default_rng(0).standard_normal((5, 97)).astype(np.float32)
    forbidden = np.zeros((5, 97), bool)
    forbidden[:, np.argmax(rows, axis=1)] = True
    turn = (lambda x: x) if axis == -1 else np.transpose
    got = allowed_tokens(turn(rows), mask, forbidden=turn(forbidden), axis=axis)
    for row, no, allowed in zip(rows, forbidden, turn(np.asarray(got)), strict=True):
        np.testing.assert_array_equal(allowed, reference(row, mask, no))
    count = jnp.sum(got, axis=axis, keepdims=True, dtype=jnp.float32)
    again = most_probable(turn(rows), count, forbidden=turn(forbidden), axis=axis)
    np.testing.assert_array_equal(got, again)


def test_what_is_not_allowed_has_no_probability():
    logits = jnp.asarray([[5.0, 4.0, 3.0, 2.0]])
    allowed = jnp.asarray([[True, False, True, False]])
    sampling = SamplingConfig(temperature=2.0)
    out = distribution_logits(logits, sampling, allowed=allowed)
    np.testing.assert_array_equal(jax.nn.softmax(out) > 0, allowed)
    np.testing.assert_allclose(out[0, 0] - out[0, 2], (5 - 3) / 2)
    # top-k acts on what the mask leaves, and the token that was taken stays in the support
    topped = distribution_logits(logits, dataclasses.replace(sampling, top_k=1), allowed=allowed)
    np.testing.assert_array_equal(jax.nn.softmax(topped) > 0, [[True, False, False, False]])
    taken = distribution_logits(logits, sampling, allowed=allowed, taken=jnp.asarray([[3]]))
    np.testing.assert_array_equal(taken > NEGATIVE / 2, [[True, False, True, True]])
    forbidden = jnp.asarray([[True, False, False, False]])
    out = distribution_logits(logits, sampling, allowed=allowed, forbidden=forbidden)
    np.testing.assert_array_equal(jax.nn.softmax(out) > 0, [[False, False, True, False]])


@pytest.fixture(scope="module")
def masked(tiny):
    """Prompts, a policy and a masking policy that is another one, and what they sample."""
    model, params = tiny
    rows = jnp.arange(24)
    tokens = jax.random.randint(jax.random.key(5), (24, 9), 0, 61)
    mask = jnp.arange(9) >= (rows % 6)[:, None]  # left padding of several widths
    prompts = Prompts(tokens, mask, rows, jnp.zeros(24, jnp.int32))
    other = noisy_params(model, seed=9)
    made = sampler(model, MASK)(params, None, prompts, KEY, other)
    return model, params, other, prompts, made


def test_scoring_agrees_with_sampling(masked):
    model, params, other, prompts, made = masked
    real = np.asarray(made.mask)
    score = quick_jit(make_score(model, SAMPLING, EOS, with_entropy=True))
    scored = score(params, prompts, made, other)
    np.testing.assert_allclose(scored.log_probs, made.log_probs, atol=1e-5)
    assert np.min(np.asarray(made.log_probs)[real]) < -0.5
    # at most the entropy of a uniform choice among what is allowed
    most = np.log(np.asarray(made.allowed)[real])
    assert np.all(np.asarray(scored.entropy)[real] <= most + 1e-5)
    # without the mask, or under another one, they do not agree: the test can fail
    plain = score(params, prompts, made._replace(allowed=None))
    assert np.max(np.abs(plain.log_probs - made.log_probs)) > 0.1
    assert np.max(np.abs(score(params, prompts, made, params).log_probs - made.log_probs)) > 0.1


@pytest.mark.slow
def test_states_and_chunks_do_not_change_scores_or_gradients(masked):
    model, params, other, prompts, made = masked

    def run(rows, hidden):
        score = make_score(model, SAMPLING, EOS, with_entropy=True, rows=rows)

        def total(p):
            scored = score(p, prompts, made, other, hidden)
            return jnp.sum(scored.log_probs) + jnp.sum(scored.entropy), scored

        return quick_jit(jax.grad(total, has_aux=True))(params)

    grad_a, a = run(10_000, None)
    hidden = states(model)(other, prompts, made)
    np.testing.assert_allclose(a.mask_hidden, hidden, atol=1e-4)
    grad_b, b = run(17, a.mask_hidden)
    np.testing.assert_allclose(a.log_probs, b.log_probs, atol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-3), grad_a, grad_b)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(grad_a))


def test_sampled_tokens_are_in_the_allowed_set(masked):
    model, params, other, prompts, made = masked
    real, tokens = np.asarray(made.mask), np.asarray(made.tokens)
    counts = np.asarray(made.allowed)
    logits = logits_before(model, other, prompts, made)

    def ranks(tokens):
        taken = np.take_along_axis(logits, tokens[..., None], -1)
        return np.sum(logits > taken + 1e-5, axis=-1)

    assert np.all(ranks(tokens)[real] < counts[real])
    assert np.all(counts[real] >= MASK.min_tokens) and np.all(counts[~real] == 0)
    assert np.any(counts[real] > MASK.min_tokens) and np.all(counts[real] < 61)
    assert not np.isin(tokens[:, : SAMPLING.min_new_tokens], EOS).any()
    assert (~real).sum() > 0  # some end early
    # the policy alone would not stay inside
    free = sampler(model, None)(params, None, prompts, KEY)
    assert np.any(ranks(np.asarray(free.tokens))[:, 0] >= counts[:, 0])


@pytest.mark.slow
def test_a_mask_of_one_token_decodes_the_masking_policy(masked):
    model, params, other, prompts, _ = masked
    one = ActionMask(top_p=1e-6, min_tokens=1)
    made = sampler(model, one)(params, None, prompts, KEY, other)
    expected = sampler(model, None, GREEDY)(other, None, prompts, KEY)
    np.testing.assert_array_equal(made.tokens, expected.tokens)
    np.testing.assert_allclose(made.log_probs, 0, atol=1e-6)
    np.testing.assert_array_equal(made.allowed, made.mask)


@pytest.mark.slow
def test_min_tokens_widens_the_mask(masked):
    model, params, other, prompts, _ = masked
    wide = ActionMask(top_p=1e-6, min_tokens=61)
    made = sampler(model, wide)(params, None, prompts, KEY, other)
    plain = sampler(model, None)(params, None, prompts, KEY)
    np.testing.assert_array_equal(made.tokens, plain.tokens)  # nothing is masked
    np.testing.assert_allclose(made.log_probs, plain.log_probs, atol=1e-5)
    assert plain.allowed is None


def test_greedy_takes_the_best_allowed_token(masked):
    model, params, other, prompts, _ = masked
    made = sampler(model, MASK, GREEDY)(params, None, prompts, KEY, other)
    logits = logits_before(model, params, prompts, made)
    allowed = allowed_tokens(logits_before(model, other, prompts, made), MASK)
    best = np.argmax(np.where(allowed, logits, NEGATIVE), axis=-1)
    real = np.asarray(made.mask)
    np.testing.assert_array_equal(np.asarray(made.tokens)[real], best[real])
    assert np.any(best[real] != np.argmax(logits, axis=-1)[real])


def test_a_mask_and_its_policy_come_together(masked):
    model, params, other, prompts, made = masked
    with pytest.raises(ValueError, match="missing"):
        make_sampler(model, SAMPLING, EOS, PAD, MASK)(params, None, prompts, KEY)
    score = make_score(model, SAMPLING, EOS)
    with pytest.raises(ValueError, match="missing"):
        score(params, prompts, made)
    with pytest.raises(ValueError, match="given"):
        score(params, prompts, made._replace(allowed=None), other)
