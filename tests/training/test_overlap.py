"""Sampling ahead of the rewards: what is asked for when, and which flags it goes with."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms.grpo import GRPOConfig
from rljax.algorithms.ppo import PPOConfig
from rljax.experiment import GRPOExperiment, OnlineDPOExperiment, PPOExperiment
from rljax.training import overlap
from rljax.training.batches import Collected, Sampled
from rljax.training.mesh import MeshConfig
from rljax.types import Completions, Prompts, Rollout, TrainState

GRPO = GRPOExperiment(overlap=True, grpo=GRPOConfig(importance_cap=2.0))
PPO = PPOExperiment(overlap=True, ppo=PPOConfig(importance_cap=2.0))


def state_of(step: int, ahead=None) -> TrainState:
    return TrainState({}, {}, (), jnp.float32(0), (), jnp.int32(step), ahead=ahead)


def rollout_of(step: int, prompts: Prompts) -> Rollout:
    """A batch that says with which parameters it was sampled."""
    shape = (2, 3)
    tokens = jnp.full(shape, step)
    made = Completions(tokens, tokens >= 0, jnp.full(shape, -1.0), jnp.full(shape, 0.5))
    return Rollout(prompts, made, jnp.full(shape, -2.0))


@pytest.fixture
def calls(monkeypatch):
    """What was called, in order, in place of models and rewards."""
    made: list[tuple] = []

    def sample(setup, state, draw):
        made.append(("sample", draw, int(state.step)))
        return Sampled(*setup.training_batch(draw))._replace(
            rollout=rollout_of(int(state.step), setup.training_batch(draw)[1])
        )

    def judge(setup, sampled):
        token = int(sampled.rollout.completions.tokens[0, 0])
        made.append(("judge", int(sampled.rollout.prompts.ids[0]), token))
        scores = np.zeros(2, np.float32)
        return Collected(sampled.rollout, [], [], scores, {}, {"reward": 0.25}, 2)

    monkeypatch.setattr(overlap, "sample", sample)
    monkeypatch.setattr(overlap, "judge", judge)
    monkeypatch.setattr(overlap, "decode_completions", lambda *unused: ["a", "b"])
    return made


@pytest.fixture
def setup(calls, monkeypatch):
    def training_batch(step):
        ids = np.full(2, step, np.int32)
        tokens = np.zeros((2, 4), np.int32)
        return ids, Prompts(tokens, tokens == 0, ids, ids)

    def check_first_step(setup, state, rollout, texts):
        tokens = rollout.completions.tokens
        calls.append(("check", int(rollout.prompts.ids[0]), int(tokens[0, 0]), int(state.step)))

    def log_probs(state, rollout):
        tokens = rollout.completions.tokens
        calls.append(("score", int(rollout.prompts.ids[0]), int(tokens[0, 0]), int(state.step)))
        return jnp.full(tokens.shape, -3.0)

    monkeypatch.setattr(overlap, "check_first_step", check_first_step)
    return SimpleNamespace(
        training_batch=training_batch, tokenizer=None, log_probs=log_probs, algorithm=GRPO.grpo
    )


def test_the_next_batch_is_asked_for_before_this_one_is_judged(setup, calls):
    state, steps = overlap.sample_first(setup, state_of(0)), []
    for step in range(3):
        batch, ahead = overlap.collect_ahead(setup, state, step, first=step == 0)
        steps.append(batch)
        state = state_of(step + 1, ahead)
    assert calls == [
        ("sample", 0, 0),
        ("score", 0, 0, 0), ("sample", 1, 0),
        ("check", 1, 0, 0), ("judge", 0, 0),  # sampler and learner have one policy
        ("score", 1, 0, 1), ("sample", 2, 1), ("judge", 1, 0),  # sampled before update 0
        ("score", 2, 1, 2), ("sample", 3, 2), ("judge", 2, 1),
    ]  # fmt: skip
    assert [overlap.staleness(step) for step in range(3)] == [0, 1, 1]
    for batch in steps:
        np.testing.assert_array_equal(batch.rollout.proximal_log_probs, -3.0)
        assert batch.seconds["reward"] == 0.25 and set(batch.seconds) == {"rollout", "reward"}


def test_a_batch_that_is_kept_comes_back_whole(setup):
    _, prompts = setup.training_batch(5)
    rollout = rollout_of(7, prompts)
    kept = overlap.keep(rollout)
    again = kept.rollout(prompts)
    assert jax.tree.structure(again) == jax.tree.structure(rollout)
    jax.tree.map(np.testing.assert_array_equal, again, rollout)


def test_shapes_are_those_of_a_checkpoint():
    shapes = overlap.ahead_shapes(GRPO)
    size = (GRPO.grpo.batch_size, GRPO.sampling.max_new_tokens)
    assert {leaf.shape for leaf in shapes} == {size}
    assert (shapes.tokens.dtype, shapes.mask.dtype) == (jnp.int32, jnp.bool_)


@pytest.mark.parametrize(
    "experiment, changes, words",
    [
        (GRPO, {"importance_cap": None}, "set importance_cap"),
        (GRPO, {"dynamic_sampling": 2}, "dynamic_sampling, which samples more"),
        (GRPO, {"advantage": "greedy"}, "advantage greedy, which samples more"),
        (PPO, {"importance_cap": None}, "set importance_cap"),
        (PPO, {"mask_top_p": 0.9}, "mask_top_p, which has a masking policy"),
        (GRPO, {"fused_steps": 5}, "fused_steps, which has no rewards on the host"),
        (GRPO, {"mesh": MeshConfig(distributed=True)}, "a mesh of several processes"),
    ],
    ids=str,
)
def test_what_does_not_go_with_it_is_refused(experiment, changes, words):
    experiment.validate()
    name = next(iter(changes))
    if hasattr(experiment, name):
        wrong = dataclasses.replace(experiment, **changes)
    else:
        part = "ppo" if experiment is PPO else "grpo"
        inner = dataclasses.replace(getattr(experiment, part), **changes)
        wrong = dataclasses.replace(experiment, **{part: inner})
    with pytest.raises(ValueError, match=words):
        wrong.validate()
    dataclasses.replace(wrong, overlap=False).validate()


def test_pairs_need_no_weights():
    OnlineDPOExperiment(overlap=True).validate()
