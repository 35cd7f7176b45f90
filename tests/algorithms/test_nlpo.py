"""PPO's update under an action mask: NLPO."""

import dataclasses

import jax
import numpy as np
import pytest

from rljax.algorithms.actor_critic import init_state, sync_mask
from rljax.algorithms.ppo import PPOConfig
from rljax.kl import make_kl_controller
from tests.algorithms.conftest import BASE, OPTIMIZER, SAMPLING, make_chain

MASKED = dataclasses.replace(BASE, mask_top_p=0.5, mask_min_tokens=3)


def same(a, b) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


@pytest.fixture(scope="module")
def updated(world):
    state = world.state(MASKED)
    rollout = world.rollout(state, ppo=MASKED)
    return rollout, *world.update(MASKED, state=state, rollout=rollout)


def test_the_first_update_is_on_policy(updated):
    _, _, metrics = updated
    assert metrics["health/sampler_logprob_gap"] < 1e-5
    assert metrics["policy/ratio_max"] > 1.01  # later updates are not


def test_the_masking_policy_stands_still(world, updated):
    _, state, _ = updated
    assert same(state.mask_params, world.masking)
    assert not same(state.params["policy"], world.policy)


def test_the_mask_is_read(world, updated):
    rollout, state, _ = updated
    unmasked = rollout._replace(
        completions=rollout.completions._replace(allowed=None), mask_hidden=None
    )
    plain, metrics = world.update(rollout=unmasked)
    assert not same(state.params, plain.params)
    assert metrics["health/sampler_logprob_gap"] > 0.1
    assert "policy/allowed_tokens" not in metrics


def test_allowed_tokens_are_counted(updated):
    rollout, _, metrics = updated
    allowed, mask = np.asarray(rollout.completions.allowed), np.asarray(rollout.completions.mask)
    np.testing.assert_allclose(metrics["policy/allowed_tokens"], allowed[mask].mean(), rtol=1e-6)
    assert 3 <= metrics["policy/allowed_tokens"] < 17


def test_the_reference_is_masked_alike(world, updated):
    """Both distributions live on the allowed tokens, so no log-prob is below the plain one's."""
    rollout, _, _ = updated
    made, mask = rollout.completions, np.asarray(rollout.completions.mask)
    plain = world.program(world._score, SAMPLING)
    ref = plain(world.reference, world.prompts, made._replace(allowed=None)).log_probs
    gain = np.asarray(rollout.ref_log_probs - ref)[mask]
    assert np.all(gain > -1e-5) and np.mean(gain) > 0.1


def test_the_first_masking_policy_is_the_policy(world):
    state = init_state(
        world.policy, 16, make_chain(OPTIMIZER), critic="shared",
        kl_coef=make_kl_controller(BASE.kl).init(), masked=True,
    )  # fmt: skip
    assert same(state.mask_params, world.policy)
    assert world.state().mask_params is None


def test_a_sync_copies_the_policy(updated):
    _, state, _ = updated
    synced = sync_mask(state)
    assert same(synced.mask_params, synced.params["policy"])
    assert same(synced.params, state.params)


def test_when_a_sync_is_due():
    every = dataclasses.replace(MASKED, mask_sync_every=3)
    assert [step for step in range(1, 10) if every.mask_is_due(step)] == [3, 6, 9]
    assert [step for step in range(1, 11) if MASKED.mask_is_due(step)] == [5, 10]
    never = dataclasses.replace(MASKED, mask_sync_every=0)
    assert not any(config.mask_is_due(step) for config in (never, BASE) for step in range(1, 10))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"mask_top_p": 0.0}, r"mask_top_p is 0.0; it must be in \(0, 1\]"),
        ({"mask_top_p": 0.9, "mask_min_tokens": 0}, "mask_min_tokens is 0; it must be at least 1"),
        ({"mask_top_p": 0.9, "mask_sync_every": -1}, "mask_sync_every is -1; it must be at least"),
        ({"mask_min_tokens": 10}, "mask_min_tokens is 10, but mask_top_p is 1"),
        ({"mask_sync_every": 1}, "mask_sync_every is 1, but mask_top_p is 1"),
    ],
)
def test_impossible_masks_are_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        PPOConfig(**flags).validate()
