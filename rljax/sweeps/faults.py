"""PPO of nano size with a detail of its implementation left out, where no flag leaves it out.

The details are those of Huang et al. 2023, "The N implementation details of RLHF with PPO"
(https://huggingface.co/blog/the_n_implementation_details_of_rlhf_with_ppo). What is wrong to do is
no option of the library's algorithms: the functions of a run are wrapped here.

B completions a step, C completion slots.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from rljax.algorithms import ppo
from rljax.algorithms.metrics import rollout_kl
from rljax.models.heads import init_reward_head
from rljax.models.transformer import Model
from rljax.rollout.scoring import make_score
from rljax.sweeps.nano import Metrics, NanoPPO, Params, Parts
from rljax.sweeps.worlds import Slips
from rljax.types import Completions, Prompts, Rollout, TrainState

Fault = Literal["none", "temperature", "value_head", "dropout"]
DROPPED = 0.1
"""Share of the learner's states that dropout sets to 0, as in GPT-2's training."""


@dataclasses.dataclass(frozen=True)
class Sentences(Slips):
    """Words whose answer ends with a period or with the end token: both are an end to the score.

    With ppo.truncate_token the period is the end that is wanted, as in Ziegler et al. 2019; the
    score itself does not ask for it.
    """

    def judge(self, ids: jax.Array, made: Completions) -> dict[str, jax.Array]:
        """Score completions; see the class. "period" [B]: whether there is one."""
        is_period = made.tokens == self.full_stop
        judged = super().judge(
            ids, made._replace(tokens=jnp.where(is_period, self.eos, made.tokens))
        )
        return judged | {"period": jnp.any(is_period & made.mask, axis=1).astype(jnp.float32)}


@dataclasses.dataclass(frozen=True)
class FaultyPPO(NanoPPO):
    """A nano run of PPO with one fault."""

    fault: Fault = "none"
    """temperature: the sampler divides logits by sampling.temperature, learner and reference score
    at 1. value_head: a shared one's weights start as a reward head's, not as 0. dropout: the
    learner drops a tenth of its states, the sampler none."""

    def make_parts(self) -> Parts:
        """Build the functions of a run, with the fault."""
        return FaultyParts(self)

    def validate(self) -> None:
        """Raise ValueError for values that mean nothing."""
        super().validate()
        if self.fault not in get_args(Fault):
            raise ValueError(f"fault is {self.fault!r}; it must be one of {get_args(Fault)}")
        if self.fault == "value_head" and self.ppo.critic != "shared":
            raise ValueError(
                f"fault is value_head, but ppo.critic is {self.ppo.critic}: it must be shared"
            )


def drop_states(model: Model) -> Model:
    """Return a model whose states pass through dropout.

    A model's functions get no key: it is made of the sum of the states, and so is another one for
    every batch and all parameters, and the same for the same.
    """

    def hidden_groups(params: Params, *text: jax.Array) -> jax.Array:
        states = model.hidden_groups(params, *text)
        total = jax.lax.stop_gradient(jnp.sum(states))
        key = jax.random.fold_in(jax.random.key(0), jax.lax.bitcast_convert_type(total, jnp.uint32))
        kept = jax.random.bernoulli(key, 1 - DROPPED, states.shape)
        return states * kept / (1 - DROPPED)

    return model._replace(hidden_groups=hidden_groups)


class FaultyParts(Parts):
    """The functions of a run with a fault, and two metrics more.

    policy/first_clip_fraction: share of tokens that the clip acts on in a step's first pass over
    its batch, before the policy has moved: 0 but for a fault. objective/sampled_kl: the KL of what
    the sampler draws from, both policies at its temperature, nats a completion; it is
    objective/kl where scoring is at that temperature.
    """

    def __init__(self, config: FaultyPPO) -> None:
        super().__init__(config)
        self.fault = config.fault
        scaled = self.score
        wrong = self.fault == "temperature"
        sampling = (
            dataclasses.replace(config.sampling, temperature=1.0) if wrong else config.sampling
        )
        ends, algorithm = (config.world.eos,), config.ppo
        self.score = make_score(self.model, sampling, ends)
        learner = drop_states(self.model) if self.fault == "dropout" else self.model
        update, probe = (
            ppo.make_update(learner, passes, sampling, ends, self.optimizer)
            for passes in (
                algorithm,
                dataclasses.replace(algorithm, num_epochs=1, num_minibatches=1),
            )
        )

        def measured(
            state: TrainState, rollout: Rollout, scores: jax.Array, key: jax.Array
        ) -> tuple[TrainState, Metrics]:
            first = probe(state, rollout, scores, key)[1]["policy/clip_fraction"]
            sampled = rollout_kl(rollout)
            if wrong:
                made = rollout.completions
                own, ref = (
                    scaled(params, rollout.prompts, made).log_probs
                    for params in (state.params["policy"], state.ref_params)
                )
                sampled = rollout_kl(
                    rollout._replace(completions=made._replace(log_probs=own), ref_log_probs=ref)
                )
            state, metrics = update(state, rollout, scores, key)
            return state, metrics | {
                "policy/first_clip_fraction": first,
                "objective/sampled_kl": sampled,
            }

        self.update = measured
        if wrong:
            self.act = self._rescored(self.act)

    def _rescored(self, act: Any) -> Any:
        """Give completions the log-probs that the learner scores them with."""

        def acted(params: Params, prompts: Prompts, key: jax.Array) -> Completions:
            made: Completions = act(params, prompts, key)
            scored = self.score(params["policy"], prompts, made)
            return made._replace(log_probs=scored.log_probs)

        return acted

    def first_state(self, params: Params) -> TrainState:
        """Make the state of step 0 of a start."""
        state = super().first_state(params)
        if self.fault != "value_head":
            return state
        head = init_reward_head(jax.random.key(2), self.config.hidden_size)
        return state._replace(params=state.params | {"value_head": head})
