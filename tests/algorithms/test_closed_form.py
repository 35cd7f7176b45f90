"""Every on-policy method reaches the optimum of the KL-regularised objective, beta log Z.

The closed form is pi* = ref exp(r / beta) / Z (Ziegler et al. 2019, section 2). With the KL charged
on the completion's score, r - beta log(pi* / ref) is one number for all completions: no advantage
is left at the optimum, whatever the method makes of scores.

Each method's settings are those of configs/grpo_sentiment.py, but for sizes and the KL.
"""

import copy
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms import grpo, ppo
from rljax.algorithms.actor_critic import init_state, make_act, make_collect
from rljax.algorithms.grpo import GRPOConfig
from rljax.algorithms.ppo import PPOConfig
from rljax.environments.exact import soft_value_iteration
from rljax.environments.tabular import World
from rljax.environments.token_mdp import as_token_reward, random_mdp
from rljax.experiment import GRPOExperiment
from rljax.kl import KLConfig
from rljax.rollout.distribution import NEGATIVE, ActionMask, SamplingConfig, allowed_tokens
from rljax.rollout.sampler import make_sampler
from rljax.rollout.scoring import make_score
from rljax.training.flags import load_config
from rljax.training.optimizer import OptimizerConfig, make_optimizer
from tests.conftest import quick_jit

WORLD = World(4, 3, eos=3)
SAMPLING = SamplingConfig(max_new_tokens=3, temperature=1.0)
STEPS, BATCH = 150, 64
ARMS = {"beta": jnp.array([0.25, 0.5, 1.0, 0.5]), "sign": jnp.array([1.0, 1.0, 1.0, -1.0])}
"""Runs that one program makes together; in the last one the reward's sign is wrong."""
KL = KLConfig(coef=0.5, estimator="k1")
METHODS = (
    "reinforce", "rloo", "remax", "reinforce_pp", "reinforce_pp_baseline", "grpo", "dr_grpo",
    "dapo", "gspo", "cispo", "raft",
)  # fmt: skip


def method(name: str) -> GRPOConfig:
    """A published method's choices, at the sizes of this task."""
    file = "configs/grpo_sentiment.py" + ("" if name == "grpo" else f":{name}")
    chosen = load_config(file, GRPOExperiment).grpo
    place = "tokens" if chosen.kl_place == "tokens" else "score"
    return dataclasses.replace(chosen, batch_size=BATCH, kl=KL, kl_place=place)


@functools.cache
def sampling_programs(mask: ActionMask | None, epsilon: float, world: World) -> tuple[Any, Any]:
    """Compile sampling and greedy decoding of all arms, once for all methods of a mask.

    They run so often that it pays to let XLA optimise them.
    """
    act = make_act(WORLD.model, SAMPLING, WORLD.eos_ids, 3, action_mask=mask, epsilon=epsilon)
    collect = make_collect(act, make_score(WORLD.model, SAMPLING, WORLD.eos_ids))
    reference = {"table": WORLD.reference}
    masking = None if mask is None else reference  # it stays the first policy
    greedy = make_sampler(
        WORLD.model, dataclasses.replace(SAMPLING, temperature=0.0), WORLD.eos_ids, 3
    )

    def sample(params, prompts, key, sign):
        rollout = collect(params, reference, prompts, key, masking)
        return rollout, sign * world.judge(rollout.completions)

    def greedy_scores(params, prompts, key, sign):
        return sign * world.judge(greedy(params["policy"], None, prompts, key))

    axes = (0, None, None, 0)
    return jax.jit(jax.vmap(sample, axes)), jax.jit(jax.vmap(greedy_scores, axes))


def learn(
    module: Any,
    config: Any,
    critic: str,
    *,
    ahead: bool = False,
    epsilon: float = 0.0,
    world: World = WORLD,
) -> jax.Array:
    """Train all arms: their tables. ahead: batches are sampled before the update before theirs.

    epsilon: of the uniform tokens that are mixed in. world: of other rewards.
    """
    optimizer = make_optimizer(
        OptimizerConfig(learning_rate=0.1, schedule="linear", adam_eps=1e-5),
        num_steps=STEPS,
        updates_per_step=config.num_epochs * config.num_minibatches,
    )
    sample, greedy_scores = sampling_programs(config.action_mask, epsilon, world)
    rows, group = jnp.arange(BATCH), config.samples_per_prompt
    prompts = WORLD.prompts(rows // group, rows % group)
    update = module.make_update(WORLD.model, config, SAMPLING, WORLD.eos_ids, optimizer)
    asks_greedy = getattr(config, "advantage", None) == "greedy"
    update = quick_jit(jax.vmap(update, in_axes=(0, 0, 0, None, *([0] * asks_greedy))))

    state = quick_jit(
        jax.vmap(
            lambda beta: init_state(
                {"table": WORLD.reference}, WORLD.model.config.hidden_size, optimizer,
                critic=critic, kl_coef=beta, masked=config.action_mask is not None,
            )
        )
    )(ARMS["beta"])  # fmt: skip
    sampler = state.params
    for step in range(STEPS):
        sample_key, shuffle_key = jax.random.split(jax.random.key(step))
        batch = (sampler if ahead else state.params, prompts, sample_key, ARMS["sign"])
        sampler = state.params
        rollout, scores = sample(*batch)
        more = (greedy_scores(*batch),) if asks_greedy else ()
        state, _ = update(state, rollout, scores, shuffle_key, *more)
    return state.params["policy"]["table"]


def check(tables: jax.Array, world: World = WORLD) -> None:
    """Compare the share of the gap to the optimum that each arm closes with what it must be."""
    closed = np.asarray(quick_jit(jax.vmap(world.closed))(tables, ARMS["beta"]))
    assert np.all(closed <= 1 + 1e-5), closed  # no policy is above the closed form
    assert np.all(closed[:3] >= 0.95), closed
    assert closed[3] < 0, closed  # the wrong sign takes the policy away from it


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_method_reaches_the_optimum(name):
    check(learn(grpo, method(name), "none"))


PPO = PPOConfig(batch_size=BATCH, num_epochs=2, num_minibatches=2, value_coef=1.0, kl=KL)


@pytest.mark.slow
def test_ppo_reaches_the_optimum():
    check(learn(ppo, PPO, "shared"))


@pytest.mark.slow
def test_what_was_sampled_one_step_ago_leads_there_too():
    """With importance weights, by which one step off-policy the surrogate stays right."""
    check(learn(ppo, dataclasses.replace(PPO, importance_cap=2.0), "shared", ahead=True))
    check(learn(grpo, dataclasses.replace(method("grpo"), importance_cap=2.0), "none", ahead=True))


@pytest.mark.slow
def test_uniform_tokens_lead_there_too():
    """A mixture samples, the policy is learnt: its optimum is that of the policy alone."""
    tables = learn(ppo, dataclasses.replace(PPO, importance_cap=2.0), "shared", epsilon=0.3)
    check(tables)
    weighted = dataclasses.replace(method("grpo"), importance_cap=2.0)
    check(learn(grpo, weighted, "none", epsilon=0.3))


def several_rewards() -> tuple[World, jax.Array]:
    """The same tree, played in an MDP of 5 states that pays every token; its rewards [N, L]."""
    mdp = random_mdp(jax.random.key(4), 5, 4, branching=1, end_probability=0.0)
    mdp = mdp._replace(rewards=0.6 * mdp.rewards)
    made = WORLD.tree.completions()
    upto = [
        as_token_reward(mdp, horizon=3).score(
            None, made._replace(mask=made.mask & (jnp.arange(3) < count))
        )
        for count in (1, 2, 3)
    ]
    world = copy.copy(WORLD)
    world.rewards = upto[-1]
    each = jnp.diff(jnp.stack(upto, axis=1), axis=1, prepend=0)
    return world, jnp.where(WORLD.tree.mask, each, 0)


@pytest.mark.slow
def test_rewards_on_the_way_have_the_optimum_of_their_sum():
    world, each = several_rewards()
    assert np.all(np.sum(np.abs(each) > 1e-6, axis=1) == np.sum(WORLD.tree.mask, axis=1))
    reference = jax.nn.softmax(WORLD.reference)
    for beta in (0.25, 1.0):
        late, early = (
            soft_value_iteration(WORLD.tree.tabular(x), reference, beta=beta, gamma=1.0)
            for x in (world.rewards, each)
        )
        np.testing.assert_allclose(late.values[0], early.values[0], rtol=1e-5)
        np.testing.assert_allclose(late.policy, early.policy, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppo", "grpo", "rloo"])
def test_an_mdp_of_several_rewards_is_solved(name):
    world, _ = several_rewards()
    if name == "ppo":
        check(learn(ppo, PPO, "shared", world=world), world)
    else:
        check(learn(grpo, method(name), "none", world=world), world)


@pytest.mark.slow
def test_nlpo_reaches_the_optimum_of_what_is_allowed():
    """pi* proportional to ref exp(r / beta) on the completions whose tokens are all allowed."""
    config = PPOConfig(
        batch_size=BATCH, num_epochs=2, num_minibatches=2, value_coef=1.0, kl=KL,
        mask_top_p=0.8, mask_min_tokens=2, mask_sync_every=0,
    )  # fmt: skip
    allowed = allowed_tokens(WORLD.reference, ActionMask(top_p=0.8, min_tokens=2))
    assert 0.3 < np.mean(allowed) < 0.8
    world = copy.copy(WORLD)
    world.reference = jnp.where(allowed, WORLD.reference, NEGATIVE)
    tables = learn(ppo, config, "shared")
    check(jnp.where(allowed, tables, NEGATIVE), world)
    # what is not allowed gets no gradient: it is where it was
    np.testing.assert_array_equal(tables[0][~allowed], WORLD.reference[~allowed])


def test_the_optimum_by_hand():
    """pi* = ref exp(r / beta) / Z has J = beta log Z, and no advantage."""
    for beta in (0.25, 1.0):
        ref = jnp.sum(WORLD.token_log_probs(WORLD.reference), axis=1)
        np.testing.assert_allclose(jnp.sum(jnp.exp(ref)), 1, rtol=1e-5)
        best = jax.nn.softmax(ref + WORLD.rewards / beta)
        gain = WORLD.rewards - beta * (jnp.log(best) - ref)
        np.testing.assert_allclose(gain, WORLD.optimum(beta), rtol=1e-4)
        log_z = jax.nn.logsumexp(ref + WORLD.rewards / beta)
        np.testing.assert_allclose(WORLD.optimum(beta), beta * log_z, rtol=1e-4)
