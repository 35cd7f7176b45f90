"""Completions in the smallest width that holds them: the numbers are those of the whole width."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms.buckets import FILL, SLOTS
from rljax.algorithms.grpo import GRPOConfig
from rljax.algorithms.online_dpo import OnlineDPOConfig
from rljax.algorithms.ppo import PPOConfig
from rljax.experiment import PPOExperiment
from rljax.kl import KLConfig
from rljax.rollout.buckets import (
    Buckets,
    bucket_widths,
    in_smallest_bucket,
    length_order,
    map_by_length,
)
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.scoring import make_score
from tests.algorithms.conftest import EOS, SAMPLING
from tests.conftest import quick_jit

LENGTHS = jnp.array([6, 1, 2, 1, 3, 3, 1, 2])
SIZES = {"batch_size": 8, "samples_per_prompt": 4, "num_epochs": 1, "gradient_accumulation": 2}
PPO = PPOConfig(**SIZES, kl=KLConfig(coef=0.1))
GRPO = GRPOConfig(**SIZES, loss_aggregation="constant")
ALONE = {"share_prompts": False, "num_minibatches": 2}
CASES = {
    "ppo": PPO,
    "ppo, prompts alone": dataclasses.replace(PPO, **ALONE),
    "ppo, separate critic": dataclasses.replace(PPO, critic="separate", num_minibatches=2),
    "nlpo": dataclasses.replace(PPO, mask_top_p=0.5, mask_min_tokens=2),
    "grpo": GRPO,
    "grpo, prompts alone": dataclasses.replace(GRPO, **ALONE, ratio="sequence"),
    "online dpo": OnlineDPOConfig(batch_size=8, samples_per_prompt=2, gradient_accumulation=4),
}


@pytest.fixture(scope="module")
def written(world):
    """Rollouts whose completions have the lengths above."""

    def make(config):
        masked = config if getattr(config, "action_mask", None) else PPO
        rollout = world.rollout(world.state(masked), ppo=masked)
        mask = jnp.arange(6) < LENGTHS[:, None]
        completions = rollout.completions
        cut = jax.tree.map(
            lambda x: jnp.where(mask, x, jnp.zeros_like(x)), completions._replace(mask=mask)
        )
        ref_log_probs = jnp.where(mask, rollout.ref_log_probs, 0)
        return rollout._replace(completions=cut, ref_log_probs=ref_log_probs)

    return make


def test_widths_are_halves_and_end_at_the_last_slot():
    assert bucket_widths(48, 4) == (6, 12, 24, 48)
    assert bucket_widths(10, 3) == (3, 5, 10)
    assert bucket_widths(3, 99) == (1, 2, 3)
    assert bucket_widths(7, 1) == (7,)


@pytest.mark.parametrize("longest, width", [(0, 2), (2, 2), (3, 4), (6, 6)])
def test_the_smallest_width_that_holds_the_longest(longest, width):
    found = in_smallest_bucket((2, 4, 6), jnp.int32(longest), lambda width: jnp.int32(width))
    assert found == width


def test_rows_are_sorted_and_groups_stay_whole():
    assert length_order(LENGTHS, 1).tolist() == [1, 3, 6, 2, 7, 4, 5, 0]
    assert length_order(LENGTHS, 2).tolist() == [2, 3, 6, 7, 4, 5, 0, 1]
    assert length_order(LENGTHS, 4).tolist() == [4, 5, 6, 7, 0, 1, 2, 3]


def test_scores_come_back_in_their_places(world, written):
    score = make_score(world.model, SAMPLING, EOS)
    rollout = written(PPO)
    text = (rollout.prompts, rollout.completions)

    def log_probs(policy, buckets, group):
        def some(prompts, completions):
            return score(policy, prompts, completions, group=group).log_probs

        return map_by_length(some, *text, text[1].mask, buckets, group)

    whole, together, apart = quick_jit(
        lambda policy: (
            log_probs(policy, Buckets(), 1),
            log_probs(policy, Buckets(3, 8), 4),
            log_probs(policy, Buckets(2, 4), 1),
        )
    )(world.policy)
    np.testing.assert_allclose(together, whole, atol=1e-5)
    np.testing.assert_allclose(apart, whole, atol=1e-5)
    assert np.all((whole != 0) == text[1].mask)


QUICK = ("ppo",)


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES],
)
def test_numbers_are_those_of_the_whole_width(world, written, name):
    whole = CASES[name]
    rollout = written(whole)
    (a, metrics), (b, other) = (
        world.update(dataclasses.replace(whole, length_buckets=count), rollout=rollout)
        for count in (1, 3)
    )
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), a.params, b.params)
    for key in metrics.keys() - {FILL, SLOTS}:
        np.testing.assert_allclose(metrics[key], other[key], rtol=1e-4, atol=1e-5, err_msg=key)
    assert other[FILL] > metrics[FILL]
    assert other[SLOTS] < metrics[SLOTS] == 6


@pytest.mark.slow
def test_fill_is_the_share_of_real_tokens(world, written):
    """Parts of rows of 1, 1, 1, 2 and of 2, 3, 3, 6 tokens, in widths 2 and 6 of 2, 3, 6."""
    alone = dataclasses.replace(PPO, share_prompts=False)
    rollout = written(alone)
    _, whole = world.update(alone, rollout=rollout)
    _, short = world.update(dataclasses.replace(alone, length_buckets=3), rollout=rollout)
    np.testing.assert_allclose(whole[FILL], 19 / 48, rtol=1e-6)
    np.testing.assert_allclose(short[FILL], 19 / 32, rtol=1e-6)
    np.testing.assert_allclose(short[SLOTS], 4, rtol=1e-6)


def test_more_widths_than_halves_are_refused():
    Buckets(3).require_slots(4)
    with pytest.raises(ValueError, match="length_buckets is 4, but sampling.max_new_tokens 7 can"):
        Buckets(4).require_slots(7)
    sampling = SamplingConfig(max_new_tokens=7)
    with pytest.raises(ValueError, match="cannot be halved 3 times"):
        PPOExperiment(ppo=PPOConfig(length_buckets=4), sampling=sampling).validate()
    with pytest.raises(ValueError, match="length_buckets is 0; it must be at least 1"):
        PPOConfig(length_buckets=0).validate()
