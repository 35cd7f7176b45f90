"""Proximal policy optimisation with a value head, for language models.

Schulman et al. 2017 (https://arxiv.org/abs/1707.06347) in the form of Ziegler et al. 2019
(https://arxiv.org/abs/1909.08593), with the details of Huang et al. 2023 and 2024
(https://arxiv.org/abs/2403.17031).

B completions a step, P prompt slots, C completion slots, D hidden.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rljax.advantages import gae
from rljax.kl import KLConfig, kl_estimate, make_kl_controller
from rljax.losses import clipped_policy_loss, clipped_value_loss
from rljax.masking import (
    LossAggregation,
    masked_mean,
    masked_std,
    masked_var,
    masked_whiten,
    token_weights,
    weighted_loss,
)
from rljax.models.heads import apply_scalar_head, init_value_head
from rljax.models.transformer import Model
from rljax.rewards.shaping import (
    clip_scores,
    init_running_moments,
    penalise_missing_eos,
    penalise_not_found,
    scale_scores,
    token_rewards,
    truncate_completions,
    update_running_moments,
)
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.sampler import Sample, make_sampler
from rljax.rollout.scoring import Score, completion_hidden, make_score
from rljax.types import Completions, Prompts, Rollout, TrainState

Params = dict[str, Any]
Metrics = dict[str, jax.Array]
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


# -------------------------------------------------------------------------------------- Collect


def init_state(
    policy: Params, config: PPOConfig, hidden_size: int, optimizer: optax.GradientTransformation
) -> TrainState:
    """Make the state before the first step; reference (and separate critic) start as the policy."""
    head = init_value_head(hidden_size)
    params: Params = {"policy": policy}
    if config.critic == "shared":
        params["value_head"] = head
    else:
        params["critic"] = {"trunk": jax.tree.map(jnp.copy, policy), "value_head": head}
    return TrainState(
        params=params,
        ref_params=jax.tree.map(jnp.copy, policy),
        opt_state=optimizer.init(params),
        kl_coef=make_kl_controller(config.kl).init(),
        score_moments=init_running_moments(),
        step=jnp.int32(0),
    )


def make_act(
    model: Model,
    config: PPOConfig,
    sampling: SamplingConfig,
    eos_token_ids: Sequence[int],
    pad_token_id: int,
) -> Callable[[Params, Prompts, jax.Array], Completions]:
    """Build act(params, prompts, key) -> Completions: sample, truncate, value.

    Values of a shared critic come out of the decode; a separate critic runs once over the result.
    """
    sample: Sample = make_sampler(model, sampling, eos_token_ids, pad_token_id)

    def act(params: Params, prompts: Prompts, key: jax.Array) -> Completions:
        made = sample(params["policy"], params.get("value_head"), prompts, key)
        if config.truncate_token is not None:
            tokens, mask, _ = truncate_completions(
                made.tokens,
                made.mask,
                truncate_token=config.truncate_token,
                truncate_after=config.truncate_after,
                pad_id=pad_token_id,
            )
            made = Completions(
                tokens, mask, jnp.where(mask, made.log_probs, 0), jnp.where(mask, made.values, 0)
            )
        if config.critic == "separate":
            critic = params["critic"]
            hidden = completion_hidden(model, critic["trunk"], prompts, made)
            values = apply_scalar_head(critic["value_head"], hidden)
            made = made._replace(values=jnp.where(made.mask, values, 0))
        return made

    return act


def make_collect(
    act: Callable[[Params, Prompts, jax.Array], Completions], score: Score
) -> Callable[[Params, Params, Prompts, jax.Array], Rollout]:
    """Compose collect(params, ref_params, prompts, key) -> Rollout from act and score."""

    def collect(params: Params, ref_params: Params, prompts: Prompts, key: jax.Array) -> Rollout:
        completions = act(params, prompts, key)
        ref_log_probs = score(ref_params, prompts, completions).log_probs
        return Rollout(prompts, completions, ref_log_probs)

    return collect


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


def final_scores(
    config: PPOConfig,
    eos_token_ids: Sequence[int],
    state: TrainState,
    rollout: Rollout,
    scores: Any,
) -> tuple[jax.Array, Any]:
    """Apply the score rules [B] -> [B]: scaling, bound, missing-EOS and truncation penalties."""
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
    return scores, moments


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
    if config.critic == "shared":
        values = apply_scalar_head(params["value_head"], scored.hidden)
    else:
        critic = params["critic"]
        hidden = completion_hidden(model, critic["trunk"], rollout.prompts, completions)
        values = apply_scalar_head(critic["value_head"], hidden)
    values = jnp.where(completions.mask, values, 0)
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


MAXIMA = ("policy/ratio_max", "health/sampler_logprob_gap")


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

    def gradients(params: Params, batch: Minibatch) -> tuple[Params, Metrics]:
        """Sum gradients over the parts of a minibatch."""
        parts = config.gradient_accumulation
        grad_fn = jax.grad(loss_fn, has_aux=True)
        if parts == 1:
            return grad_fn(params, batch, model=model, score=score, config=config)
        split = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)

        def add(total: Params, part: Minibatch) -> tuple[Params, Metrics]:
            grads, metrics = grad_fn(params, part, model=model, score=score, config=config)
            return jax.tree.map(jnp.add, total, grads), metrics

        grads, metrics = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), split)
        reduced = {k: v.max() if k in MAXIMA else v.sum() for k, v in metrics.items()}
        return grads, reduced

    def learn(carry: tuple[Params, Any], batch: Minibatch, policy_learns: Any) -> Any:
        """One optimizer update."""
        params, opt_state = carry
        grads, metrics = gradients(params, batch)
        if config.critic_warmup_steps:
            grads = grads | {"policy": _scaled(grads["policy"], policy_learns)}
        updates, opt_state = optimizer.update(grads, opt_state, params)
        if config.critic_warmup_steps:
            updates = updates | {"policy": _scaled(updates["policy"], policy_learns)}
        metrics["optim/grad_norm"] = optax.global_norm(grads)
        return (optax.apply_updates(params, updates), opt_state), metrics

    def update(
        state: TrainState, rollout: Rollout, scores: jax.Array, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        completions = rollout.completions
        final, moments = final_scores(config, eos_token_ids, state, rollout, scores)
        rewards = token_rewards(
            final,
            completions.log_probs,
            rollout.ref_log_probs,
            completions.mask,
            kl_coef=state.kl_coef,
            estimator=config.kl.estimator,
        )
        policy_learns = (state.step >= config.critic_warmup_steps).astype(jnp.float32)

        def one(carry: Any, rows: jax.Array) -> Any:
            chosen, chosen_rewards = jax.tree.map(lambda x: x[rows], (rollout, rewards))
            return learn(carry, make_minibatch(config, chosen, chosen_rewards), policy_learns)

        batch = scores.shape[0]
        keys = jax.random.split(key, config.num_epochs)
        orders = jax.vmap(lambda k: jax.random.permutation(k, batch))(keys)
        orders = orders.reshape(config.num_epochs * config.num_minibatches, -1)
        carry, metrics = jax.lax.scan(one, (state.params, state.opt_state), orders)
        sequence_kl = rollout_kl(rollout)
        report = rollout_metrics(config, rollout, scores, final, rewards, state.kl_coef)
        report |= update_metrics(metrics)
        state = state._replace(
            params=carry[0],
            opt_state=carry[1],
            kl_coef=controller.update(state.kl_coef, sequence_kl, batch),
            score_moments=moments,
            step=state.step + 1,
        )
        return state, report

    return update


def _scaled(tree: Params, factor: jax.Array) -> Params:
    return jax.tree.map(lambda leaf: leaf * factor.astype(leaf.dtype), tree)


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


# ------------------------------------------------------------------------------------- Metrics


def rollout_kl(rollout: Rollout) -> jax.Array:
    """Estimate KL(policy || reference) by k1: mean over the batch of nats per completion."""
    completions = rollout.completions
    k1 = kl_estimate(completions.log_probs, rollout.ref_log_probs, "k1")
    return jnp.mean(jnp.sum(jnp.where(completions.mask, k1, 0), axis=1))


def rollout_metrics(
    config: PPOConfig, rollout: Rollout, scores: Any, final: Any, rewards: Any, kl_coef: Any
) -> Metrics:
    """Describe a batch before it is learnt from; OpenAI's names for `objective/*`."""
    completions, mask = rollout.completions, rollout.completions.mask
    advantages, returns = advantages_and_returns(config, completions, rewards)
    lengths = jnp.sum(mask, axis=1)
    penalty = jnp.mean(jnp.sum(rewards, axis=1) - final)
    errors = masked_var(returns - completions.values, mask)
    spread = masked_var(returns, mask)
    return {
        "objective/kl": rollout_kl(rollout),
        "objective/kl_coef": kl_coef,
        "objective/entropy": -jnp.mean(jnp.sum(completions.log_probs, axis=1)),
        "objective/scores": jnp.mean(scores),
        "objective/scores_std": jnp.std(scores),
        "objective/score_total": jnp.mean(jnp.sum(rewards, axis=1)),
        "objective/non_score_reward": penalty,
        "advantages/mean": masked_mean(advantages, mask),
        "advantages/std": masked_std(advantages, mask),
        "value/mean": masked_mean(completions.values, mask),
        "value/returns_mean": masked_mean(returns, mask),
        "value/returns_var": spread,
        "value/explained_variance": jnp.where(
            spread > 0, 1 - errors / jnp.maximum(spread, 1e-12), 0
        ),
        "completion/length": jnp.mean(lengths.astype(jnp.float32)),
        "health/zero_advantage_fraction": masked_mean((advantages == 0).astype(jnp.float32), mask),
    }


def update_metrics(metrics: Metrics) -> Metrics:
    """Reduce metrics of the optimizer updates [U]: means, maxima, and the first update's gap."""
    report = {k: jnp.max(v) if k in MAXIMA else jnp.mean(v) for k, v in metrics.items()}
    # Only the first update is on-policy: there sampler and learner must agree.
    report["health/sampler_logprob_gap"] = metrics["health/sampler_logprob_gap"][0]
    return report
