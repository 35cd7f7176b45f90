"""Proximal policy optimisation with a value head, for language models.

Schulman et al. 2017 (https://arxiv.org/abs/1707.06347) in the form of Ziegler et al. 2019
(https://arxiv.org/abs/1909.08593), with the details of Huang et al. 2023 and 2024
(https://arxiv.org/abs/2403.17031).

With an action mask it is NLPO, natural language policy optimisation (Ramamurthy et al. 2022,
https://arxiv.org/abs/2210.01241): a masking policy, which is the policy of some steps ago, allows
its top-p tokens, and all others have probability 0 in the policy that samples and that is trained,
and in the reference that it is compared with. In RL4LMs the reference is not masked, and the
masking policy is renewed before a step's update; here after it.

B completions a step, C completion slots.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rljax.advantages import gae, lambda_returns
from rljax.algorithms.actor_critic import Compose, all_trained, complete_mask, critic_values
from rljax.algorithms.batch import (
    OnPolicyConfig,
    drop_failed,
    entropy_coef_of,
    final_scores,
    loss_weights,
    make_batch_learner,
    make_loss_score,
    next_state,
    steer_entropy,
)
from rljax.algorithms.importance import make_correct
from rljax.algorithms.learner import Metrics
from rljax.algorithms.metrics import (
    ratio_metrics,
    rollout_kl,
    rollout_metrics,
    token_metrics,
    update_metrics,
    value_metrics,
)
from rljax.kl import make_kl_controller
from rljax.losses import clipped_policy_loss, clipped_value_loss
from rljax.masking import masked_mean, masked_whiten, token_weights, weighted_loss
from rljax.models.transformer import Model
from rljax.rewards.shaping import token_rewards
from rljax.rollout.distribution import ActionMask, SamplingConfig
from rljax.rollout.scoring import Score
from rljax.traced import check, is_zero
from rljax.types import Completions, Rollout, TrainState

Params = dict[str, Any]
Update = Callable[[TrainState, Rollout, jax.Array, jax.Array], tuple[TrainState, Metrics]]


# ------------------------------------------------------------------------------------ Config


@dataclasses.dataclass(frozen=True)
class PPOConfig(OnPolicyConfig):
    """What PPO does with a batch of scored completions."""

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
    gamma: float = 1.0
    """Discount of later rewards."""
    gae_lambda: float = 0.95
    """Generalised advantage estimation: 0 one-step, 1 Monte Carlo."""
    value_lambda: float | None = None
    """The same for what the critic learns (decoupled GAE, VC-PPO: 1); None: gae_lambda."""
    whiten_rewards: bool = True
    """Scale token rewards to unit variance, per minibatch, keeping their mean."""
    whiten_advantages: bool = True
    """Scale advantages to mean 0 and variance 1, per minibatch."""
    whiten_ddof: int = 0
    """0 divides the variance by n (OpenAI), 1 by n - 1 (torch)."""
    critic: Literal["shared", "separate"] = "shared"
    """Value head on the policy's trunk, or on a trunk of its own that starts as the policy's."""
    critic_warmup_steps: int = 0
    """Steps at the start in which only the critic learns; a shared trunk then stands still."""
    mask_top_p: float = 1.0
    """NLPO: allow only the nucleus of this mass of the masking policy, an earlier policy; 1: off.
    It holds in training and in a run's own evaluations; what is evaluated, generated or exported
    from the run later is the policy alone, without a mask."""
    mask_min_tokens: int = 100
    """The masking policy allows at least so many tokens, its most probable ones."""
    mask_sync_every: int = 5
    """Steps between copies of the policy to the masking policy; 0: it stays the first policy."""

    @property
    def episode_rewards(self) -> Literal["sum", "turns", "none"]:
        """What is learnt of an environment's rewards: each turn's."""
        return "turns"

    @property
    def action_mask(self) -> ActionMask | None:
        """Which tokens the masking policy allows; None: there is no such policy."""
        if self.mask_top_p == 1:
            return None
        return ActionMask(top_p=self.mask_top_p, min_tokens=self.mask_min_tokens)

    def mask_is_due(self, steps: int) -> bool:
        """Say whether the masking policy becomes a copy of the policy after so many steps."""
        every = self.mask_sync_every
        return self.action_mask is not None and every > 0 and steps % every == 0

    def validate(self) -> None:
        """Raise ValueError on sizes that do not divide and values that mean nothing."""
        super().validate()
        self.require(
            clip_eps=(0 < self.clip_eps < 1, "in (0, 1)"),
            clip_eps_high=(self.clip_eps_high is None or self.clip_eps_high > 0, "positive"),
            dual_clip=(self.dual_clip is None or self.dual_clip > 1, "above 1"),
            value_clip_eps=(self.value_clip_eps is None or self.value_clip_eps > 0, "positive"),
            value_coef=(self.value_coef >= 0, "at least 0"),
            gamma=(0 <= self.gamma <= 1, "in [0, 1]"),
            gae_lambda=(0 <= self.gae_lambda <= 1, "in [0, 1]"),
            value_lambda=(
                self.value_lambda is None or 0 <= self.value_lambda <= 1,
                "in [0, 1], or None",
            ),
            critic_warmup_steps=(self.critic_warmup_steps >= 0, "at least 0"),
            whiten_ddof=(self.whiten_ddof in (0, 1), "0 or 1"),
            mask_top_p=(0 < self.mask_top_p <= 1, "in (0, 1]"),
            mask_min_tokens=(self.mask_min_tokens >= 1, "at least 1"),
            mask_sync_every=(self.mask_sync_every >= 0, "at least 0"),
        )
        if self.action_mask is None:
            for name in ("mask_min_tokens", "mask_sync_every"):
                if getattr(self, name) != getattr(PPOConfig, name):
                    raise ValueError(
                        f"{name} is {getattr(self, name)}, but mask_top_p is 1: there is no "
                        "masking policy; set mask_top_p below 1"
                    )


# ------------------------------------------------------------------------ Advantages and targets


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
    policy_weights: jax.Array
    """[B, C]: `weights`, times the importance weights where there are any."""


def charged_rewards(
    config: PPOConfig, final: jax.Array, rollout: Rollout, completions: Completions, kl_coef: Any
) -> jax.Array:
    """Compute token rewards [B, C]: final scores [B] and turns' rewards, less the KL penalty.

    completions: those of the rollout, with the log-probs that the penalty compares.
    """
    return token_rewards(
        final,
        completions.log_probs,
        rollout.ref_log_probs,
        completions.mask,
        kl_coef=kl_coef,
        estimator=config.kl.estimator,
        turn_rewards=rollout.turn_rewards,
    )


def advantages_and_returns(
    config: PPOConfig, completions: Completions, rewards: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Compute a minibatch's advantages and returns, whitening as configured: [B, C] each.

    With value_lambda the returns have a lambda of their own: Yuan et al. 2025, section 3.3
    (https://arxiv.org/abs/2503.01491).
    """
    mask, ddof = completions.mask, config.whiten_ddof
    if config.whiten_rewards:
        rewards = masked_whiten(rewards, mask, shift_mean=False, ddof=ddof)
    advantages, returns = gae(
        rewards, completions.values, mask, gamma=config.gamma, gae_lambda=config.gae_lambda
    )
    if config.value_lambda is not None:
        returns = lambda_returns(
            rewards, completions.values, mask, gamma=config.gamma, gae_lambda=config.value_lambda
        )
    if config.whiten_advantages:
        advantages = masked_whiten(advantages, mask, ddof=ddof)
    return advantages, returns


def make_minibatch(
    config: PPOConfig, rollout: Rollout, rewards: jax.Array, importance: jax.Array | None = None
) -> Minibatch:
    """Compute what the loss needs of the sequences of one optimizer update.

    importance: weights [B, C] of the policy's loss; None: 1. The critic learns what the sampled
    returns are, and is not weighted.
    """
    mask = rollout.completions.mask
    advantages, returns = advantages_and_returns(config, rollout.completions, rewards)
    weights = loss_weights(config, mask)
    policy_weights = weights if importance is None else weights * importance
    shares = token_weights(mask, "token")
    return Minibatch(rollout, advantages, returns, weights, shares, policy_weights)


# ---------------------------------------------------------------------------------------- Loss


def loss_fn(
    params: Params,
    context: tuple[Params | None, float | jax.Array],
    batch: Minibatch,
    *,
    model: Model,
    score: Score,
    config: PPOConfig,
) -> tuple[jax.Array, Metrics]:
    """Compute policy loss + value_coef value loss - entropy_coef entropy, and its metrics.

    context: the masking policy, whose head runs again (its trunk's states are in the batch), and
    entropy_coef.
    With a minibatch in parts, the parts' losses and metrics (but maxima) add up to the whole's.
    """
    rollout, completions = batch.rollout, batch.rollout.completions
    (mask_params, entropy_coef), prompts = context, rollout.prompts
    group = config.learnt_group
    masking = (mask_params, rollout.mask_hidden)
    scored = score(params["policy"], prompts, completions, *masking, group=group)
    values = critic_values(model, params, prompts, completions, scored.hidden, group)
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
    policy_loss = weighted_loss(policy_losses, batch.policy_weights)
    value_loss = weighted_loss(value_losses, batch.weights)
    entropy = weighted_loss(scored.entropy, batch.weights)
    loss = policy_loss + config.value_coef * value_loss - entropy_coef * entropy
    log_ratio = scored.log_probs - completions.log_probs
    metrics = ratio_metrics(policy_loss, clipped, log_ratio, log_ratio, batch.shares) | {
        "value/loss": value_loss,
        "value/clip_fraction": jnp.sum(batch.shares * value_clipped),
    }
    if not is_zero(config.entropy_coef):
        metrics["policy/entropy"] = jnp.sum(batch.shares * scored.entropy)
    return loss, metrics


# -------------------------------------------------------------------------------------- Update


def policy_factor(config: PPOConfig, step: jax.Array) -> jax.Array | None:
    """Return 0 while only the critic learns, then 1; None: it always is 1."""
    if not config.critic_warmup_steps:
        return None
    return (step >= config.critic_warmup_steps).astype(jnp.float32)


def completion_metrics(completions: Completions, returns: jax.Array) -> Metrics:
    """Compute what is reported of a batch's values, and of the tokens that a mask allowed."""
    report = value_metrics(completions, returns)
    if completions.allowed is not None:
        report["policy/allowed_tokens"] = masked_mean(completions.allowed, completions.mask)
    return report


def make_update(
    model: Model,
    config: PPOConfig,
    sampling: SamplingConfig,
    eos_token_ids: Sequence[int],
    optimizer: optax.GradientTransformation,
    compose: Compose = all_trained,
    shown: int = 0,
) -> Update:
    """Build update(state, rollout, scores [B] float32, key) -> state, metrics.

    Pure: epochs x minibatches x parts run inside. `key` only shuffles sequences into minibatches.
    compose: makes whole models of the trained parts and the frozen `ref_params`. shown: the first
    completions, whose tokens' advantages and rewards are among the metrics, see `token_metrics`.
    Raises ValueError for an impossible config.
    """
    check(config)
    score = make_loss_score(model, config, sampling, eos_token_ids)
    correct = make_correct(config, score, compose)
    controller = make_kl_controller(config.kl)
    learn = make_batch_learner(
        config,
        optimizer,
        compose,
        functools.partial(loss_fn, model=model, score=score, config=config),
        config.learnt_group,
    )

    def update(
        state: TrainState, rollout: Rollout, scores: jax.Array, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        kl = rollout_kl(rollout)  # needs no score: of the whole batch
        rollout, scores, good = drop_failed(rollout, scores)
        policies = (state.params, state.ref_params, state.mask_params)
        proximal, weights, importance = correct(policies, rollout)
        completions = proximal.completions
        final, moments = final_scores(
            config, eos_token_ids, state.score_moments, rollout, scores, good
        )
        rewards = charged_rewards(config, final, rollout, completions, state.kl_coef)
        masking = complete_mask(compose, state.mask_params, state.ref_params)
        factor = policy_factor(config, state.step)
        trained, metrics = learn(
            (state.params, state.opt_state),
            (state.ref_params, (masking, entropy_coef_of(config, state))),
            (proximal, rewards, weights),
            lambda rows: make_minibatch(config, *rows),
            key,
            policy_factor=factor,
        )
        advantages, returns = advantages_and_returns(config, completions, rewards)
        report = rollout_metrics(rollout, scores, good, final, rewards, advantages, eos_token_ids)
        report |= completion_metrics(completions, returns)
        report |= update_metrics(metrics) | importance
        report |= {"objective/kl": kl, "objective/kl_coef": state.kl_coef}
        report |= token_metrics(shown, advantages, rewards, None if weights is None else proximal)
        state, steered = steer_entropy(config, state, report, factor)
        report |= steered
        kl_coef = controller.update(state.kl_coef, kl, scores.shape[0])
        return next_state(state, trained, moments, kl_coef), report

    return update
