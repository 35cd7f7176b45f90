"""The weight of the entropy bonus moves until the policy's entropy is near the target."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms import grpo, ppo
from rljax.algorithms.actor_critic import init_state, make_act, make_collect
from rljax.algorithms.batch import init_entropy_coef
from rljax.algorithms.grpo import GRPOConfig
from rljax.algorithms.online_dpo import OnlineDPOConfig
from rljax.algorithms.ppo import PPOConfig
from rljax.entropy import next_entropy_coef
from rljax.environments.tabular import World
from rljax.kl import KLConfig
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.scoring import make_score
from rljax.training.optimizer import OptimizerConfig, make_optimizer
from tests.algorithms.conftest import BASE as PPO
from tests.algorithms.test_grpo import BASE as GRPO
from tests.algorithms.test_ppo import differ
from tests.conftest import quick_jit

STEERED = {"entropy_coef": 0.05, "target_entropy": 1.2, "entropy_rate": 0.5}


def test_a_step_by_hand():
    coef = jnp.float32(0.2)
    lower = next_entropy_coef(coef, jnp.float32(1.5), target=1.0, rate=0.1)
    assert float(lower) == pytest.approx(0.2 * np.exp(-0.05))
    assert float(next_entropy_coef(coef, jnp.float32(1.0), target=1.0, rate=0.1)) == coef
    assert float(next_entropy_coef(coef, jnp.float32(0.0), target=1.0, rate=0.1)) > 0.2


@pytest.mark.slow
@pytest.mark.parametrize("base", [PPO, GRPO], ids=["ppo", "grpo"])
def test_the_update_reads_the_moving_weight_and_moves_it(world, base):
    config = dataclasses.replace(base, **STEERED)
    start = world.state(config)._replace(entropy_coef=init_entropy_coef(config))
    rollout = world.rollout(start)
    state, metrics = world.update(config, state=start, rollout=rollout)
    assert float(metrics["objective/entropy_coef"]) == pytest.approx(0.05)
    expected = 0.05 * np.exp(0.5 * (1.2 - float(metrics["policy/entropy"])))
    assert float(state.entropy_coef) == pytest.approx(expected, rel=1e-5)
    # the same weight that stands still gives the same parameters; another one others
    fixed, _ = world.update(
        dataclasses.replace(base, entropy_coef=0.05), state=world.state(base), rollout=rollout
    )
    assert not differ(state.params, fixed.params)
    heavier = start._replace(entropy_coef=jnp.float32(0.5))
    assert differ(world.update(config, state=heavier, rollout=rollout)[0].params, state.params)
    # and both fields are read
    for name, value in (("target_entropy", 2.0), ("entropy_rate", 0.1)):
        other = dataclasses.replace(config, **{name: value})
        moved, _ = world.update(other, state=start, rollout=rollout)
        assert float(moved.entropy_coef) != float(state.entropy_coef)


@pytest.mark.slow
def test_it_waits_while_only_the_critic_learns(world):
    config = dataclasses.replace(PPO, **STEERED, critic_warmup_steps=1)
    start = world.state(config)._replace(entropy_coef=init_entropy_coef(config))
    state, _ = world.update(config, state=start)
    assert float(state.entropy_coef) == float(start.entropy_coef)
    assert float(world.update(config, state=state)[0].entropy_coef) != float(state.entropy_coef)


@pytest.mark.slow
@pytest.mark.parametrize("target", [0.3, 0.9])
def test_the_entropy_comes_to_the_target(target):
    """Rewards alone would make the policy certain; at most log 4 = 1.386 nats are possible."""
    world, steps, batch = World(4, 3, eos=None), 400, 64
    sampling = SamplingConfig(max_new_tokens=3, temperature=1.0)
    config = GRPOConfig(
        batch_size=batch, samples_per_prompt=8, advantage="leave_one_out", kl=KLConfig(coef=0.0),
        entropy_coef=0.1, target_entropy=target, entropy_rate=0.05,
    )  # fmt: skip
    rates = OptimizerConfig(learning_rate=0.05, schedule="constant")
    optimizer = make_optimizer(rates, num_steps=steps)
    score = make_score(world.model, sampling, ())
    collect = make_collect(make_act(world.model, sampling, (), 0), score)
    update = grpo.make_update(world.model, config, sampling, (), optimizer)
    prompts = world.prompts(jnp.arange(batch) // 8, jnp.arange(batch) % 8)

    def step(state, key):
        first, second = jax.random.split(key)
        rollout = collect(state.params, state.ref_params, prompts, first)
        state, metrics = update(state, rollout, world.judge(rollout.completions), second)
        return state, (metrics["policy/entropy"], metrics["objective/scores"])

    state = init_state(
        {"table": world.reference}, 1, optimizer, critic="none", kl_coef=jnp.float32(0),
        entropy_coef=init_entropy_coef(config),
    )  # fmt: skip
    keys = jax.random.split(jax.random.key(0), steps)
    _, (entropy, scores) = quick_jit(lambda s, k: jax.lax.scan(step, s, k))(state, keys)
    assert abs(float(np.mean(entropy[-100:])) - target) < 0.1, entropy[::20]
    assert np.mean(scores[-100:]) > np.mean(scores[:5]) + 0.3


def test_what_cannot_be_is_refused():
    for kind in (PPOConfig, GRPOConfig):
        for flags, problem in (
            ({"target_entropy": 1.0}, "entropy_coef is 0.0; it must be above 0 with target_ent"),
            ({"target_entropy": -1.0, "entropy_coef": 0.1}, "target_entropy is -1.0"),
            ({**STEERED, "entropy_rate": 0.0}, "entropy_rate is 0.0; it must be above 0"),
            ({"entropy_rate": 0.2}, "left as it is without target_entropy"),
        ):
            with pytest.raises(ValueError, match=problem):
                kind(**flags).validate()
        kind(**STEERED).validate()
    for flags in ({"entropy_rate": 0.2}, STEERED):
        with pytest.raises(ValueError, match="entropy"):
            OnlineDPOConfig(**flags).validate()
    assert init_entropy_coef(ppo.PPOConfig()) is None
