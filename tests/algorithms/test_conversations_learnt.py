"""Of a conversation only the policy's own tokens are learnt; the environment's are read."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.advantages import gae
from rljax.algorithms import grpo, ppo
from rljax.algorithms.buckets import shorten_rollouts
from rljax.rewards.shaping import token_rewards
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.scoring import make_score
from rljax.types import Completions, Prompts, Rollout
from tests.conftest import quick_jit

OWN = jnp.array([[1, 1, 0, 0, 1, 0, 1, 0], [1, 0, 0, 1, 1, 1, 0, 0]], bool)
SEEN = jnp.arange(8) < jnp.array([7, 6])[:, None]


def conversation() -> Rollout:
    tokens = jax.random.randint(jax.random.key(1), (2, 12), 1, 61)
    prompts = Prompts(
        tokens[:, :4], jnp.array([[0, 1, 1, 1], [1, 1, 1, 1]], bool), jnp.arange(2), jnp.zeros(2)
    )
    old = jnp.where(OWN, -3.0, 0.0)
    made = Completions(tokens[:, 4:], OWN, old, jnp.zeros((2, 8)), seen=SEEN)
    return Rollout(prompts, made, old)


@pytest.fixture(scope="module")
def gradient(tiny):
    """Return a function: the loss's gradient of a rollout and advantages [B, C]."""
    model, params = tiny
    config = grpo.GRPOConfig(batch_size=2, samples_per_prompt=2, share_prompts=False)
    score = make_score(model, SamplingConfig(max_new_tokens=8), (2,))
    loss = functools.partial(grpo.loss_fn, score=score, config=config)

    @quick_jit
    def gradient(rollout, advantages):
        made = grpo.make_minibatch(config, rollout, rollout.completions.mask, advantages)
        grads, metrics = jax.grad(loss, has_aux=True)({"policy": params}, (0.1, 0.0), made)
        return jax.flatten_util.ravel_pytree(grads)[0], metrics

    return gradient


def test_only_own_tokens_get_a_gradient(gradient):
    rollout, advantages = conversation(), jnp.ones((2, 8))
    base, _ = gradient(rollout, advantages)
    assert jnp.any(base != 0)

    def with_loss(where, amount):
        """Change all that a token's loss is made of."""
        made = rollout.completions
        made = made._replace(log_probs=made.log_probs + amount * where)
        other = rollout._replace(
            completions=made, ref_log_probs=rollout.ref_log_probs - amount * where
        )
        return gradient(other, advantages + amount * where)[0]

    assert (with_loss(~OWN, 0.7) == base).all()
    for place in ((0, 4), (1, 0)):
        one = jnp.zeros((2, 8), bool).at[place].set(True)
        assert jnp.any(jnp.abs(with_loss(one, 0.7) - base) > 1e-6)


def test_what_the_environment_wrote_is_read(gradient):
    """Another word of it changes what follows; a word behind the end changes nothing."""
    rollout, advantages = conversation(), jnp.ones((2, 8))
    base, _ = gradient(rollout, advantages)

    def with_token(place):
        made = rollout.completions
        tokens = made.tokens.at[place].set((made.tokens[place] + 7) % 61)
        return gradient(rollout._replace(completions=made._replace(tokens=tokens)), advantages)[0]

    assert jnp.any(jnp.abs(with_token((0, 2)) - base) > 1e-6)
    assert (with_token((0, 7)) == base).all() and (with_token((1, 6)) == base).all()


def test_each_turns_reward_stands_on_its_last_own_token():
    rewards = jnp.zeros((2, 8)).at[0, 1].set(1.0).at[0, 4].set(-2.0).at[1, 5].set(3.0)
    zeros = jnp.zeros((2, 8))
    made = token_rewards(
        jnp.array([9.0, 9.0]), zeros, zeros, OWN, kl_coef=0.1, turn_rewards=rewards
    )
    assert (made == rewards).all()
    with pytest.raises(TypeError, match="turn_rewards"):
        token_rewards(
            jnp.ones(2), zeros, zeros, OWN, kl_coef=0.1, turn_rewards=rewards.astype(jnp.int32)
        )
    # the environment's tokens are stepped over: a later turn's reward reaches an earlier turn
    advantages, _ = gae(made, zeros, OWN, gamma=0.5, gae_lambda=1.0)
    assert advantages[0, 1] == 1.0 + 0.5 * -2.0 and advantages[0, 2] == 0
    assert advantages[1].tolist() == [3 / 8, 0, 0, 3 / 4, 3 / 2, 3, 0, 0]


def test_a_conversation_is_as_long_as_what_is_read():
    shorten = shorten_rollouts(2)
    rollout = conversation()._replace(turn_rewards=jnp.zeros((2, 8)))
    batch = ppo.make_minibatch(ppo.PPOConfig(batch_size=2), rollout, jnp.zeros((2, 8)))
    assert shorten.lengths(batch).tolist() == [7, 6]
    cut = shorten.cut(batch, 7)
    assert cut.rollout.completions.seen.shape == cut.rollout.turn_rewards.shape == (2, 7)
    np.testing.assert_array_equal(cut.rollout.prompts.tokens, rollout.prompts.tokens)
