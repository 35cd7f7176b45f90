"""Policy and critic as parameters: the first state, acting, and values.

params is {"policy": ..., "value_head": ...} where the critic shares the policy's trunk, and
{"policy": ..., "critic": {"trunk": ..., "value_head": ...}} where it has its own. "policy" and
"trunk" may be less than a model's parameters (adapters, upper layers): `complete_params` adds the
rest.

B sequences, C completion slots, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import optax

from rljax.models.heads import apply_scalar_head, init_value_head
from rljax.models.precision import cast_matrices
from rljax.models.transformer import Model
from rljax.rewards.shaping import init_running_moments, truncate_completions
from rljax.rollout.buckets import ONE_WIDTH, Buckets, map_by_length
from rljax.rollout.continuous import make_continuous_sampler
from rljax.rollout.distribution import ActionMask, SamplingConfig
from rljax.rollout.scoring import Score, completion_hidden
from rljax.types import Completions, Prompts, Rollout, TrainState

Params = dict[str, Any]
Compose = Callable[[Params, Params], Params]
"""(frozen base, trained part) -> parameters of a whole model."""


def all_trained(base: Params, policy: Params) -> Params:
    """Compose where every parameter is trained: nothing of the base is read."""
    del base
    return policy


class Act(Protocol):
    def __call__(
        self, params: Params, prompts: Prompts, key: jax.Array, mask_params: Params | None = ...
    ) -> Completions: ...


class Collect(Protocol):
    def __call__(
        self,
        params: Params,
        ref_params: Params,
        prompts: Prompts,
        key: jax.Array,
        mask_params: Params | None = ...,
    ) -> Rollout: ...


def init_state(
    policy: Params,
    hidden_size: int,
    optimizer: optax.GradientTransformation,
    *,
    critic: Literal["shared", "separate", "none"],
    kl_coef: jax.Array,
    base: Params | None = None,
    masked: bool = False,
    frozen_dtype: Any = None,
    entropy_coef: jax.Array | None = None,
) -> TrainState:
    """Make the state before the first step; reference and separate critic start as the policy.

    base: the frozen parameters where `policy` is only a part; they are the reference. masked: with
    a masking policy, which starts as the policy. frozen_dtype: what matrices of copies of the
    policy, the reference and the masking policy, are held in; None: as the policy's. entropy_coef:
    the weight of the entropy bonus, where it will move. The value head
    is zero (Ziegler et al. 2019, code), so that values start at 0.
    """
    head = init_value_head(hidden_size)

    def copied() -> Params:
        held = cast_matrices(policy, frozen_dtype)
        return jax.tree.map(lambda x, y: jnp.copy(y) if y is x else y, policy, held)

    params: Params = {"policy": policy}
    if critic == "shared":
        params["value_head"] = head
    elif critic == "separate":
        params["critic"] = {"trunk": jax.tree.map(jnp.copy, policy), "value_head": head}
    return TrainState(
        params=params,
        ref_params=copied() if base is None else base,
        opt_state=optimizer.init(params),
        kl_coef=kl_coef,
        score_moments=init_running_moments(),
        step=jnp.int32(0),
        mask_params=copied() if masked else None,
        entropy_coef=entropy_coef,
    )


def complete_params(compose: Compose, params: Params, base: Params) -> Params:
    """Give policy and critic all of their parameters: what is trained, over the frozen base."""
    whole = params | {"policy": compose(base, params["policy"])}
    if "critic" in params:
        critic = params["critic"]
        whole["critic"] = critic | {"trunk": compose(base, critic["trunk"])}
    return whole


def complete_mask(compose: Compose, mask_params: Params | None, base: Params) -> Params | None:
    """Give the masking policy, where there is one, all of its parameters."""
    return None if mask_params is None else compose(base, mask_params)


def sync_mask(state: TrainState) -> TrainState:
    """Make the masking policy a copy of the policy as it is now."""
    copied = jax.tree.map(
        lambda old, new: jnp.array(new, old.dtype), state.mask_params, state.params["policy"]
    )
    return state._replace(mask_params=copied)


def sync_reference(state: TrainState, mix: float) -> TrainState:
    """Move the reference towards the policy: (1 - mix) ref + mix policy (TR-DPO, soft update).

    Gorbatovski et al. 2024 (https://arxiv.org/abs/2404.09656).
    """
    moved = jax.tree.map(
        lambda ref, policy: (1 - mix) * ref + mix * policy,
        state.ref_params,
        state.params["policy"],
    )
    return state._replace(ref_params=moved)


def critic_values(
    model: Model,
    params: Params,
    prompts: Prompts,
    completions: Completions,
    policy_hidden: jax.Array,
    group: int = 1,
) -> jax.Array:
    """Compute values [B, C] before each completion token, 0 on padding.

    policy_hidden: the policy trunk's states [B, C, D], which a shared critic reads. group: as
    `completion_hidden`'s.
    """
    if "critic" in params:
        critic = params["critic"]
        hidden = completion_hidden(model, critic["trunk"], prompts, completions, group)
        values = apply_scalar_head(critic["value_head"], hidden)
    else:
        values = apply_scalar_head(params["value_head"], policy_hidden)
    return jnp.where(completions.mask, values, 0)


def mask_completions(completions: Completions, mask: jax.Array) -> Completions:
    """Take tokens out of completions: what is known of them is 0 where the mask [B, C] is false."""
    own = completions.policy_log_probs
    return completions._replace(
        mask=mask,
        log_probs=jnp.where(mask, completions.log_probs, 0),
        values=jnp.where(mask, completions.values, 0),
        policy_log_probs=None if own is None else jnp.where(mask, own, 0),
    )


def make_act(
    model: Model,
    sampling: SamplingConfig,
    eos_token_ids: Sequence[int],
    pad_token_id: int,
    *,
    truncate_token: int | None = None,
    truncate_after: int = 0,
    action_mask: ActionMask | None = None,
    group: int = 1,
    buckets: Buckets = ONE_WIDTH,
    epsilon: float | jax.Array = 0.0,
) -> Act:
    """Build act(params, prompts, key[, mask_params]) -> Completions: sample, truncate, value.

    Values of a shared critic come out of the decode; a separate critic runs once over the result,
    by length as `buckets` say. action_mask, mask_params, group, epsilon: as
    `make_continuous_sampler`'s.
    """
    sample = make_continuous_sampler(
        model, sampling, eos_token_ids, pad_token_id, action_mask, group, epsilon
    )

    def act(
        params: Params, prompts: Prompts, key: jax.Array, mask_params: Params | None = None
    ) -> Completions:
        made = sample(params["policy"], params.get("value_head"), prompts, key, mask_params)
        if truncate_token is not None:
            tokens, mask, _ = truncate_completions(
                made.tokens,
                made.mask,
                truncate_token=truncate_token,
                truncate_after=truncate_after,
                pad_id=pad_token_id,
            )
            made = mask_completions(made._replace(tokens=tokens), mask)
        if "critic" in params:
            critic = params["critic"]

            def value(prompts: Prompts, made: Completions) -> jax.Array:
                hidden = completion_hidden(model, critic["trunk"], prompts, made, group)
                return apply_scalar_head(critic["value_head"], hidden)

            values = map_by_length(value, prompts, made, made.real, buckets, group)
            made = made._replace(values=jnp.where(made.mask, values, 0))
        return made

    return act


def make_collect(act: Act, score: Score) -> Collect:
    """Compose collect(params, ref_params, prompts, key[, mask_params]) -> Rollout."""

    def collect(
        params: Params,
        ref_params: Params,
        prompts: Prompts,
        key: jax.Array,
        mask_params: Params | None = None,
    ) -> Rollout:
        completions = act(params, prompts, key, mask_params)
        scored = score(ref_params, prompts, completions, mask_params)
        return Rollout(prompts, completions, scored.log_probs, scored.mask_hidden)

    return collect
