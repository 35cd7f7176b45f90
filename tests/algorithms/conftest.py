"""A recorded batch and a model so small that a PPO update compiles in a second."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rljax.algorithms import grpo, online_dpo
from rljax.algorithms import ppo as ppo_algorithm
from rljax.algorithms.actor_critic import init_state, make_act
from rljax.algorithms.batch import OnPolicyConfig
from rljax.algorithms.ppo import PPOConfig
from rljax.kl import KLConfig, make_kl_controller
from rljax.models.transformer import make_model
from rljax.rollout.distribution import ActionMask, SamplingConfig
from rljax.rollout.scoring import make_score
from rljax.training.optimizer import OptimizerConfig, make_optimizer
from rljax.types import Prompts, Rollout, TrainState
from tests.conftest import noisy_params, quick_jit, tiny_config

EOS, PAD = (3,), 3
SAMPLING = SamplingConfig(max_new_tokens=6, temperature=0.9)
BASE = PPOConfig(
    batch_size=8,
    num_epochs=2,
    num_minibatches=2,
    clip_eps=0.2,
    kl=KLConfig(coef=0.1, controller="openai", target=0.5, horizon=100.0),
)
OPTIMIZER = OptimizerConfig(learning_rate=0.01)


def make_chain(optimizer: OptimizerConfig) -> optax.GradientTransformation:
    return make_optimizer(optimizer, num_steps=10, updates_per_step=4)


class World:
    """Policy, batch and scores; `update` runs PPO with changed settings on them."""

    def __init__(self) -> None:
        config = tiny_config(
            vocab_size=17, hidden_size=16, num_layers=1, num_heads=2, num_kv_heads=1
        )
        self.model = make_model(config)
        self.programs: dict = {}
        self.policy = noisy_params(self.model, seed=3, scale=0.2)
        self.reference = noisy_params(self.model, seed=4, scale=0.2)
        self.masking = noisy_params(self.model, seed=5, scale=0.2)
        prompt, sample = jnp.arange(8) // 4, jnp.arange(8) % 4  # two prompts, four rows each
        tokens = jax.random.randint(jax.random.key(0), (2, 4), 4, 17)[prompt]
        self.prompts = Prompts(tokens, jnp.arange(4) >= prompt[:, None], prompt, sample)
        self.scores = jnp.asarray(np.random.default_rng(0).normal(1.0, 2.0, 8), jnp.float32)

    def program(self, make, *settings):
        """Compile what `make` builds from settings, once for all tests."""
        key = (make.__name__, settings)
        if key not in self.programs:
            self.programs[key] = quick_jit(make(*settings))
        return self.programs[key]

    def state(
        self, ppo: OnPolicyConfig = BASE, optimizer: OptimizerConfig = OPTIMIZER
    ) -> TrainState:
        made = self.program(self._init, getattr(ppo, "critic", "none"), optimizer)(
            self.policy, make_kl_controller(ppo.kl).init()
        )
        return made._replace(
            ref_params=self.reference,
            mask_params=None if ppo.action_mask is None else self.masking,
        )

    def _init(self, critic: str, optimizer: OptimizerConfig):
        chain = make_chain(optimizer)
        return lambda policy, kl_coef: init_state(policy, 16, chain, critic=critic, kl_coef=kl_coef)

    def rollout(
        self, state: TrainState, sampling: SamplingConfig = SAMPLING, ppo: OnPolicyConfig = BASE
    ) -> Rollout:
        mask = ppo.action_mask
        act = self.program(self._act, sampling, ppo.truncate_token, ppo.truncate_after, mask)
        made = act(state.params, self.prompts, jax.random.key(7), state.mask_params)
        score = self.program(self._score, sampling)
        scored = score(state.ref_params, self.prompts, made, state.mask_params)
        return Rollout(self.prompts, made, scored.log_probs, scored.mask_hidden)

    def _act(
        self,
        sampling: SamplingConfig,
        truncate_token: int | None,
        truncate_after: int,
        mask: ActionMask | None,
    ):
        return make_act(
            self.model, sampling, EOS, PAD,
            truncate_token=truncate_token, truncate_after=truncate_after, action_mask=mask,
        )  # fmt: skip

    def _score(self, sampling: SamplingConfig):
        return make_score(self.model, sampling, EOS)

    def update(
        self,
        ppo=BASE,
        sampling=SAMPLING,
        optimizer=OPTIMIZER,
        state=None,
        rollout=None,
        scores=None,
        more=(),
    ):
        state = self.state(ppo, optimizer) if state is None else state
        rollout = self.rollout(state, sampling, ppo) if rollout is None else rollout
        run = self.program(self._update, ppo, sampling, optimizer)
        scores = self.scores if scores is None else scores
        return run(state, rollout, scores, jax.random.key(1), *more)

    def _update(self, ppo: OnPolicyConfig, sampling: SamplingConfig, optimizer: OptimizerConfig):
        modules = {grpo.GRPOConfig: grpo, online_dpo.OnlineDPOConfig: online_dpo}
        module = modules.get(type(ppo), ppo_algorithm)
        return module.make_update(self.model, ppo, sampling, EOS, make_chain(optimizer))


@pytest.fixture(scope="session")
def world():
    return World()


@pytest.fixture(scope="session")
def baseline(world):
    """The rollout of the base settings and what an update makes of it."""
    rollout = world.rollout(world.state())
    return rollout, world.update(rollout=rollout)
