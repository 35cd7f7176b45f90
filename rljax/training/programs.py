"""The compiled functions of an on-policy step; `jit`, donation and placement stand here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from rljax.algorithms.actor_critic import (
    Act,
    Compose,
    complete_mask,
    complete_params,
    make_act,
    sync_mask,
    sync_reference,
)
from rljax.algorithms.batch import OnPolicyConfig
from rljax.algorithms.importance import make_policy_log_probs
from rljax.models.transformer import Model
from rljax.parallel import over_rows
from rljax.rollout.buckets import map_by_length
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.exploration import ExplorationConfig
from rljax.rollout.scoring import Score, make_score
from rljax.training.mesh import Placement
from rljax.types import Completions, Prompts, Rollout, TrainState

NO_EXPLORATION = ExplorationConfig()


class Policies(NamedTuple):
    """What samples and scores."""

    trained: Any
    reference: Any
    masking: Any
    """The masking policy, or None."""
    step: jax.Array
    """Training steps done, by which schedules of the sampling go."""


def policies_of(state: TrainState) -> Policies:
    """Return what samples and scores of a state."""
    return Policies(state.params, state.ref_params, state.mask_params, state.step)


class Programs(NamedTuple):
    """What runs on the devices in a step."""

    act: dict[int, Any]
    """By rows that share a prompt, 1 or the algorithm's: (policies, prompts, key) ->
    Completions."""
    act_exactly: Any
    """The same, one row a prompt, never in 8 bits, and without exploration: for evaluations."""
    act_greedily: Any
    """The same at temperature 0, one row a prompt."""
    refer: dict[int, Any]
    """By rows that share a prompt: (policies, (prompts, completions)) -> the reference's log-probs,
    the masking policy's states."""
    refer_exactly: Any
    """The same, one row a prompt, without exploration: for evaluations."""
    log_probs: Any
    """(policies, rollout) -> log-probs of the policy [B, C], as the learner computes them."""
    update: Any
    """(state, rollout, scores, key, ...) -> state, metrics; the state is donated."""
    sync_reference: Any
    """(state, mix) -> state; donated."""
    sync_mask: Any
    """state -> state; donated."""


class Acting(NamedTuple):
    """What the policies of a run are made and ended by."""

    model: Model
    sampling: SamplingConfig
    algorithm: OnPolicyConfig
    ends: Sequence[int]
    """Token ids that end a completion."""
    pad_token_id: int
    compose: Compose
    exploration: ExplorationConfig = NO_EXPLORATION
    steps: int = 1
    """Of the whole run."""

    def sampling_at(
        self, policies: Policies, exact: bool
    ) -> tuple[SamplingConfig, float | jax.Array]:
        """Return the sampling of a step and its share of uniform tokens; exact: of evaluations."""
        if exact:
            return self.sampling.exact(), 0.0
        return self.exploration.at(self.sampling, policies.step, self.steps)

    def complete(self, policies: Policies) -> tuple[Any, Any]:
        """Give what is trained, and the masking policy, all of their parameters."""
        params, base, masking, _ = policies
        whole = complete_params(self.compose, params, base)
        return whole, complete_mask(self.compose, masking, base)

    def sampler(self, *, greedy: bool = False, exact: bool = False, group: int = 1) -> Any:
        """Build (policies, prompts, key) -> Completions."""
        algorithm = self.algorithm

        def make(sampling: SamplingConfig, epsilon: float | jax.Array) -> Act:
            return make_act(
                self.model,
                sampling,
                self.ends,
                self.pad_token_id,
                truncate_token=algorithm.truncate_token,
                truncate_after=algorithm.truncate_after,
                action_mask=algorithm.action_mask,
                group=group,
                buckets=algorithm.buckets,
                epsilon=epsilon,
            )

        def local(policies: Policies, prompts: Prompts, key: jax.Array) -> Completions:
            params, mask_params = self.complete(policies)
            if greedy:
                act = make(dataclasses.replace(self.sampling, temperature=0.0), 0.0)
            else:
                act = make(*self.sampling_at(policies, exact))
            return act(params, prompts, key, mask_params)

        return lambda *args: over_rows(local)(*args)

    def scorers(self, group: int, *, exact: bool = False) -> tuple[Any, Any]:
        """Build the reference's and the policy's scoring, see `Programs`."""

        def score_at(policies: Policies) -> Score:
            sampling, _ = self.sampling_at(policies, exact)
            return make_score(self.model, sampling, self.ends, rows=self.algorithm.score_rows)

        def refer(policies: Policies, text: tuple[Prompts, Completions]) -> Any:
            _, base, masking, _ = policies
            score = score_at(policies)
            mask_params = complete_mask(self.compose, masking, base)

            def scored(prompts: Prompts, made: Completions) -> Any:
                found = score(base, prompts, made, mask_params, group=group)
                return found.log_probs, found.mask_hidden

            return map_by_length(scored, *text, text[1].real, self.algorithm.buckets, group)

        def log_probs(policies: Policies, rollout: Rollout) -> jax.Array:
            buckets = self.algorithm.buckets
            scored = make_policy_log_probs(score_at(policies), self.compose, group, buckets)
            return scored(policies[:3], rollout)

        return (lambda *args: over_rows(refer)(*args), lambda *args: over_rows(log_probs)(*args))


def make_programs(
    acting: Acting, update: Any, placement: Placement, state_shapes: Callable[[], TrainState]
) -> Programs:
    """Compile (when they are first called) the functions of a step.

    update: (state, rollout, scores, key, ...) -> state, metrics. state_shapes: of which shapes a
    state is, and where its arrays stand.
    """
    jit, sizes = placement.jit, {1, acting.algorithm.sampled_group}
    scorers = {size: acting.scorers(size) for size in sizes}
    kept = placement.outputs(state_shapes)
    act = {size: jit(acting.sampler(group=size)) for size in sizes}
    refer = {size: jit(scorers[size][0]) for size in sizes}
    scheduled = acting.exploration.scheduled
    explores = scheduled or acting.exploration.mixes or acting.sampling.coarse
    return Programs(
        act=act,
        act_exactly=jit(acting.sampler(exact=True)) if explores else act[1],
        act_greedily=jit(acting.sampler(greedy=True)),
        refer=refer,
        refer_exactly=jit(acting.scorers(1, exact=True)[0]) if scheduled else refer[1],
        log_probs=jit(scorers[acting.algorithm.sampled_group][1]),
        update=jit(update, donate_argnums=0, **placement.outputs(state_shapes, rest=True)),
        sync_reference=jit(sync_reference, static_argnums=1, donate_argnums=0, **kept),
        sync_mask=jit(sync_mask, donate_argnums=0, **kept),
    )
