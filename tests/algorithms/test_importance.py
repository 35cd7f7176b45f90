"""Truncated importance weights: the function by hand, the gradient exactly, the updates' wiring."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rljax.algorithms.actor_critic import init_state
from rljax.algorithms.grpo import GRPOConfig, make_update
from rljax.algorithms.importance import importance_metrics
from rljax.environments.tabular import World
from rljax.kl import KLConfig
from rljax.losses import truncated_importance_weights
from rljax.rollout.distribution import SamplingConfig
from rljax.types import Completions, Rollout
from tests.algorithms.conftest import BASE as PPO
from tests.algorithms.conftest import SAMPLING
from tests.algorithms.test_grpo import FIRST as GRPO
from tests.algorithms.test_ppo import differ
from tests.conftest import noisy_params, quick_jit

ONE_PASS = dataclasses.replace(PPO, num_epochs=1, num_minibatches=1)


def test_weights_by_hand():
    log_ratio = jnp.log(jnp.array([[0.5, 1.0, 3.0, 8.0]])).at[0, 3].set(200.0)  # overflows exp
    mask = jnp.array([[True, True, True, True]])
    weights = truncated_importance_weights(log_ratio, mask, cap=2.0)
    np.testing.assert_allclose(weights, [[0.5, 1.0, 2.0, 2.0]], rtol=1e-6)
    padded = truncated_importance_weights(log_ratio, mask.at[0, 1].set(False), cap=2.0)
    np.testing.assert_allclose(padded, [[0.5, 0.0, 2.0, 2.0]], rtol=1e-6)
    grad = jax.grad(lambda x: jnp.sum(truncated_importance_weights(x, mask, cap=2.0)))(log_ratio)
    np.testing.assert_array_equal(grad, 0)


def test_metrics_by_hand():
    ratio = np.array([[0.5, 1.0, 3.0, 7.0]])
    mask = jnp.array([[True, True, True, False]])
    old, proximal = jnp.full((1, 4), -1.0), jnp.asarray(np.log(ratio) - 1, jnp.float32)
    weights = truncated_importance_weights(proximal - old, mask, cap=2.0)
    got = importance_metrics(old, proximal, proximal - old, weights, mask, cap=2.0)
    assert got["importance/weight_mean"] == pytest.approx(3.5 / 3)
    assert got["importance/ratio_max"] == pytest.approx(3)
    assert got["importance/capped_fraction"] == pytest.approx(1 / 3)
    assert got["importance/effective_samples"] == pytest.approx(3.5**2 / (3 * 5.25))
    kl = np.mean(ratio[0, :3] - 1 - np.log(ratio[0, :3]))
    assert got["importance/kl"] == pytest.approx(kl, rel=1e-5)
    assert got["health/sampler_logprob_gap"] == pytest.approx(np.log(3), rel=1e-5)
    mean = np.mean(np.abs(np.log(ratio[0, :3])))
    assert got["health/sampler_logprob_mean_gap"] == pytest.approx(mean, rel=1e-5)
    nothing = importance_metrics(old, proximal, old, 0 * weights, mask & False, cap=2.0)
    assert all(float(value) == 0 for value in nothing.values())


# A uniform policy has sampled each of 6 one-token completions once; another one learns from them.
WORLD, BETA = World(6, 1, eos=None), 0.3
POLICY = jnp.asarray(np.random.default_rng(2).normal(size=(1, 6)), jnp.float32)
PLAIN = {"objective": "reinforce", "clip_eps": None}


def step(**changes) -> tuple[jax.Array, dict]:
    """What a step of gradient ascent at rate 1 adds to the policy's table, and its metrics."""
    tokens = jnp.asarray(WORLD.tokens)
    made = Completions(
        tokens, jnp.ones(tokens.shape, bool), jnp.full(tokens.shape, -jnp.log(6.0)),
        jnp.zeros(tokens.shape),
    )  # fmt: skip
    prompts = WORLD.prompts(jnp.arange(6), jnp.zeros(6, jnp.int32))
    rollout = Rollout(prompts, made, WORLD.token_log_probs(WORLD.reference))
    config = GRPOConfig(
        **({"batch_size": 6, "samples_per_prompt": 1, "advantage": "none", "kl_place": "score",
            "importance_cap": 1e3, "kl": KLConfig(coef=BETA, estimator="k1")} | changes)
    )  # fmt: skip
    ascent = optax.sgd(1.0)
    state = init_state(
        {"table": POLICY}, 1, ascent, critic="none", kl_coef=jnp.float32(config.kl.coef)
    )
    state = state._replace(ref_params={"table": WORLD.reference})
    update = make_update(
        WORLD.model, config, SamplingConfig(max_new_tokens=1, temperature=1.0), (), ascent
    )
    made, metrics = quick_jit(update)(state, rollout, WORLD.rewards, jax.random.key(0))
    return made.params["policy"]["table"] - POLICY, metrics


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(PLAIN, marks=pytest.mark.slow),
        {"kl_place": "tokens"},
        pytest.param({"objective": "cispo"}, marks=pytest.mark.slow),
        pytest.param({"ratio": "sequence"}, marks=pytest.mark.slow),
    ],
    ids=["reinforce", "clip", "cispo", "sequence"],
)
def test_the_gradient_is_the_learning_policys_own(form):
    """That of E[r] - beta KL at the policy that learns, though a uniform one has sampled."""
    got, metrics = step(**form)
    np.testing.assert_allclose(got, jax.grad(WORLD.objective)(POLICY, BETA), atol=2e-6)
    assert metrics["policy/ratio_max"] == pytest.approx(1, abs=1e-5)  # learnt / proximal
    probabilities = np.asarray(jax.nn.softmax(POLICY))
    assert metrics["importance/ratio_max"] == pytest.approx(6 * probabilities.max(), rel=1e-5)
    assert metrics["importance/weight_mean"] == pytest.approx(1, abs=1e-5)


def test_a_kl_in_the_loss_is_weighted_too():
    def kl(table):
        policy, reference = jax.nn.log_softmax(table), jax.nn.log_softmax(WORLD.reference)
        return jnp.sum(jnp.exp(policy) * (policy - reference))

    got, _ = step(kl_place="loss", kl=KLConfig(coef=BETA, estimator="k2"), **PLAIN)
    expected = jax.grad(lambda x: WORLD.objective(x, 0.0) - BETA * kl(x))(POLICY)
    np.testing.assert_allclose(got, expected, atol=2e-6)


def test_the_cap_bounds_the_weights():
    got, metrics = step(importance_cap=1.5, kl=KLConfig(coef=0.0), kl_place="loss", **PLAIN)

    def capped(table):
        weights = jnp.minimum(6 * jax.nn.softmax(POLICY), 1.5) / 6
        return jnp.sum(weights[0] * WORLD.rewards * WORLD.token_log_probs(table)[:, 0])

    np.testing.assert_allclose(got, jax.grad(capped)(POLICY), atol=2e-6)
    above = np.mean(6 * np.asarray(jax.nn.softmax(POLICY)) > 1.5)
    assert metrics["importance/capped_fraction"] == pytest.approx(above) and above > 0


@pytest.fixture(scope="module")
def stale(world):
    """A batch that other parameters sampled than those that learn."""
    state = world.state(ONE_PASS)
    earlier = {**state.params, "policy": noisy_params(world.model, seed=3, scale=0.23)}
    return world.rollout(state._replace(params=earlier))


@pytest.mark.slow
@pytest.mark.parametrize("config", [ONE_PASS, GRPO], ids=["ppo", "grpo"])
def test_on_policy_the_weights_are_one(world, config):
    rollout = world.rollout(world.state(config))
    state, metrics = world.update(config, rollout=rollout)
    weighted = dataclasses.replace(config, importance_cap=50.0)
    other, report = world.update(weighted, rollout=rollout)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=5e-5), state.params, other.params
    )
    assert report["importance/weight_mean"] == pytest.approx(1, abs=1e-5)
    assert report["importance/effective_samples"] == pytest.approx(1, abs=1e-5)
    assert report["importance/kl"] < 1e-8 and report["importance/capped_fraction"] == 0
    for name, value in metrics.items():
        assert report[name] == pytest.approx(float(value), rel=1e-3, abs=2e-5), name


@pytest.mark.parametrize(
    "config", [pytest.param(ONE_PASS, marks=pytest.mark.slow), GRPO], ids=["ppo", "grpo"]
)
def test_a_stale_batch_is_weighted(world, stale, config):
    states, reports = zip(
        *(
            world.update(dataclasses.replace(config, importance_cap=cap), rollout=stale)
            for cap in (None, 1.05, 50.0)
        ),
        strict=True,
    )
    for other in states[1:]:
        assert differ(states[0].params, other.params)
    assert differ(states[1].params, states[2].params)
    assert reports[0]["policy/ratio_max"] > 1.05
    for report in reports[1:]:  # the clip is around the policy that the step starts from
        assert report["policy/ratio_max"] == pytest.approx(1, abs=1e-4)
        assert report["policy/clip_fraction"] == 0
        # one pass over the batch: the plain ratio is the weight that has no cap
        ratio = float(reports[0]["policy/ratio_max"])
        assert report["importance/ratio_max"] == pytest.approx(ratio, rel=1e-4)
        gap = float(reports[0]["health/sampler_logprob_gap"])
        assert report["health/sampler_logprob_gap"] == pytest.approx(gap, rel=1e-4)
        assert report["importance/kl"] > 1e-4 and report["importance/effective_samples"] < 0.9999
        assert report["objective/kl"] == pytest.approx(float(reports[0]["objective/kl"]))
    assert 0 == reports[2]["importance/capped_fraction"] < reports[1]["importance/capped_fraction"]


@pytest.mark.slow
def test_log_probs_that_are_given_are_not_computed_again(world, stale):
    config = dataclasses.replace(ONE_PASS, importance_cap=50.0)
    state = world.state(config)
    score = world.program(world._score, SAMPLING)
    scored = score(state.params["policy"], stale.prompts, stale.completions)
    given = stale._replace(proximal_log_probs=scored.log_probs)
    one, other = (world.update(config, rollout=rollout) for rollout in (stale, given))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-6), one, other)
    wrong = stale._replace(proximal_log_probs=scored.log_probs + 0.1)
    _, report = world.update(config, rollout=wrong)
    ratio = float(one[1]["importance/ratio_max"])
    assert report["importance/ratio_max"] == pytest.approx(np.exp(0.1) * ratio, rel=1e-4)


@pytest.mark.slow
def test_weights_under_an_action_mask(world):
    """The policy that a step starts from is masked as the one that sampled: their ratio is 1."""
    masked = dataclasses.replace(
        ONE_PASS, mask_top_p=0.3, mask_min_tokens=2, importance_cap=2.0, samples_per_prompt=4
    )
    _, report = world.update(masked)
    assert report["importance/ratio_max"] == pytest.approx(1, abs=1e-4)


@pytest.mark.slow
def test_parts_add_up_under_weights(world, stale):
    whole = dataclasses.replace(ONE_PASS, importance_cap=1.05, entropy_coef=0.1)
    split = dataclasses.replace(whole, gradient_accumulation=4)
    (a, metrics), (b, other) = (world.update(c, rollout=stale) for c in (whole, split))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=5e-6), a.params, b.params)
    for name in metrics:
        np.testing.assert_allclose(metrics[name], other[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("config", [PPO, GRPO], ids=["ppo", "grpo"])
def test_a_cap_below_one_is_refused(config):
    with pytest.raises(ValueError, match=r"importance_cap is 0\.5; it must be at least 1"):
        dataclasses.replace(config, importance_cap=0.5).validate()
