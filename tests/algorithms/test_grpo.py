"""Critic-free updates: every flag is read, methods agree where they must, failures cost nothing."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms.grpo import GRPOConfig
from rljax.kl import KLConfig
from tests.algorithms.conftest import SAMPLING
from tests.algorithms.test_ppo import differ

BASE = GRPOConfig(
    batch_size=8,
    samples_per_prompt=4,
    num_epochs=2,
    num_minibatches=2,
    kl=KLConfig(coef=0.1, estimator="k3"),
)
FIRST = dataclasses.replace(BASE, num_epochs=1, num_minibatches=1, kl=KLConfig(coef=0.0))

CHANGES = {
    "samples_per_prompt": 2,
    "num_epochs": 1,
    "num_minibatches": 4,
    "advantage": "group_mean",
    "whiten_advantages": True,
    "objective": "cispo",
    "ratio": "sequence",
    "clip_eps": 0.01,
    "clip_eps_high": 0.01,
    "loss_aggregation": "token",
    "entropy_coef": 0.1,
    "kl": KLConfig(coef=0.1, estimator="k2"),
    "kl_place": "score",
    "missing_eos_penalty": -3.0,
    "clip_scores": 0.5,
    "scale_scores": "mean_std",
    "truncate_token": 13,
    "mask_truncated": True,
    "overlong_buffer": 3,
}
WITH = {
    "dual_clip": ({"num_epochs": 4, "clip_eps": 0.9}, 1.0001),
    "kl_place": ({"kl_place": "score"}, "tokens"),
    "truncate_after": ({"truncate_token": 13, "truncate_after": 0}, 4),
    "truncate_penalty": ({"truncate_token": 13, "truncate_after": 2}, 5.0),
}
ELSEWHERE = {
    "target_entropy": "tests/algorithms/test_target_entropy.py",
    "entropy_rate": "tests/algorithms/test_target_entropy.py",
    "batch_size": "sizes of the batch: tests/experiments",
    "importance_cap": "tests/algorithms/test_importance.py",
    "measure_variance": "must not change the update: tests/algorithms/test_gradient_variance.py",
    "share_prompts": "must not change the update: test_sharing_prompts_changes_no_number",
    "gradient_accumulation": "must not change the update: test_parts_add_up",
    "length_buckets": "must not change the update: tests/algorithms/test_buckets.py",
    "score_rows": "must not change the update: tests/rollout/test_sampler.py",
    "dynamic_sampling": "the loop's: tests/training/test_batches.py",
    "ref_sync_every": "tests/experiments/test_on_policy.py",
    "ref_sync_mix": "tests/algorithms/test_ppo.py",
}


def test_no_field_is_forgotten():
    tested = set(CHANGES) | set(WITH) | set(ELSEWHERE)
    assert tested == {field.name for field in dataclasses.fields(GRPOConfig)}


@pytest.fixture(scope="module")
def rollout(world):
    return world.rollout(world.state(BASE))


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_flag_is_read(world, rollout, name):
    changed = dataclasses.replace(BASE, **{name: CHANGES[name]})
    mine = world.rollout(world.state(BASE), ppo=changed) if name == "truncate_token" else rollout
    state, _ = world.update(BASE, rollout=rollout)
    other, _ = world.update(changed, rollout=mine)
    assert differ(state.params, other.params)


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH)
def test_flag_is_read_beside_another(world, name):
    setting, value = WITH[name]
    without = dataclasses.replace(BASE, **setting)
    first, _ = world.update(without)
    second, _ = world.update(dataclasses.replace(without, **{name: value}))
    assert differ(first.params, second.params)


@pytest.mark.slow
@pytest.mark.parametrize("aggregation", ["token", "sequence", "constant"])
def test_parts_add_up(world, rollout, aggregation):
    # each with its own prompt: a quarter of the batch is no whole group, and rounds otherwise
    alone = dataclasses.replace(BASE, share_prompts=False)
    whole = dataclasses.replace(alone, num_minibatches=1, loss_aggregation=aggregation)
    split = dataclasses.replace(whole, gradient_accumulation=4)
    (a, metrics), (b, other) = (world.update(c, rollout=rollout) for c in (whole, split))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), a.params, b.params)
    for name in metrics:
        np.testing.assert_allclose(metrics[name], other[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "change",
    [
        {"objective": "reinforce", "clip_eps": None},
        {"objective": "cispo"},
        {"ratio": "sequence"},
        {"dual_clip": 3.0},
    ],
    ids=str,
)
def test_on_policy_all_ratio_forms_have_one_gradient(world, rollout, change):
    """At ratio 1 the surrogate, the detached weight and the sequence ratio have equal gradients."""
    _, usual = world.update(FIRST, rollout=rollout)
    state, _ = world.update(FIRST, rollout=rollout)
    other, metrics = world.update(dataclasses.replace(FIRST, **change), rollout=rollout)
    np.testing.assert_allclose(metrics["optim/grad_norm"], usual["optim/grad_norm"], rtol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=5e-5), state.params, other.params
    )


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_sharing_prompts_changes_no_number(world, rollout, parts):
    """In one minibatch, that is: smaller ones hold other sequences, whole groups of them."""
    shared = dataclasses.replace(FIRST, gradient_accumulation=parts, kl=BASE.kl)
    apart = dataclasses.replace(shared, share_prompts=False)
    assert (shared.learnt_group, apart.learnt_group) == (4 if parts < 4 else 1, 1)
    state, metrics = world.update(shared, rollout=rollout)
    other, numbers = world.update(apart, rollout=rollout)
    for name, value in metrics.items():
        np.testing.assert_allclose(value, numbers[name], rtol=1e-4, atol=1e-6, err_msg=name)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=5e-5), state.params, other.params
    )


@pytest.mark.parametrize("advantage", ["group_std", "leave_one_out", "batch_mean", "best"])
def test_a_failed_reward_teaches_nothing(world, rollout, advantage):
    """A score of NaN leaves what the completion holds without influence."""
    config = dataclasses.replace(FIRST, advantage=advantage)
    scores = world.scores.at[2].set(jnp.nan)
    state, metrics = world.update(config, rollout=rollout, scores=scores)
    assert metrics["health/reward_failures"] == 1
    assert all(np.isfinite(value) for value in metrics.values())
    made = rollout.completions
    other = rollout._replace(
        completions=made._replace(
            tokens=made.tokens.at[2].set(5), log_probs=made.log_probs.at[2].add(-1.0)
        )
    )
    same, _ = world.update(config, rollout=other, scores=scores)
    assert not differ(state.params, same.params)
    changed, _ = world.update(config, rollout=other)
    assert differ(state.params, changed.params)


@pytest.mark.slow
def test_greedy_and_moving_baselines(world, rollout):
    greedy = dataclasses.replace(FIRST, advantage="greedy")
    plain = dataclasses.replace(FIRST, advantage="none")
    with pytest.raises(ValueError, match="greedy"):
        world.update(greedy, rollout=rollout)
    zero, _ = world.update(greedy, rollout=rollout, more=(jnp.zeros(8),))
    none, _ = world.update(plain, rollout=rollout)
    assert not differ(zero.params, none.params, 1e-5)
    shifted, _ = world.update(plain, rollout=rollout, scores=world.scores - 0.7)
    one, _ = world.update(greedy, rollout=rollout, more=(jnp.full(8, 0.7),))
    assert not differ(one.params, shifted.params, 1e-5)
    # at the first step the moving mean is the batch's; later it is that of all scores before
    moving = dataclasses.replace(FIRST, advantage="moving_mean")
    first, _ = world.update(moving, rollout=rollout)
    mean, _ = world.update(dataclasses.replace(FIRST, advantage="batch_mean"), rollout=rollout)
    assert not differ(first.params, mean.params, 1e-5)
    state = world.state(FIRST)
    moments = state.score_moments._replace(count=jnp.float32(4), mean=jnp.float32(0.7))
    later, _ = world.update(moving, rollout=rollout, state=state._replace(score_moments=moments))
    assert not differ(later.params, shifted.params, 1e-5)


def test_cut_off_completions_are_not_learnt_from(world, rollout):
    config = dataclasses.replace(FIRST, mask_truncated=True, advantage="none")
    made = rollout.completions
    ended = np.any((np.asarray(made.tokens) == 3) & np.asarray(made.mask), axis=1)
    assert 0 < ended.sum() < 8
    state, _ = world.update(config, rollout=rollout)
    scores = jnp.where(ended, world.scores, 100.0)
    same, _ = world.update(config, rollout=rollout, scores=scores)
    assert not differ(state.params, same.params)


def test_ratios_of_later_updates_move(world, rollout):
    _, metrics = world.update(BASE, rollout=rollout)
    assert metrics["health/sampler_logprob_gap"] < 1e-5
    assert metrics["policy/ratio_max"] > 1.01


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"objective": "reinforce"}, "clip_eps is 0.2; it must be None with objective reinforce"),
        ({"clip_eps": None}, "clip_eps is None; it must be positive"),
        ({"objective": "reinforce", "clip_eps": None, "ratio": "sequence"}, "ratio is sequence"),
        ({"samples_per_prompt": 1}, "advantage is group_std; it must be one without a group"),
        ({"objective": "cispo", "dual_clip": 3.0}, "dual_clip"),
        ({"mask_truncated": True, "missing_eos_penalty": -1.0}, "mask_truncated"),
        ({"kl": KLConfig(coef=0.0), "kl_place": "score"}, "kl_place"),
        ({"dynamic_sampling": -1}, "dynamic_sampling"),
        ({"dynamic_sampling": 1, "advantage": "greedy"}, "dynamic_sampling"),
        ({"batch_size": 10}, "batch_size 10 is not a multiple"),
        ({"advantage": "greedy", "scale_scores": "std"}, "scale_scores is std; it must be none"),
        ({"advantage": "moving_mean", "clip_scores": 1.0}, "clip_scores is 1.0; it must be None"),
    ],
)
def test_choices_that_exclude_each_other_are_refused(world, changes, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        dataclasses.replace(BASE, **changes).validate()


def test_the_kl_on_tokens_counts_what_follows(world, rollout):
    """With no score, the KL on tokens gives each token minus the KL from it on."""
    from rljax.algorithms.grpo import token_advantages

    config = dataclasses.replace(BASE, kl_place="tokens")
    mask = jnp.array([[True, True, True, False]])
    kl = jnp.array([[1.0, 2.0, 4.0, 8.0]])
    got = token_advantages(config, jnp.array([10.0]), kl, mask, 0.5)
    np.testing.assert_allclose(got, [[10 - 3.5, 10 - 3, 10 - 2, 0]])
    assert SAMPLING.max_new_tokens == rollout.completions.mask.shape[1]
