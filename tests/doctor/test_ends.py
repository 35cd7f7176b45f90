"""The chance that a completion ends, read off a scoring program, is the model's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.doctor.ends import end_probabilities
from rljax.doctor.policy import longest_batch
from rljax.rollout.keys import Role, role_key
from tests.experiments.conftest import unoptimised
from tests.training.fused_cases import make_experiment, setup_of


@pytest.mark.slow
def test_the_chance_of_an_end_is_that_of_the_next_token(tmp_path):
    config = make_experiment(tmp_path, "grpo")
    with unoptimised():
        setup = setup_of(config)
        state, (_, prompts) = setup.first_state(), longest_batch(setup)
        group, key = setup.algorithm.sampled_group, role_key(0, Role.SAMPLING, 0)
        made = setup.act(state, prompts, key, group)
        rollout = setup.rollout(state, prompts, made, group)
        found = iter(end_probabilities(setup, state, rollout))
        tokens, mask = np.asarray(made.tokens), np.asarray(made.mask)
        compared = 0
        for row in range(len(tokens)):
            place = row % tokens.shape[1]
            if not mask[row, place]:
                continue
            before = [*prompts.tokens[row][prompts.mask[row]], *tokens[row, :place]]
            logits = setup.model.apply(state.params["policy"], jnp.asarray([before]))[0, -1]
            expected = jax.nn.softmax(logits)[jnp.asarray(sorted(set(setup.ends)))].sum()
            assert next(found) == pytest.approx(float(expected), rel=1e-3)
            compared += 1
    assert compared >= 5 and next(found, None) is None
