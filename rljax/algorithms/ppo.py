"""Proximal policy optimisation with a value head, for language models.

Schulman et al. 2017 (https://arxiv.org/abs/1707.06347) in the form of Ziegler et al. 2019
(https://arxiv.org/abs/1909.08593), with the details of Huang et al. 2023 and 2024
(https://arxiv.org/abs/2403.17031).

B completions a step, C completion slots.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rljax.advantages import gae
from rljax.algorithms.actor_critic import critic_values
from rljax.algorithms.learner import Metrics, make_learner
from rljax.algorithms.metrics import rollout_kl, rollout_metrics, update_metrics
from rljax.kl import KLConfig, make_kl_controller
from rljax.losses import clipped_policy_loss, clipped_value_loss
from rljax.masking import LossAggregation, masked_whiten, token_weights, weighted_loss
from rljax.models.transformer import Model
from rljax.rewards.shaping import (
    clip_scores,
    penalise_missing_eos,
    penalise_not_found,
    scale_scores,
    token_rewards,
    update_running_moments,
)
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.scoring import Score, make_score
from rljax.types import Completions, Rollout, TrainState

Params = dict[str, Any]
Update = Callable[[TrainState, Rollout, jax.Array, jax.Array], tuple[TrainState, Metrics]]


# ------------------------------------------------------------------------------------ Config


@dataclasses.dataclass(frozen=True)
class PPOConfig:
    """What PPO does with a batch of scored completions."""

    batch_size: int = 64
    """Completions a step (episodes)."""
    samples_per_prompt: int = 1
    """Completions of each prompt in a batch."""
    num_epochs: int = 4
    """Passes over each batch."""
    num_minibatches: int = 1
    """Optimizer updates in a pass."""
    gradient_accumulation: int = 1
    """Parts that a minibatch is computed in; the update is the same, the memory smaller."""
    clip_eps: float = 0.2
    """The ratio is clipped below at 1 - clip_eps, and above unless clip_eps_high is set."""
    clip_eps_high: float | None = None
    """Clip above at 1 + clip_eps_high (DAPO's clip-higher); None: clip_eps."""
    dual_clip: float | None = None
    """Bound the loss of tokens of negative advantage at this ratio (> 1, 3 is usual); None: off."""
    value_clip_eps: float | None = 0.2
    """Hold values this near to the old ones in the value loss; None: plain squared error."""
    value_coef: float = 0.1
    """Weight of the value loss."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus; 0 does not compute it."""
    gamma: float = 1.0
    """Discount of later rewards."""
    gae_lambda: float = 0.95
    """Generalised advantage estimation: 0 one-step, 1 Monte Carlo."""
    whiten_rewards: bool = True
    """Scale token rewards to unit variance, per minibatch, keeping their mean."""
    whiten_advantages: bool = True
    """Scale advantages to mean 0 and variance 1, per minibatch."""
    whiten_ddof: int = 0
    """0 divides the variance by n (OpenAI), 1 by n - 1 (torch)."""
    loss_aggregation: LossAggregation = "token"
    """token: mean over tokens; sequence: mean of sequence means; constant: over B * slots."""
    critic: Literal["shared", "separate"] = "shared"
    """Value head on the policy's trunk, or on a trunk of its own that starts as the policy's."""
    critic_warmup_steps: int = 0
    """Steps at the start in which only the critic learns; a shared trunk then stands still."""
    kl: KLConfig = KLConfig(coef=0.15, controller="openai")
    """The penalty that keeps the policy near its reference."""
    missing_eos_penalty: float | None = None
    """Score of a completion that never ends, in place of the reward's; None: no such rule."""
    truncate_token: int | None = None
    """Cut completions after the first such token id (GPT-2's '.' is 13); None: no such rule."""
    truncate_after: int = 16
    """Only truncate tokens at or after this position (from 0) count."""
    truncate_penalty: float = -1.0
    """Score of a completion without a truncate token."""
    scale_scores: Literal["none", "std", "mean_std"] = "none"
    """Divide scores by their running deviation (std), after centring (mean_std)."""
    clip_scores: float | None = None
    """Hold scores, once scaled, within plus and minus this; None: no bound."""
    ref_sync_every: int = 0
    """Steps between moves of the reference towards the policy (TR-DPO); 0: never."""
    ref_sync_mix: float = 0.6
    """Share of the policy in the reference after a move; 1: reset to the policy."""
    score_rows: int = 1024
    """Tokens whose logits exist at once when completions are scored."""

    def validate(self) -> None:
        """Raise ValueError on sizes that do not divide and values that mean nothing."""
        for name in (
            "batch_size",
            "samples_per_prompt",
            "num_epochs",
            "num_minibatches",
            "gradient_accumulation",
            "score_rows",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"ppo.{name} is {getattr(self, name)}; it must be at least 1")
        parts = self.num_minibatches * self.gradient_accumulation
        if self.batch_size % parts:
            raise ValueError(
                f"ppo.batch_size {self.batch_size} is not a multiple of num_minibatches x "
                f"gradient_accumulation = {parts}"
            )
        if self.batch_size % self.samples_per_prompt:
            raise ValueError(
                f"ppo.batch_size {self.batch_size} is not a multiple of samples_per_prompt "
                f"{self.samples_per_prompt}"
            )
        bounds = {
            "clip_eps": (0 < self.clip_eps < 1, "in (0, 1)"),
            "clip_eps_high": (self.clip_eps_high is None or self.clip_eps_high > 0, "positive"),
            "dual_clip": (self.dual_clip is None or self.dual_clip > 1, "above 1"),
            "value_clip_eps": (self.value_clip_eps is None or self.value_clip_eps > 0, "positive"),
            "value_coef": (self.value_coef >= 0, "at least 0"),
            "gamma": (0 <= self.gamma <= 1, "in [0, 1]"),
            "gae_lambda": (0 <= self.gae_lambda <= 1, "in [0, 1]"),
            "clip_scores": (self.clip_scores is None or self.clip_scores > 0, "positive"),
            "critic_warmup_steps": (self.critic_warmup_steps >= 0, "at least 0"),
            "truncate_after": (self.truncate_after >= 0, "at least 0"),
            "ref_sync_every": (self.ref_sync_every >= 0, "at least 0"),
            "ref_sync_mix": (0 < self.ref_sync_mix <= 1, "in (0, 1]"),
            "whiten_ddof": (self.whiten_ddof in (0, 1), "0 or 1"),
        }
        for name, (good, rule) in bounds.items():
            if not good:
                raise ValueError(f"ppo.{name} is {getattr(self, name)}; it must be {rule}")


# ------------------------------------------------------------------------ Advantages and targets


def drop_failures(rollout: Rollout, scores: jax.Array) -> tuple[Rollout, jax.Array]:
    """Mask out the completions whose score [B] is NaN, and make those scores 0.

    Without a real token they have advantage 0, and no weight in any mean or loss.
    """
    judged = ~jnp.isnan(scores)
    made = rollout.completions
    mask = made.mask & judged[:, None]
    completions = made._replace(
        mask=mask,
        log_probs=jnp.where(mask, made.log_probs, 0),
        values=jnp.where(mask, made.values, 0),
    )
    ref_log_probs = jnp.where(mask, rollout.ref_log_probs, 0)
    return Rollout(rollout.prompts, completions, ref_log_probs), jnp.where(judged, scores, 0)


class Minibatch(NamedTuple):
    """What the loss reads of a set of sequences."""

    rollout: Rollout
    advantages: jax.Array
    """[B, C] float32."""
    returns: jax.Array
    """[B, C] float32."""
    weights: jax.Array
    """[B, C]: each token's share of the loss; they stay as they are when a minibatch is split."""
    shares: jax.Array
    """[B, C]: each real token's share of all real tokens, for metrics."""


def final_scores(
    config: PPOConfig,
    eos_token_ids: Sequence[int],
    state: TrainState,
    rollout: Rollout,
    scores: Any,
) -> tuple[jax.Array, Any]:
    """Apply the score rules [B] -> [B]: scaling, bound, missing-EOS and truncation penalties.

    NaN, a completion without a score, stays NaN.
    """
    failed = jnp.isnan(scores)
    moments = update_running_moments(state.score_moments, scores)
    if config.scale_scores != "none":
        centre = config.scale_scores == "mean_std"
        scores = scale_scores(scores, moments, shift_mean=centre)
    if config.clip_scores is not None:
        scores = clip_scores(scores, limit=config.clip_scores)
    tokens, mask = rollout.completions.tokens, rollout.completions.mask
    if config.missing_eos_penalty is not None:
        penalty = config.missing_eos_penalty
        scores = penalise_missing_eos(scores, tokens, mask, eos_token_ids, penalty=penalty)
    if config.truncate_token is not None:
        late = jnp.arange(tokens.shape[1]) >= config.truncate_after
        found = jnp.any((tokens == config.truncate_token) & mask & late, axis=1)
        scores = penalise_not_found(scores, found, penalty=config.truncate_penalty)
    return jnp.where(failed, jnp.nan, scores), moments


def advantages_and_returns(
    config: PPOConfig, completions: Completions, rewards: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Compute a minibatch's advantages and returns, whitening as configured: [B, C] each."""
    mask, ddof = completions.mask, config.whiten_ddof
    if config.whiten_rewards:
        rewards = masked_whiten(rewards, mask, shift_mean=False, ddof=ddof)
    advantages, returns = gae(
        rewards, completions.values, mask, gamma=config.gamma, gae_lambda=config.gae_lambda
    )
    if config.whiten_advantages:
        advantages = masked_whiten(advantages, mask, ddof=ddof)
    return advantages, returns


def make_minibatch(config: PPOConfig, rollout: Rollout, rewards: jax.Array) -> Minibatch:
    """Compute what the loss needs of the sequences of one optimizer update."""
    mask = rollout.completions.mask
    advantages, returns = advantages_and_returns(config, rollout.completions, rewards)
    constant = mask.shape[1] if config.loss_aggregation == "constant" else None
    weights = token_weights(mask, config.loss_aggregation, constant_length=constant)
    return Minibatch(rollout, advantages, returns, weights, token_weights(mask, "token"))


# ---------------------------------------------------------------------------------------- Loss


def loss_fn(
    params: Params, batch: Minibatch, *, model: Model, score: Score, config: PPOConfig
) -> tuple[jax.Array, Metrics]:
    """Compute policy loss + value_coef value loss - entropy_coef entropy, and its metrics.

    With a minibatch in parts, the parts' losses and metrics (but maxima) add up to the whole's.
    """
    rollout, completions = batch.rollout, batch.rollout.completions
    scored = score(params["policy"], rollout.prompts, completions)
    values = critic_values(model, params, rollout.prompts, completions, scored.hidden)
    policy_losses, clipped = clipped_policy_loss(
        scored.log_probs,
        completions.log_probs,
        batch.advantages,
        clip_eps=config.clip_eps,
        clip_eps_high=config.clip_eps_high,
        dual_clip=config.dual_clip,
    )
    value_losses, value_clipped = clipped_value_loss(
        values, completions.values, batch.returns, value_clip_eps=config.value_clip_eps
    )
    policy_loss = weighted_loss(policy_losses, batch.weights)
    value_loss = weighted_loss(value_losses, batch.weights)
    entropy = weighted_loss(scored.entropy, batch.weights)
    loss = policy_loss + config.value_coef * value_loss - config.entropy_coef * entropy
    log_ratio = scored.log_probs - completions.log_probs
    metrics = {
        "policy/loss": policy_loss,
        "value/loss": value_loss,
        "policy/clip_fraction": jnp.sum(batch.shares * clipped),
        "value/clip_fraction": jnp.sum(batch.shares * value_clipped),
        "policy/approx_kl": jnp.sum(batch.shares * 0.5 * jnp.square(log_ratio)),
        "policy/ratio_max": jnp.max(jnp.exp(log_ratio)),
        "health/sampler_logprob_gap": jnp.max(jnp.abs(log_ratio)),
    }
    if config.entropy_coef:
        metrics["policy/entropy"] = jnp.sum(batch.shares * scored.entropy)
    return loss, metrics


# -------------------------------------------------------------------------------------- Update


def make_update(
    model: Model,
    config: PPOConfig,
    sampling: SamplingConfig,
    eos_token_ids: Sequence[int],
    optimizer: optax.GradientTransformation,
) -> Update:
    """Build update(state, rollout, scores [B] float32, key) -> state, metrics.

    Pure: epochs x minibatches x parts run inside. `key` only shuffles sequences into minibatches.
    A completion whose score is NaN (its reward failed) is not learnt from.
    Raises ValueError for an impossible config.
    """
    config.validate()
    score = make_score(
        model,
        sampling,
        eos_token_ids,
        with_entropy=config.entropy_coef != 0,
        rows=config.score_rows,
    )
    controller = make_kl_controller(config.kl)
    learn = make_learner(
        lambda params, batch: loss_fn(params, batch, model=model, score=score, config=config),
        optimizer,
        num_epochs=config.num_epochs,
        num_minibatches=config.num_minibatches,
        parts=config.gradient_accumulation,
    )

    def update(
        state: TrainState, rollout: Rollout, scores: jax.Array, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        final, moments = final_scores(config, eos_token_ids, state, rollout, scores)
        learnt, known = drop_failures(rollout, final)
        completions = learnt.completions
        rewards = token_rewards(
            known,
            completions.log_probs,
            learnt.ref_log_probs,
            completions.mask,
            kl_coef=state.kl_coef,
            estimator=config.kl.estimator,
        )
        warm = None
        if config.critic_warmup_steps:
            warm = (state.step >= config.critic_warmup_steps).astype(jnp.float32)
        (params, opt_state), metrics = learn(
            (state.params, state.opt_state),
            (learnt, rewards),
            lambda rows: make_minibatch(config, *rows),
            key,
            policy_factor=warm,
        )
        advantages, returns = advantages_and_returns(config, completions, rewards)
        report = rollout_metrics(
            rollout, scores, final, rewards, advantages, returns, eos_token_ids
        )
        report |= update_metrics(metrics) | {"objective/kl_coef": state.kl_coef}
        state = state._replace(
            params=params,
            opt_state=opt_state,
            kl_coef=controller.update(state.kl_coef, rollout_kl(rollout), scores.shape[0]),
            score_moments=moments,
            step=state.step + 1,
        )
        return state, report

    return update


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
