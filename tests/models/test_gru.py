"""The recurrent model: one definition for scoring, groups and sampling; padding says nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.models.gru import make_gru
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.sampler import make_sampler
from rljax.rollout.scoring import make_score
from rljax.types import Prompts
from tests.conftest import quick_jit

MODEL = make_gru(7, 8)
PARAMS = jax.tree.map(lambda x: x + 0.1, MODEL.init(jax.random.key(0)))
TOKENS = jnp.array([[1, 2, 3, 4], [5, 6, 0, 1]])


def test_the_states_are_those_of_the_equations():
    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    p = {name: np.asarray(x, np.float64) for name, x in PARAMS.items()}
    state = np.zeros(8)
    for token in np.asarray(TOKENS[0]):
        given, own = p["embed"][token] + p["bias"], state @ p["recurrent"]
        update = sigmoid(given[:8] + own[:8])
        reset = sigmoid(given[8:16] + own[8:16])
        new = np.tanh(given[16:] + reset * own[16:])
        state = (1 - update) * new + update * state
    np.testing.assert_allclose(MODEL.hidden(PARAMS, TOKENS)[0, -1], state, atol=1e-5)


def test_left_padding_changes_nothing():
    padded = jnp.pad(TOKENS, ((0, 0), (3, 0)), constant_values=6)
    mask = jnp.pad(jnp.ones_like(TOKENS, bool), ((0, 0), (3, 0)))
    found = MODEL.hidden(PARAMS, padded, mask)[:, 3:]
    np.testing.assert_allclose(found, MODEL.hidden(PARAMS, TOKENS), atol=1e-6)


@pytest.mark.parametrize("group", [1, 2])
def test_what_is_sampled_is_what_is_scored(group):
    sampling = SamplingConfig(max_new_tokens=5, temperature=0.8)
    rows = jnp.repeat(TOKENS[:, :3], 2, axis=0)
    mask = jnp.ones_like(rows, bool).at[2:, 0].set(False)
    prompts = Prompts(rows, mask, jnp.array([0, 0, 1, 1]), jnp.array([0, 1, 0, 1]))
    sample = quick_jit(make_sampler(MODEL, sampling, (0,), 0, group=group))
    made = sample(PARAMS, None, prompts, jax.random.key(3))
    assert int(jnp.sum(made.mask)) > 4
    scored = quick_jit(make_score(MODEL, sampling, (0,)))(PARAMS, prompts, made).log_probs
    grouped = make_score(MODEL, sampling, (0,))(PARAMS, prompts, made, group=2).log_probs
    np.testing.assert_allclose(made.log_probs, scored, atol=1e-5)
    np.testing.assert_allclose(made.log_probs, grouped, atol=1e-5)


def test_documents_in_one_row_are_refused():
    with pytest.raises(ValueError, match="segments"):
        MODEL.hidden(PARAMS, TOKENS, None, jnp.zeros_like(TOKENS))
