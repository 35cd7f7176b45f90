"""A token MDP as the reward of fused training: a language model learns to act in it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms import grpo
from rljax.environments import exact
from rljax.environments.token_mdp import random_mdp
from rljax.kl import KLConfig
from rljax.training.fused_runs import run_fused
from tests.experiments.conftest import unoptimised
from tests.training.fused_cases import METHODS, assert_same_numbers, make_experiment, run

MINE = """
import jax
from rljax.environments.token_mdp import as_token_reward, random_mdp

mdp = random_mdp(jax.random.key(2), 4, 3, branching=1, end_probability=0.0)
reward = as_token_reward(mdp, horizon=3)
"""


@pytest.mark.slow
def test_a_model_learns_to_act_in_an_mdp_inside_one_program(tmp_path):
    """The best sequence of 3 actions is known by backward induction; random play is far from it."""
    (tmp_path / "mdp.py").write_text(MINE)
    method = dataclasses.replace(METHODS["grpo"], batch_size=32, kl=KLConfig(coef=0.0))
    config = make_experiment(tmp_path, "grpo", "loop", steps=60, grpo=method)
    task = dataclasses.replace(config.task, reward=f"{tmp_path}/mdp.py:reward", reward_weights=None)
    config = dataclasses.replace(config, task=task)
    mdp = random_mdp(jax.random.key(2), 4, 3, branching=1, end_probability=0.0)
    best = float(exact.finite_horizon_values(mdp, horizon=3, gamma=1.0)[3, 0])
    uniform = jnp.full((4, 3), 1 / 3)
    chance = float(exact.finite_horizon_values(mdp, horizon=3, gamma=1.0, policy=uniform)[3, 0])
    with unoptimised():
        runs = run_fused(config, grpo.make_update, "none", seeds=(0, 1))
        scores = runs.metrics["objective/scores"]
        assert np.all(np.abs(scores[:, :5].mean(axis=1) - chance) < 0.5 * (best - chance))
        assert np.all(scores[:, -5:].mean(axis=1) > chance + 0.8 * (best - chance)), scores
        assert np.all(scores <= best + 1e-4)
        short = dataclasses.replace(config, steps=3)
        fused = dataclasses.replace(short, fused_steps=2, workdir=str(tmp_path / "fused"))
        assert_same_numbers(run(fused), run(short))
