"""Tiny experiments with token rewards, and runs of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from rljax.algorithms import grpo, ppo
from rljax.algorithms.grpo import GRPOConfig
from rljax.algorithms.ppo import PPOConfig
from rljax.experiment import (
    CHANGEABLE,
    GRPOExperiment,
    ModelConfig,
    OnPolicyExperiment,
    PPOExperiment,
)
from rljax.kl import KLConfig
from rljax.rollout.distribution import SamplingConfig
from rljax.tasks import TaskConfig
from rljax.training.flags import validate
from rljax.training.on_policy import train
from rljax.training.optimizer import OptimizerConfig
from rljax.training.run import open_run
from rljax.training.setup import OnPolicy
from tests.conftest import numbers

REWARD = """
import jax.numpy as jnp
from rljax.rewards import token_reward

@token_reward
def parity(prompts, completions):
    even = completions.mask & (completions.tokens % 2 == 0)
    return even.sum(axis=1) / completions.mask.shape[1]

@token_reward
def sometimes(prompts, completions):
    return jnp.where(completions.tokens[:, 0] % 4 == 0, jnp.nan, 1.0)

@token_reward
def flaky(prompts, completions):
    even = completions.mask & (completions.tokens % 2 == 0)
    return jnp.where(completions.tokens[:, 0] % 4 == 0, jnp.nan, even.sum(axis=1) / 3.0)

def text(prompts, completions):
    return [0.0 for _ in completions]
"""
ADAPTIVE = KLConfig(coef=0.1, controller="openai", horizon=50.0)
METHODS = {
    "ppo": PPOConfig(batch_size=8, num_epochs=2, num_minibatches=2, kl=ADAPTIVE, ref_sync_every=2),
    "grpo": GRPOConfig(batch_size=8, samples_per_prompt=4, num_minibatches=2, entropy_coef=0.01),
    "remax": GRPOConfig(
        batch_size=4, samples_per_prompt=1, advantage="greedy", objective="reinforce",
        clip_eps=None,
    ),
    "nlpo": PPOConfig(batch_size=4, num_epochs=1, mask_top_p=0.9, mask_sync_every=2),
}  # fmt: skip


def make_experiment(
    folder: Path, name: str, workdir: str = "", reward: str = "parity", **changes
) -> OnPolicyExperiment:
    """Make the experiment of a method; a run of it goes into a directory under `folder`."""
    (folder / "reward.py").write_text(REWARD)
    method = METHODS[name]
    kind, field = (
        (PPOExperiment, "ppo") if isinstance(method, PPOConfig) else (GRPOExperiment, "grpo")
    )
    base = kind(
        model=ModelConfig(source="random:tiny-llama"),
        task=TaskConfig(
            prompts="arithmetic:4", prompt_tokens=None, held_out_fraction=0.3,
            reward=(f"{folder}/reward.py:{reward}", "partial_match_tokens"),
            reward_weights=(1.0, 0.5),
        ),
        sampling=SamplingConfig(max_new_tokens=3, temperature=1.0),
        optimizer=OptimizerConfig(learning_rate=0.01),
        steps=6,
        eval_prompts=0,
        workdir=str(folder / workdir),
        **{field: method},
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def setup_of(config: OnPolicyExperiment) -> OnPolicy:
    validate(config)
    is_ppo = isinstance(config, PPOExperiment)
    make_update = (ppo if is_ppo else grpo).make_update
    return OnPolicy(config, make_update, config.ppo.critic if is_ppo else "none")


def run(config: OnPolicyExperiment) -> list[dict]:
    with open_run(config.workdir, config, ignore=CHANGEABLE) as directory:
        train(setup_of(config), directory)
        return numbers(directory.directory)


def assert_same_numbers(found: list[dict], expected: list[dict], rtol: float = 2e-4) -> None:
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for row, other in zip(found, expected, strict=True):
        assert row.keys() == other.keys()
        for name in row:
            assert row[name] == pytest.approx(other[name], rel=rtol, abs=1e-6), name
