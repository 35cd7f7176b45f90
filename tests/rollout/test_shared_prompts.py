"""A prompt that is computed once for its whole group, against once for each completion."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.models.transformer import make_model
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.sampler import make_sampler
from rljax.rollout.scoring import completion_hidden, make_score
from rljax.types import Prompts
from tests.conftest import noisy_params, quick_jit, tiny_config
from tests.models.test_transformer import OPTIONS

GROUP, EOS, PAD = 3, (3, 7, 11, 20, 31), 3
SAMPLING = SamplingConfig(max_new_tokens=10, temperature=1.0)
KEY = jax.random.key(42)


def grouped(left_padded) -> Prompts:
    tokens, mask = (jnp.repeat(x, GROUP, axis=0) for x in left_padded)
    ids = jnp.repeat(jnp.arange(3), GROUP)
    return Prompts(tokens, mask, ids, jnp.tile(jnp.arange(GROUP), 3))


QUICK = ("llama", "gemma")
FAMILIES = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in OPTIONS
]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    model = make_model(tiny_config(**OPTIONS[request.param]))
    return model, noisy_params(model)


@pytest.fixture
def made(family, left_padded):
    model, params = family
    prompts = grouped(left_padded)
    sample = make_sampler(model, SAMPLING, EOS, PAD)
    return prompts, quick_jit(sample)(params, None, prompts, KEY)


def test_samples_are_those_of_prompts_of_their_own(family, made):
    model, params = family
    prompts, apart = made
    sample = make_sampler(model, SAMPLING, EOS, PAD, group=GROUP)
    together = quick_jit(sample)(params, None, prompts, KEY)
    lengths = set(np.sum(together.mask, axis=1).tolist())
    assert len(lengths) > 2  # sequences that end early stand beside others
    np.testing.assert_array_equal(together.tokens, apart.tokens)
    np.testing.assert_array_equal(together.mask, apart.mask)
    np.testing.assert_allclose(together.log_probs, apart.log_probs, atol=1e-5)


def test_scores_and_gradients_are_those_of_prompts_of_their_own(family, made):
    model, params = family
    prompts, completions = made
    score = make_score(model, SAMPLING, EOS)

    def total(params, group):
        log_probs = score(params, prompts, completions, group=group).log_probs
        return jnp.sum(log_probs * jnp.cos(jnp.arange(log_probs.size).reshape(log_probs.shape)))

    apart, together = (
        quick_jit(jax.value_and_grad(functools.partial(total, group=group)))(params)
        for group in (1, GROUP)
    )
    np.testing.assert_allclose(together[0], apart[0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), together[1], apart[1])


def test_hidden_states_do_not_see_another_completion(tiny, left_padded):
    model, params = tiny
    prompts = grouped(left_padded)
    sample = quick_jit(make_sampler(model, SAMPLING, EOS, PAD, group=GROUP))
    completions = sample(params, None, prompts, KEY)
    hidden = quick_jit(
        lambda tokens: completion_hidden(
            model, params, prompts, completions._replace(tokens=tokens), GROUP
        )
    )
    before = hidden(completions.tokens)
    after = hidden(completions.tokens.at[4].set(17))
    changed = np.any(np.asarray(before != after), axis=(1, 2))
    np.testing.assert_array_equal(changed, np.arange(9) == 4)


def test_completions_of_one_token(tiny, left_padded):
    model, params = tiny
    prompts, sampling = grouped(left_padded), SamplingConfig(max_new_tokens=1, temperature=1.0)
    one = quick_jit(make_sampler(model, sampling, EOS, PAD, group=GROUP))
    made = one(params, None, prompts, KEY)
    score = quick_jit(functools.partial(make_score(model, sampling, EOS), group=GROUP))
    scored = score(params, prompts, made)
    np.testing.assert_allclose(scored.log_probs, made.log_probs, atol=1e-5)


def test_rows_that_are_no_whole_groups_have_prompts_of_their_own(tiny, left_padded):
    model, params = tiny
    prompts = grouped(left_padded)
    some = jax.tree.map(lambda x: x[2:7], prompts)  # the end of a group, one, and a part of another
    sample = quick_jit(make_sampler(model, SAMPLING, EOS, PAD, group=GROUP))
    whole, part = sample(params, None, prompts, KEY), sample(params, None, some, KEY)
    np.testing.assert_array_equal(part.tokens, whole.tokens[2:7])
    score = quick_jit(functools.partial(make_score(model, SAMPLING, EOS), group=GROUP))
    np.testing.assert_allclose(score(params, some, part).log_probs, part.log_probs, atol=1e-5)


@pytest.mark.slow
def test_layers_in_a_loop_share_prompts_too(left_padded):
    config = tiny_config(num_layers=3)
    params = noisy_params(make_model(config))
    prompts = grouped(left_padded)
    written, looped = (
        quick_jit(make_sampler(make_model(config, scan_layers=scan), SAMPLING, EOS, PAD, group=3))(
            params, None, prompts, KEY
        )
        for scan in (False, True)
    )
    np.testing.assert_array_equal(looped.tokens, written.tokens)
    np.testing.assert_allclose(looped.log_probs, written.log_probs, atol=1e-5)
