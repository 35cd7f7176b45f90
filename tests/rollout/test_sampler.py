"""The compiled sampler against a plain loop, and its agreement with scoring."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.models.heads import apply_scalar_head
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.sampler import make_sampler
from rljax.rollout.scoring import completion_hidden, make_score
from rljax.types import Prompts
from tests.conftest import quick_jit

EOS, PAD = (3, 7), 3  # padding is one of the EOS ids, as in many real tokenizers
KEY = jax.random.key(42)


def prompts_of(tokens, mask, ids=None, samples=None) -> Prompts:
    rows = tokens.shape[0]
    ids = jnp.arange(rows) if ids is None else jnp.asarray(ids)
    samples = jnp.zeros(rows, jnp.int32) if samples is None else jnp.asarray(samples)
    return Prompts(tokens, mask, ids, samples)


@functools.lru_cache
def compiled_sampler(model, sampling, jit):
    return jit(make_sampler(model, sampling, EOS, PAD))


def sampler(model, jit=quick_jit, **changes):
    sampling = SamplingConfig(**({"max_new_tokens": 12, "temperature": 1.0} | changes))
    return sampling, compiled_sampler(model, sampling, jit)


def scorer(model, sampling, **options):
    return quick_jit(make_score(model, sampling, EOS, **options))


def test_greedy_equals_a_loop_of_full_forwards(tiny, left_padded):
    model, params = tiny
    tokens, mask = left_padded
    _, sample = sampler(model, temperature=0.0)
    made = sample(params, None, prompts_of(tokens, mask), KEY)
    forward = quick_jit(model.apply)
    for row in range(3):
        text = [int(t) for t in tokens[row][mask[row]]]
        written = []
        while len(written) < 12 and (not written or written[-1] not in EOS):
            now = text + written
            room = np.pad(now, (0, 21 - len(now)))  # one shape: no token sees a later slot
            logits = forward(params, room[None])
            written.append(int(jnp.argmax(logits[0, len(now) - 1])))
        np.testing.assert_array_equal(made.tokens[row][made.mask[row]], written)
        assert np.all(np.asarray(made.tokens[row])[~np.asarray(made.mask[row])] == PAD)


@pytest.mark.parametrize(
    "changes",
    [{}, {"temperature": 0.6, "top_k": 9}, {"top_p": 0.7}, {"min_p": 0.1, "min_new_tokens": 5}],
    ids=str,
)
def test_scoring_agrees_with_sampling(tiny, left_padded, changes):
    model, params = tiny
    sampling, sample = sampler(model, **changes)
    prompts = prompts_of(*left_padded)
    made = sample(params, None, prompts, KEY)
    scored = scorer(model, sampling)(params, prompts, made)
    np.testing.assert_allclose(scored.log_probs, made.log_probs, atol=1e-5)
    assert np.all(np.asarray(made.log_probs)[~np.asarray(made.mask)] == 0)
    # scored at another temperature they do not agree: the test can fail
    other = dataclasses.replace(sampling, temperature=sampling.temperature * 1.5)
    wrong = scorer(model, other)(params, prompts, made)
    assert np.max(np.abs(wrong.log_probs - made.log_probs)) > 1e-2


def test_values_come_out_of_the_decode(tiny, left_padded):
    model, params = tiny
    head = {"kernel": jax.random.normal(KEY, (1, 32)), "bias": jnp.array([0.3])}
    prompts = prompts_of(*left_padded)
    made = sampler(model)[1](params, head, prompts, KEY)
    hidden = quick_jit(functools.partial(completion_hidden, model))(params, prompts, made)
    values = apply_scalar_head(head, hidden)
    np.testing.assert_allclose(made.values, np.where(made.mask, values, 0), atol=1e-4)


@pytest.mark.slow
def test_a_completion_does_not_depend_on_its_batch(tiny):
    model, params = tiny
    _, sample = sampler(model, jax.jit)  # to the bit: of the programs that a user runs
    tokens = jax.random.randint(jax.random.key(0), (6, 8), 10, 61)
    mask = jnp.ones((6, 8), bool)
    together = sample(params, None, prompts_of(tokens, mask), KEY)
    order = [4, 0, 5]
    some = sample(params, None, prompts_of(tokens[jnp.array(order)], mask[:3], ids=order), KEY)
    np.testing.assert_array_equal(some.tokens, together.tokens[jnp.array(order)])
    room = jnp.concatenate([jnp.zeros((1, 5), tokens.dtype), tokens[2:3]], axis=1)
    wide = prompts_of(room, jnp.arange(13)[None] >= 5, ids=[2])
    np.testing.assert_array_equal(sample(params, None, wide, KEY).tokens[0], together.tokens[2])


def test_samples_steps_and_prompts_have_noise_of_their_own(tiny):
    model, params = tiny
    _, sample = sampler(model)
    tokens = jnp.broadcast_to(jax.random.randint(KEY, (1, 8), 10, 61), (4, 8))
    mask = jnp.ones((4, 8), bool)
    prompts = prompts_of(tokens, mask, ids=[0, 0, 1, 0], samples=[0, 1, 0, 0])
    made = np.asarray(sample(params, None, prompts, KEY).tokens)
    assert np.array_equal(made[0], made[3])
    assert len({tuple(row) for row in made[:3]}) == 3
    other = np.asarray(sample(params, None, prompts, jax.random.fold_in(KEY, 1)).tokens)
    assert not np.array_equal(made, other)


def test_eos_belongs_to_the_completion_and_ends_it(tiny, left_padded):
    model, params = tiny
    tokens, mask = left_padded
    pile = jnp.tile(tokens, (40, 1)), jnp.tile(mask, (40, 1))
    made = sampler(model)[1](params, None, prompts_of(*pile), KEY)
    ended = 0
    for row, real in zip(np.asarray(made.tokens), np.asarray(made.mask), strict=True):
        stops = np.flatnonzero(np.isin(row, EOS))
        length = stops[0] + 1 if len(stops) else 12
        ended += len(stops) > 0
        np.testing.assert_array_equal(real, np.arange(12) < length)
    assert 10 < ended < 120  # the case occurs, and so does its opposite


def test_min_new_tokens_forbids_eos(tiny, left_padded):
    model, params = tiny
    tokens, mask = left_padded
    pile = jnp.tile(tokens, (40, 1)), jnp.tile(mask, (40, 1))
    made = sampler(model, min_new_tokens=6)[1](params, None, prompts_of(*pile), KEY)
    assert not np.isin(np.asarray(made.tokens)[:, :6], EOS).any()
    assert np.asarray(made.mask)[:, :6].all()


def test_sampled_frequencies_follow_the_distribution(tiny):
    model, params = tiny
    sampling, sample = sampler(model, max_new_tokens=1, temperature=0.8, top_k=20)
    rows = 4000
    tokens = jnp.tile(jnp.array([[9, 30, 41]]), (rows, 1))
    prompts = prompts_of(tokens, jnp.ones_like(tokens, bool), ids=np.zeros(rows, int),
                         samples=np.arange(rows))  # fmt: skip
    made = sample(params, None, prompts, KEY)
    counts = np.bincount(np.asarray(made.tokens)[:, 0], minlength=61) / rows
    drawn, first = np.unique(np.asarray(made.tokens)[:, 0], return_index=True)
    expected = np.exp(np.asarray(made.log_probs)[first, 0])
    assert np.all(np.abs(counts[drawn] - expected) < 4 * np.sqrt(expected / rows) + 1e-3)
    assert abs(expected.sum() - 1) < 0.02


def test_a_prompt_beyond_the_context_is_refused(tiny):
    model, params = tiny
    tokens = jnp.ones((1, 60), jnp.int32)
    with pytest.raises(ValueError, match="context"):
        sampler(model)[1](params, None, prompts_of(tokens, jnp.ones((1, 60), bool)), KEY)


@pytest.mark.slow
def test_chunks_of_the_head_do_not_change_scores_or_gradients(tiny, left_padded):
    model, params = tiny
    sampling, sample = sampler(model, temperature=0.7)
    prompts = prompts_of(*left_padded)
    made = sample(params, None, prompts, KEY)

    def run(rows):
        score = make_score(model, sampling, EOS, with_entropy=True, rows=rows)

        def total(p):
            scored = score(p, prompts, made)
            return jnp.sum(scored.log_probs) + jnp.sum(scored.entropy), scored

        return quick_jit(jax.grad(total, has_aux=True))(params)

    (grad_a, a), (grad_b, b) = run(10_000), run(7)
    np.testing.assert_allclose(a.log_probs, b.log_probs, atol=1e-5)
    np.testing.assert_allclose(a.entropy, b.entropy, atol=1e-5)
    assert np.all(np.asarray(a.entropy)[np.asarray(made.mask)] > 0)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-4), grad_a, grad_b)
