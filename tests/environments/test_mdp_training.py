"""A token MDP as the reward of fused training: a language model learns to act in it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms import grpo
from rljax.environments import exact
from rljax.environments.token_mdp import sequence_bandit
from rljax.kl import KLConfig
from rljax.training.fused_runs import run_fused
from tests.experiments.conftest import unoptimised
from tests.training.fused_cases import METHODS, make_experiment

MINE = """
import jax
from rljax.environments.token_mdp import as_token_reward, sequence_bandit

reward = as_token_reward(sequence_bandit(jax.random.normal(jax.random.key(2), (3, 3))), horizon=3)
"""


@pytest.mark.slow
def test_a_model_learns_to_act_in_an_mdp_inside_one_program(tmp_path):
    """It goes half of the way from uniform play to the best arm, both known exactly.

    At this rate the policy is soon certain of its arm; 40 steps from a random start, one seed.
    """
    (tmp_path / "mdp.py").write_text(MINE)
    method = dataclasses.replace(METHODS["grpo"], batch_size=32, kl=KLConfig(coef=0.0))
    config = make_experiment(tmp_path, "grpo", steps=40, grpo=method)
    task = dataclasses.replace(config.task, reward=f"{tmp_path}/mdp.py:reward", reward_weights=None)
    config = dataclasses.replace(config, task=task)
    mdp = sequence_bandit(jax.random.normal(jax.random.key(2), (3, 3)))
    best = float(exact.value_iteration(mdp, gamma=1.0).values[0])
    chance = float(exact.evaluate_policy(mdp, jnp.full((3, 3), 1 / 3), gamma=1.0)[0])
    with unoptimised():
        runs = run_fused(config, grpo.make_update, "none")
    scores = (runs.metrics["objective/scores"][0] - chance) / (best - chance)
    assert abs(np.mean(scores[:5])) < 0.25 and np.all(scores <= 1 + 1e-5), scores
    assert np.mean(scores[-5:]) > 0.4, scores
