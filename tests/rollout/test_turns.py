"""Conversations: one turn is the plain sampler's completion; what is kept equals a full forward."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.models.heads import apply_scalar_head
from rljax.models.transformer import make_model
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.sampler import make_sampler
from rljax.rollout.scoring import make_score
from rljax.rollout.turns import make_talking
from rljax.types import Prompts
from tests.conftest import noisy_params, quick_jit, tiny_config

END, PAD = 7, 0
SAMPLING = SamplingConfig(max_new_tokens=26, temperature=0.9, top_k=12)
KINDS: dict[str, tuple[dict, dict]] = {
    "looped": ({}, {"scan_layers": True}),
    "sliding": (
        {"positions": "learned", "sliding_window": 6, "layer_windows": (True, False)},
        {},
    ),
}


def prompts_of(rows: int = 4, group: int = 1) -> Prompts:
    tokens = jax.random.randint(jax.random.key(3), (rows // group, 6), 8, 61)
    mask = jnp.arange(6) >= jnp.array([0, 2, 1, 4])[: rows // group, None]
    tokens, mask = (jnp.repeat(x, group, axis=0) for x in (tokens, mask))
    samples = jnp.arange(rows) % group
    return Prompts(tokens, mask, jnp.arange(rows) // group, samples)


def head_of(config):
    return {"kernel": jnp.full((1, config.hidden_size), 0.3), "bias": jnp.ones(1)}


def talk(model, params, prompts, *, turns=3, width=5, group=1, head=None, sampling=SAMPLING):
    """Play turns; the answer to row b's turn t has (b + t) % 5 tokens, none at first for row 0;
    row 3 leaves early."""
    made = make_talking(model, sampling, (END,), PAD, max_turn_tokens=width, group=group)
    functions = [quick_jit(function) for function in made]
    prepared = functions[0](params, head)
    state = functions[1](prepared, prompts, jax.random.key(9))
    rows = len(prompts.tokens)
    live, written = jnp.ones(rows, bool), []
    for turn in range(turns):
        state, wrote = functions[2](prepared, state, live)
        written.append(wrote)
        counts = (jnp.arange(rows) + turn) % 5
        live &= (jnp.arange(rows) != 3) | (turn < 1)
        answer = jax.random.randint(jax.random.key(turn), (rows, 4), 8, 61)
        if turn < turns - 1:
            state = functions[3](prepared, state, answer, counts, live)
    return state, written


@pytest.fixture(
    params=[pytest.param(k, marks=pytest.mark.slow) if k == "looped" else k for k in KINDS]
)
def kind(request):
    config, options = KINDS[request.param]
    model = make_model(tiny_config(**config), **options)
    return model, noisy_params(model)


def test_what_was_kept_is_what_a_full_forward_computes(kind):
    model, params = kind
    prompts = prompts_of()
    head = head_of(model.config)
    state, written = talk(model, params, prompts, head=head)
    made = state.made
    scored = quick_jit(make_score(model, SAMPLING, (END,)))(params, prompts, made)
    np.testing.assert_allclose(scored.log_probs, made.log_probs, atol=1e-4)
    values = jnp.where(made.mask, apply_scalar_head(head, scored.hidden), 0)
    np.testing.assert_allclose(values, made.values, atol=1e-4)
    own = np.asarray(made.mask)
    assert (np.asarray(made.log_probs)[own] < 0).all()
    # conversations stand without gaps, and hold the turns in order
    seen = np.asarray(made.seen)
    assert (np.diff(seen.astype(int), axis=1) <= 0).all() and (own <= seen).all()
    assert (seen.sum(axis=1) == state.used).all() and (seen & ~own).sum() > 6
    for row in range(4):
        said = [int(t) for w in written for t in w.tokens[row][: int(w.counts[row])]]
        assert said == np.asarray(made.tokens)[row][own[row]].tolist()
    assert int(written[2].counts[3]) == 0 < int(written[1].counts[3])


def test_one_turn_is_the_plain_samplers_completion(tiny):
    model, params = tiny
    prompts, sampling = prompts_of(), SamplingConfig(max_new_tokens=9, temperature=0.9)
    plain = quick_jit(make_sampler(model, sampling, (END,), PAD))(
        params, head_of(model.config), prompts, jax.random.key(9)
    )
    state, _ = talk(
        model, params, prompts, turns=1, width=9, head=head_of(model.config), sampling=sampling
    )
    assert (state.made.tokens == plain.tokens).all() and (state.made.mask == plain.mask).all()
    assert (state.made.seen == plain.mask).all()
    np.testing.assert_allclose(state.made.log_probs, plain.log_probs, atol=1e-5)
    np.testing.assert_allclose(state.made.values, plain.values, atol=1e-5)


@pytest.mark.slow
def test_a_prompt_that_is_shared_is_read_once_with_the_same_result(tiny):
    model, params = tiny
    prompts = prompts_of(4, group=2)
    alone, _ = talk(model, params, prompts)
    shared, _ = talk(model, params, prompts, group=2)
    assert (alone.made.tokens == shared.made.tokens).all()
    np.testing.assert_allclose(alone.made.log_probs, shared.made.log_probs, atol=1e-5)
    score = make_score(model, SAMPLING, (END,))
    scored = quick_jit(functools.partial(score, group=2))(params, prompts, shared.made)
    np.testing.assert_allclose(scored.log_probs, shared.made.log_probs, atol=1e-4)
