"""PPO's update: every flag is read, parts add up, and what must stand still stands still."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms.actor_critic import sync_reference
from rljax.algorithms.ppo import PPOConfig
from rljax.kl import KLConfig
from rljax.rollout.distribution import SamplingConfig
from tests.algorithms.conftest import BASE, OPTIMIZER, SAMPLING


def leaves(tree) -> list[np.ndarray]:
    return [np.asarray(x) for x in jax.tree.leaves(tree)]


def differ(a, b, tolerance: float = 1e-7) -> bool:
    return any(
        x.shape != y.shape or np.max(np.abs(x - y), initial=0) > tolerance
        for x, y in zip(leaves(a), leaves(b), strict=True)
    )


# A value that must change the update, for every field; where another field has to be on first,
# both sides of the comparison have it.
CHANGES = {
    "num_epochs": 1,
    "num_minibatches": 4,
    "clip_eps": 0.01,
    "clip_eps_high": 0.01,
    "value_clip_eps": None,
    "value_coef": 0.7,
    "entropy_coef": 0.1,
    "gamma": 0.5,
    "gae_lambda": 0.2,
    "value_lambda": 0.2,
    "whiten_rewards": False,
    "whiten_advantages": False,
    "whiten_ddof": 1,
    "critic_warmup_steps": 1,
    "missing_eos_penalty": -3.0,
    "clip_scores": 0.5,
    "scale_scores": "std",
    "truncate_token": 13,
}
WITH = {
    "dual_clip": ({"num_epochs": 4, "clip_eps": 0.9}, 1.0001),
    "scale_scores": ({"scale_scores": "std"}, "mean_std"),
    "truncate_after": ({"truncate_token": 13, "truncate_after": 0}, 4),
    "truncate_penalty": ({"truncate_token": 13, "truncate_after": 2}, 5.0),
    "mask_top_p": ({"mask_top_p": 0.3, "mask_min_tokens": 2}, 0.9),
    "mask_min_tokens": ({"mask_top_p": 0.3, "mask_min_tokens": 2}, 12),
}
ELSEWHERE = {
    "target_entropy": "tests/algorithms/test_target_entropy.py",
    "entropy_rate": "tests/algorithms/test_target_entropy.py",
    "batch_size": "sizes of the batch: tests/experiments",
    "importance_cap": "tests/algorithms/test_importance.py",
    "measure_variance": "must not change the update: tests/algorithms/test_gradient_variance.py",
    "share_prompts": "must not change the update: test_sharing_prompts_changes_no_number",
    "samples_per_prompt": "sizes of the batch: tests/experiments",
    "gradient_accumulation": "must not change the update: test_parts_add_up",
    "length_buckets": "must not change the update: tests/algorithms/test_buckets.py",
    "score_rows": "must not change the update: tests/rollout/test_sampler.py",
    "loss_aggregation": "test_loss_aggregation_is_read",
    "critic": "test_separate_critic_leaves_the_policy_gradient_alone",
    "kl": "test_kl_settings_are_read",
    "ref_sync_every": "tests/experiments/test_on_policy.py",
    "ref_sync_mix": "test_reference_sync",
    "mask_sync_every": "tests/algorithms/test_nlpo.py, tests/experiments/test_on_policy.py",
}


def test_no_field_is_forgotten():
    tested = set(CHANGES) | set(WITH) | set(ELSEWHERE)
    assert tested == {field.name for field in dataclasses.fields(PPOConfig)}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_flag_is_read(world, baseline, name):
    rollout, (state, _) = baseline
    changed = dataclasses.replace(BASE, **{name: CHANGES[name]})
    other, _ = world.update(changed, rollout=rollout)
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
@pytest.mark.parametrize(
    "kl",
    [
        KLConfig(coef=0.3, controller="openai", target=0.5, horizon=100.0),
        KLConfig(coef=0.1, controller="fixed"),
        KLConfig(coef=0.1, controller="rl4lms", target=0.5),
        KLConfig(coef=0.1, controller="openai", target=50.0, horizon=100.0),
        KLConfig(coef=0.1, controller="openai", target=0.5, horizon=300.0),
        KLConfig(coef=0.1, controller="openai", target=0.5, horizon=100.0, estimator="k3"),
    ],
    ids=str,
)
def test_kl_settings_are_read(world, baseline, kl):
    rollout, (state, _) = baseline
    other, _ = world.update(dataclasses.replace(BASE, kl=kl), rollout=rollout)
    assert differ((state.params, state.kl_coef), (other.params, other.kl_coef))


@pytest.mark.parametrize("mode", ["sequence", "constant"])
def test_loss_aggregation_is_read(world, baseline, mode):
    rollout, (state, _) = baseline
    changed = dataclasses.replace(BASE, loss_aggregation=mode)
    other, _ = world.update(changed, rollout=rollout)
    assert differ(state.params, other.params)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{"temperature": 0.5}, {"top_k": 5}, {"top_p": 0.6}, {"min_p": 0.3}, {"min_new_tokens": 4},
     {"max_new_tokens": 4}],
    ids=str,
)  # fmt: skip
def test_sampling_is_read(world, baseline, changes):
    _, (state, _) = baseline
    other, metrics = world.update(sampling=dataclasses.replace(SAMPLING, **changes))
    assert differ(state.params, other.params)
    assert metrics["health/sampler_logprob_gap"] < 1e-5


def test_first_update_is_on_policy(baseline):
    _, metrics = baseline[1]
    assert metrics["health/sampler_logprob_gap"] < 1e-5
    assert metrics["policy/ratio_max"] > 1.01  # later updates are not


def test_a_batch_sampled_otherwise_is_noticed(world):
    state = world.state()
    rollout = world.rollout(state, SamplingConfig(max_new_tokens=6, temperature=0.6))
    _, metrics = world.update(state=state, rollout=rollout)
    assert metrics["health/sampler_logprob_gap"] > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("mode", ["token", "sequence", "constant"])
def test_parts_add_up(world, baseline, parts, mode):
    rollout, _ = baseline
    config = dataclasses.replace(BASE, num_minibatches=1, num_epochs=1, loss_aggregation=mode)
    whole, whole_metrics = world.update(config, rollout=rollout)
    split, split_metrics = world.update(
        dataclasses.replace(config, gradient_accumulation=parts), rollout=rollout
    )
    for a, b in zip(leaves(whole.params), leaves(split.params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    for name, value in whole_metrics.items():
        np.testing.assert_allclose(value, split_metrics[name], atol=1e-4, err_msg=name)


def test_warm_up_moves_only_the_critic(world, baseline):
    rollout, _ = baseline
    config = dataclasses.replace(BASE, critic_warmup_steps=1)
    first, _ = world.update(config, rollout=rollout)
    assert not differ(first.params["policy"], world.policy)
    assert differ(first.params["value_head"], world.state().params["value_head"])
    second, _ = world.update(config, state=first, rollout=rollout)
    assert differ(second.params["policy"], world.policy)


@pytest.mark.slow
def test_separate_critic_leaves_the_policy_gradient_alone(world):
    config = dataclasses.replace(BASE, critic="separate", num_epochs=1, num_minibatches=1)
    unclipped = dataclasses.replace(OPTIMIZER, max_grad_norm=None)
    some, _ = world.update(config, optimizer=unclipped)
    more, _ = world.update(dataclasses.replace(config, value_coef=5.0), optimizer=unclipped)
    assert not differ(some.params["policy"], more.params["policy"])
    assert differ(some.params["critic"], more.params["critic"])
    # A head that is still zero sends no gradient into a shared trunk; one that has learnt does.
    shared = dataclasses.replace(config, critic="shared")
    state = world.state(shared, unclipped)
    head = {"kernel": jnp.full((1, 16), 0.3), "bias": jnp.zeros(1)}
    state = state._replace(params=state.params | {"value_head": head})
    a, _ = world.update(shared, optimizer=unclipped, state=state)
    more_value = dataclasses.replace(shared, value_coef=5.0)
    b, _ = world.update(more_value, optimizer=unclipped, state=state)
    assert differ(a.params["policy"], b.params["policy"])


@pytest.mark.slow
@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_sharing_prompts_changes_no_number(world, critic):
    config = dataclasses.replace(BASE, critic=critic, num_minibatches=1, samples_per_prompt=4)
    rollout = world.rollout(world.state(config), ppo=config)
    together, metrics = world.update(config, rollout=rollout)
    alone = dataclasses.replace(config, share_prompts=False)
    apart, numbers = world.update(alone, rollout=rollout)
    for name, value in metrics.items():
        np.testing.assert_allclose(value, numbers[name], rtol=1e-3, atol=1e-5, err_msg=name)
    for a, b in zip(leaves(together.params), leaves(apart.params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


def test_reference_sync(world):
    state = world.state()
    half = sync_reference(state, 0.5).ref_params
    for r, p, m in zip(leaves(world.reference), leaves(world.policy), leaves(half), strict=True):
        np.testing.assert_allclose(m, (r + p) / 2, atol=1e-6)
    assert not differ(sync_reference(state, 1.0).ref_params, world.policy)


def test_metrics_ignore_padding(world, baseline):
    rollout, (_, metrics) = baseline
    mask = np.asarray(rollout.completions.mask)
    assert (~mask).sum() > 0  # there is padding to ignore
    made = rollout.completions
    kl = np.where(mask, np.asarray(made.log_probs) - np.asarray(rollout.ref_log_probs), 0)
    np.testing.assert_allclose(metrics["objective/kl"], kl.sum(1).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["completion/length"], mask.sum(1).mean())
    ended = (np.isin(np.asarray(made.tokens), [3]) & mask).any(1)
    np.testing.assert_allclose(metrics["completion/eos_fraction"], ended.mean())
    np.testing.assert_allclose(metrics["completion/truncated_fraction"], 1 - ended.mean())
    np.testing.assert_allclose(metrics["objective/scores"], np.mean(world.scores), rtol=1e-6)
    np.testing.assert_allclose(
        metrics["objective/score_total"],
        metrics["objective/scores"] + metrics["objective/non_score_reward"],
        rtol=1e-5,
    )


def test_padding_content_never_reaches_the_update(world, baseline):
    rollout, (state, _) = baseline
    mask = rollout.completions.mask
    junk = jnp.where(mask, rollout.completions.tokens, 11)
    dirty = rollout._replace(completions=rollout.completions._replace(tokens=junk))
    other, _ = world.update(rollout=dirty)
    for a, b in zip(leaves(state.params), leaves(other.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


FAILING = dataclasses.replace(BASE, missing_eos_penalty=-3.0, scale_scores="mean_std")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["token", "sequence", "constant"])
def test_a_completion_without_a_score_is_masked_out(world, baseline, mode):
    rollout, _ = baseline
    config = dataclasses.replace(FAILING, loss_aggregation=mode)
    failed = jnp.asarray([2, 5])
    scores = world.scores.at[failed].set(jnp.nan)
    state, metrics = world.update(config, rollout=rollout, scores=scores)
    # The same batch with those sequences masked out, and scores that must then not matter.
    made = rollout.completions
    mask = made.mask.at[failed].set(False)
    emptied = made._replace(
        mask=mask,
        log_probs=jnp.where(mask, made.log_probs, 0),
        values=jnp.where(mask, made.values, 0),
    )
    without = rollout._replace(
        completions=emptied, ref_log_probs=jnp.where(mask, rollout.ref_log_probs, 0)
    )
    other, _ = world.update(config, rollout=without, scores=scores)
    for a, b in zip(leaves(state.params), leaves(other.params), strict=True):
        np.testing.assert_array_equal(a, b)
    assert all(np.isfinite(value) for value in metrics.values())
    assert metrics["health/reward_failures"] == 2
    assert not differ(state.score_moments.count, 6.0)


def test_what_failed_does_not_matter_and_the_rest_does(world, baseline):
    rollout, (state, metrics) = baseline
    assert metrics["health/reward_failures"] == 0
    made = rollout.completions
    failed = jnp.asarray([2, 5])
    scores = world.scores.at[failed].set(jnp.nan)
    junk = made._replace(
        log_probs=made.log_probs.at[failed].add(-3.0), values=made.values.at[failed].set(50.0)
    )
    first, counted = world.update(rollout=rollout, scores=scores)
    second, _ = world.update(rollout=rollout._replace(completions=junk), scores=scores)
    assert not differ(first.params, second.params)
    assert differ(first.params, state.params)
    kept = np.delete(np.asarray(scores), failed)
    np.testing.assert_allclose(counted["objective/scores"], kept.mean(), rtol=1e-6)
    np.testing.assert_allclose(counted["objective/scores_std"], kept.std(), rtol=1e-5)
    # KL needs no score: it is that of the whole batch.
    np.testing.assert_allclose(counted["objective/kl"], metrics["objective/kl"], rtol=1e-6)


def test_a_batch_without_any_score_teaches_nothing(world, baseline):
    rollout, _ = baseline
    state, metrics = world.update(rollout=rollout, scores=jnp.full(8, jnp.nan))
    assert not differ(state.params, world.state().params)
    assert metrics["optim/grad_norm"] == 0 and metrics["health/reward_failures"] == 8
    assert all(np.isfinite(value) for value in metrics.values())


def test_kl_controller_and_step_move(world, baseline):
    _, (state, metrics) = baseline
    error = np.clip(metrics["objective/kl"] / 0.5 - 1, -0.2, 0.2)
    np.testing.assert_allclose(state.kl_coef, 0.1 * (1 + error * 8 / 100), rtol=1e-5)
    assert int(state.step) == 1


@pytest.mark.parametrize(
    "changes, word",
    [
        ({"batch_size": 10, "num_minibatches": 4}, "multiple"),
        ({"batch_size": 9, "num_minibatches": 1, "samples_per_prompt": 2}, "samples_per_prompt"),
        ({"num_epochs": 0}, "num_epochs"),
        ({"clip_eps": 1.5}, "clip_eps"),
        ({"dual_clip": 0.9}, "dual_clip"),
        ({"gamma": 1.1}, "gamma"),
        ({"gae_lambda": -0.1}, "gae_lambda"),
        ({"clip_scores": 0.0}, "clip_scores"),
        ({"ref_sync_mix": 0.0}, "ref_sync_mix"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(changes, word):
    with pytest.raises(ValueError, match=word):
        dataclasses.replace(BASE, **changes).validate()
