"""Online DPO: the pairs, the loss against offline DPO's, every flag, failures, and learning."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms.actor_critic import init_state, make_act, make_collect
from rljax.algorithms.online_dpo import OnlineDPOConfig, choose_pairs, make_update
from rljax.kl import KLConfig
from rljax.models.transformer import make_model
from rljax.preference_losses import dpo_loss
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.scoring import make_score
from rljax.training.optimizer import OptimizerConfig, make_optimizer
from rljax.types import Prompts
from tests.algorithms.conftest import EOS, SAMPLING
from tests.algorithms.test_ppo import differ
from tests.conftest import quick_jit, tiny_config

BASE = OnlineDPOConfig(batch_size=8, samples_per_prompt=2, beta=0.5)


@pytest.fixture(scope="module")
def rollout(world):
    return world.rollout(world.state(BASE))


def test_the_best_and_the_worst_of_each_prompt_make_its_pair(rollout):
    scores = jnp.array([3.0, 1.0, 2.0, 0.0, 5.0, 5.0, 5.0, 5.0])
    good = jnp.array([True, True, True, False, True, True, True, True])
    batch, places, signs = choose_pairs(rollout, scores, good, 4)
    np.testing.assert_array_equal(places[0], [0, 1])
    tokens = rollout.completions.tokens
    np.testing.assert_array_equal(batch.tokens[0], tokens[jnp.array([0, 1])])
    np.testing.assert_array_equal(batch.weights, [1, 0])  # the second group is of one mind
    np.testing.assert_array_equal(signs, [1, -1, 0, 0, 0, 0, 0, 0])
    assert batch.margins[0] == 2
    sums = rollout.ref_log_probs.sum(axis=1)
    np.testing.assert_allclose(batch.ref_log_probs[0], sums[jnp.array([0, 1])])
    np.testing.assert_array_equal(batch.prompt_tokens[0], rollout.prompts.tokens[0])
    alone = jnp.array([True, False, False, False, False, False, False, False])
    assert not np.any(choose_pairs(rollout, scores, alone, 4)[0].weights)


def test_the_loss_is_that_of_dpo_on_the_pairs(world, rollout):
    config = dataclasses.replace(BASE, label_smoothing=0.1, margin_scale=0.2)
    _, metrics = world.update(config, rollout=rollout)
    scores = np.asarray(world.scores).reshape(4, 2)
    ratio = np.asarray(rollout.completions.log_probs - rollout.ref_log_probs)
    ratio = ratio.sum(axis=1).reshape(4, 2)
    order = np.argsort(-scores, axis=1)
    chosen, rejected = np.take_along_axis(ratio, order, axis=1).T
    margins = 0.2 * np.abs(scores[:, 0] - scores[:, 1])
    losses = dpo_loss(chosen, rejected, beta=0.5, label_smoothing=0.1, margins=margins)
    np.testing.assert_allclose(metrics["policy/loss"], np.mean(losses), rtol=1e-3)
    np.testing.assert_allclose(metrics["rewards/chosen"], 0.5 * chosen.mean(), rtol=1e-3)
    assert metrics["health/sampler_logprob_gap"] < 1e-5
    assert metrics["objective/informative_groups"] == 1


CHANGES = {
    "samples_per_prompt": 4,
    "num_epochs": 2,
    "num_minibatches": 2,
    "loss": "ipo",
    "beta": 0.1,
    "label_smoothing": 0.2,
    "margin_scale": 0.5,
    "missing_eos_penalty": -9.0,
    "truncate_token": 9,
}
WITH = {
    "clip_scores": ({"margin_scale": 0.5}, 0.5),
    "scale_scores": ({"margin_scale": 0.5}, "std"),
    "truncate_after": ({"truncate_after": 0, "margin_scale": 0.5}, 4),
    "truncate_penalty": ({"truncate_token": 13, "truncate_after": 0}, 9.0),
}
ELSEWHERE = {
    "target_entropy": "refused: test_impossible_settings_are_refused",
    "entropy_rate": "refused: tests/algorithms/test_target_entropy.py",
    "batch_size": "sizes of the batch: tests/experiments",
    "share_prompts": "the sampler's: tests/rollout/test_shared_prompts.py",
    "gradient_accumulation": "must not change the update: test_parts_add_up",
    "length_buckets": "must not change the update: tests/algorithms/test_buckets.py",
    "score_rows": "must not change the update: tests/rollout/test_sampler.py",
    "ref_sync_every": "the loop's: tests/experiments",
    "ref_sync_mix": "tests/algorithms/test_ppo.py",
    "kl": "refused: test_impossible_settings_are_refused",
    "entropy_coef": "refused: test_impossible_settings_are_refused",
    "loss_aggregation": "refused: test_impossible_settings_are_refused",
    "importance_cap": "refused: test_impossible_settings_are_refused",
    "measure_variance": "must not change the update: tests/algorithms/test_gradient_variance.py",
}


def test_no_field_is_forgotten():
    tested = set(CHANGES) | set(WITH) | set(ELSEWHERE)
    assert tested == {field.name for field in dataclasses.fields(OnlineDPOConfig)}


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
def test_flag_is_read_beside_another(world, rollout, name):
    setting, value = WITH[name]
    if name == "truncate_after":  # of the tokens before that slot the most frequent one
        made = rollout.completions
        early = np.asarray(made.tokens)[:, :value][np.asarray(made.mask)[:, :value]]
        frequent = np.bincount(early[~np.isin(early, EOS)]).argmax()
        setting = setting | {"truncate_token": int(frequent)}
    without = dataclasses.replace(BASE, **setting)
    first, _ = world.update(without)
    second, _ = world.update(dataclasses.replace(without, **{name: value}))
    assert differ(first.params, second.params)


@pytest.mark.slow
def test_parts_add_up(world, rollout):
    whole, metrics = world.update(BASE, rollout=rollout)
    split, split_metrics = world.update(
        dataclasses.replace(BASE, gradient_accumulation=2), rollout=rollout
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), whole.params, split.params
    )
    for name, value in metrics.items():
        np.testing.assert_allclose(split_metrics[name], value, atol=1e-4, err_msg=name)


def test_failed_rewards_and_equal_scores_teach_nothing(world, rollout):
    scores = jnp.array([1.0, 0.0, jnp.nan, 3.0, 2.0, 2.0, 0.0, 1.0])
    state, metrics = world.update(BASE, rollout=rollout, scores=scores)
    junk = rollout.completions._replace(
        tokens=rollout.completions.tokens.at[2:6].set(11),
        log_probs=rollout.completions.log_probs.at[2:6].add(-1.0),
    )
    other, _ = world.update(BASE, rollout=rollout._replace(completions=junk), scores=scores)
    assert not differ(state.params, other.params)
    assert metrics["objective/informative_groups"] == 0.5
    assert metrics["health/reward_failures"] == 1
    nothing, metrics = world.update(BASE, rollout=rollout, scores=jnp.full(8, jnp.nan))
    assert not differ(nothing.params, world.state(BASE).params)
    assert metrics["policy/loss"] == 0


STEPS, BATCH = 40, 32


@functools.lru_cache
def training():
    """Compile (sign, keys) -> mean score of each step: say token 7."""
    model = make_model(tiny_config(vocab_size=12))
    sampling = SamplingConfig(max_new_tokens=5, temperature=1.0)
    config = OnlineDPOConfig(
        batch_size=BATCH, samples_per_prompt=4, num_epochs=2, num_minibatches=2, beta=0.1
    )
    optimizer = make_optimizer(
        OptimizerConfig(learning_rate=5e-3, schedule="constant"), num_steps=STEPS
    )
    collect = make_collect(make_act(model, sampling, (3,), 3), make_score(model, sampling, (3,)))
    update = make_update(model, config, sampling, (3,), optimizer)

    def run(sign, keys):
        state = init_state(
            model.init(jax.random.key(0)), 32, optimizer, critic="none", kl_coef=jnp.float32(0)
        )

        def step(state, key):
            prompt_key, sample_key, shuffle_key = jax.random.split(key, 3)
            tokens = jnp.repeat(jax.random.randint(prompt_key, (BATCH // 4, 3), 4, 12), 4, axis=0)
            samples = jnp.tile(jnp.arange(4), BATCH // 4)
            prompts = Prompts(tokens, tokens > 0, jnp.arange(BATCH) // 4, samples)
            rollout = collect(state.params, state.ref_params, prompts, sample_key)
            made = rollout.completions
            scores = jnp.mean((made.tokens == 7) & made.mask, axis=1, dtype=jnp.float32)
            state, _ = update(state, rollout, sign * scores, shuffle_key)
            return state, jnp.mean(scores)

        return jax.lax.scan(step, state, keys)[1]

    return quick_jit(run)


@pytest.mark.slow
@pytest.mark.parametrize("sign, low, high", [(1.0, 0.5, 1.0), (-1.0, 0.0, 0.05)])
def test_it_learns_what_the_reward_prefers(sign, low, high):
    scores = training()(sign, jax.random.split(jax.random.key(1), STEPS))
    assert np.mean(scores[:3]) < 0.25
    assert low <= np.mean(scores[-3:]) <= high


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"samples_per_prompt": 1}, "at least 2: a pair"),
        ({"num_minibatches": 8}, "multiple of num_minibatches"),
        ({"kl": KLConfig(coef=0.1)}, "beta ties the policy"),
        ({"entropy_coef": 0.1}, "there is no entropy bonus"),
        ({"target_entropy": 1.0}, "entropy_coef is 0.0; it must be above 0 with target_entropy"),
        ({"loss_aggregation": "sequence"}, "the loss is one of pairs"),
        ({"importance_cap": 2.0}, "a preference holds whoever wrote the pair"),
        ({"loss": "hinge", "margin_scale": 0.1}, "'hinge' does not read it"),
        ({"beta": 0.0}, "must be positive"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(BASE, **changes).validate()


@pytest.mark.slow
def test_sampling_is_read(world, rollout):
    hot = dataclasses.replace(SAMPLING, temperature=0.5)
    state, _ = world.update(BASE, rollout=rollout)
    other, metrics = world.update(BASE, sampling=hot)
    assert differ(state.params, other.params)
    assert metrics["health/sampler_logprob_gap"] < 1e-5
