"""Nano PPO with a detail left out: each fault does what it says, and nothing else is wrong."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms.ppo import PPOConfig
from rljax.models.gru import make_gru
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.keys import Role, role_key
from rljax.rollout.scoring import make_score
from rljax.sweeps.faults import DROPPED, FaultyPPO, Sentences, drop_states
from rljax.sweeps.nano import QUICK, collect, make_parts, start_of
from rljax.training.errors import ConfigError
from rljax.training.flags import validate
from rljax.types import Completions

WORLD = Sentences(alphabet=4, letters=2, period=0.5)
TINY = FaultyPPO(
    world=WORLD,
    hidden_size=8,
    pretrain_steps=20,
    sampling=SamplingConfig(max_new_tokens=4, temperature=0.5),
    ppo=PPOConfig(batch_size=16, num_epochs=2),
    steps=2,
)


def test_a_period_ends_an_answer_as_the_end_token_does():
    word = 5  # a permutation of two letters
    answer = sorted(WORLD.words()[word].tolist())
    stop, eos = WORLD.full_stop, WORLD.eos
    rows = [
        [*answer, stop, eos],  # cut behind the period
        [*answer, eos, eos],
        [*answer, stop, eos],  # cut before the period
        [*answer[::-1], stop, eos],
        [*answer, stop, eos],
    ]
    lengths = np.asarray([3, 3, 2, 3, 4])
    mask = jnp.arange(4) < lengths[:, None]
    zeros = jnp.zeros(mask.shape, jnp.float32)
    made = Completions(jnp.asarray(rows), mask, zeros, zeros)
    judged = WORLD.judge(jnp.full(len(rows), word), made)
    assert judged["score"].tolist() == [1, 1, 0, 0, 1]
    assert judged["period"].tolist() == [1, 0, 0, 1, 1]


@pytest.mark.slow
def test_dropout_is_another_for_each_batch_and_keeps_the_mean():
    model = make_gru(6, 32)
    dropped = drop_states(model)
    params = model.init(jax.random.key(0))
    one, other = jax.random.randint(jax.random.key(1), (2, 64, 7), 0, 6)
    real = jnp.ones((64, 7), bool)
    whole, left, again, else_ = (
        np.asarray(kind.hidden_groups(params, text[:, :2], real[:, :2], text[:, 2:], real[:, 2:]))
        for kind, text in ((model, one), (dropped, one), (dropped, one), (dropped, other))
    )
    np.testing.assert_array_equal(left, again)
    assert np.mean((left == 0) != (else_ == 0)) > DROPPED  # 0.18 of independent ones
    assert np.mean(left == 0) == pytest.approx(DROPPED, abs=0.01)
    np.testing.assert_allclose(left[left != 0], whole[left != 0] / (1 - DROPPED), rtol=1e-6)


def make_step(parts):
    """Compile a step: state -> rollout, the state after it, metrics."""

    def step(state):
        rollout, scores, _ = collect(parts, state, role_key(0, Role.SAMPLING, state.step))
        after, metrics = parts.update(state, rollout, scores, jax.random.key(0))
        return rollout, after, metrics

    return jax.jit(step, compiler_options=QUICK)


def run_of(fault):
    """Take a step: parts, the state before it and after it, the rollout, the step's metrics."""
    config = dataclasses.replace(TINY, fault=fault)
    parts = make_parts(config)
    state = parts.first_state(start_of(WORLD, config.hidden_size, config.pretrain_steps))

    return parts, state, *make_step(parts)(state)


@pytest.mark.slow
def test_each_fault_does_one_thing():
    runs = {name: run_of(name) for name in ("none", "temperature", "value_head", "dropout")}
    for name, (_, state, rollout, _, metrics) in runs.items():
        np.testing.assert_array_equal(  # the sampler has no fault
            rollout.completions.tokens, runs["none"][2].completions.tokens
        )
        assert np.any(state.params["value_head"]["kernel"]) == (name == "value_head")
        assert np.any(rollout.completions.values) == (name == "value_head")
        assert (metrics["policy/first_clip_fraction"] > 0) == (name == "dropout")
        assert (metrics["health/sampler_logprob_gap"] > 1e-4) == (name == "dropout")
        assert abs(metrics["objective/kl"]) < 1e-5


@pytest.mark.slow
def test_only_scoring_forgets_the_temperature():
    for name, temperature in (("none", 0.5), ("temperature", 1.0)):
        parts, state, rollout, after, _ = run_of(name)
        sampling = dataclasses.replace(TINY.sampling, temperature=temperature)
        score = make_score(parts.model, sampling, (WORLD.eos,))
        own = score(state.params["policy"], rollout.prompts, rollout.completions).log_probs
        np.testing.assert_allclose(rollout.completions.log_probs, own, atol=1e-5)
        np.testing.assert_allclose(rollout.ref_log_probs, own, atol=1e-5)
        far = jax.tree.map(lambda x: 2 * x, after.params["policy"])
        moved = after._replace(params=after.params | {"policy": far})
        metrics = make_step(parts)(moved)[2]
        gap = abs(metrics["objective/sampled_kl"] - metrics["objective/kl"])
        assert (gap > 1e-3) == (name == "temperature")


def test_a_fault_there_is_not_is_refused():
    with pytest.raises(ConfigError, match="fault is"):
        validate(dataclasses.replace(TINY, fault="pad"))
    separate = dataclasses.replace(TINY.ppo, critic="separate")
    with pytest.raises(ConfigError, match="must be shared"):
        validate(dataclasses.replace(TINY, fault="value_head", ppo=separate))
