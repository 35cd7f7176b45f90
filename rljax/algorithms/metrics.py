"""Describe a batch and what was learnt from it; OpenAI's names, so that curves can be overlaid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rljax.algorithms.learner import MAXIMA, Metrics
from rljax.kl import kl_estimate
from rljax.masking import has_any_of, masked_mean, masked_std, masked_var
from rljax.types import Completions, Rollout


def rollout_kl(rollout: Rollout) -> jax.Array:
    """Estimate KL(policy || reference) by k1: mean over completions of nats per completion.

    Of tokens that a mixture with uniform ones has sampled, each counts pi / mu times: given its
    prefix, that is the policy's own KL.
    """
    completions = rollout.completions
    k1 = kl_estimate(completions.own_log_probs, rollout.ref_log_probs, "k1")
    if completions.policy_log_probs is not None:
        k1 *= jnp.exp(completions.policy_log_probs - completions.log_probs)
    total = jnp.sum(jnp.where(completions.mask, k1, 0), axis=1)
    return masked_mean(total, jnp.any(completions.mask, axis=1))


def cut_off(completions: Completions, eos_token_ids: Sequence[int]) -> jax.Array:
    """Say which completions [B] fill all slots without an end."""
    mask = completions.mask
    return jnp.all(mask, axis=1) & ~has_any_of(completions.tokens, mask, eos_token_ids)


def rollout_metrics(
    rollout: Rollout,
    scores: jax.Array,
    good: jax.Array,
    final: jax.Array,
    rewards: jax.Array,
    advantages: jax.Array,
    eos_token_ids: Sequence[int],
) -> Metrics:
    """Describe a batch before it is learnt from; every mean is over real tokens or completions.

    scores [B]: as the reward gave them; good [B]: where it did not fail; final [B]: after scaling
    and penalties; rewards, advantages [B, C].
    """
    completions, mask = rollout.completions, rollout.completions.mask
    totals = jnp.sum(rewards, axis=1)

    def mean(x: jax.Array) -> jax.Array:
        return masked_mean(x.astype(jnp.float32), good)

    return {
        "objective/entropy": -mean(jnp.sum(completions.log_probs, axis=1)),
        "objective/scores": mean(scores),
        "objective/scores_std": masked_std(scores, good),
        "objective/score_total": mean(totals),
        "objective/non_score_reward": mean(totals - final),
        "advantages/mean": masked_mean(advantages, mask),
        "advantages/std": masked_std(advantages, mask),
        "completion/length": mean(jnp.sum(mask, axis=1)),
        "completion/eos_fraction": mean(has_any_of(completions.tokens, mask, eos_token_ids)),
        "completion/truncated_fraction": mean(cut_off(completions, eos_token_ids)),
        "health/zero_advantage_fraction": masked_mean((advantages == 0).astype(jnp.float32), mask),
        "health/reward_failures": jnp.sum(~good),
    }


def value_metrics(completions: Completions, returns: jax.Array) -> Metrics:
    """Describe how well the critic foresaw the returns [B, C] of a batch."""
    mask = completions.mask
    spread = masked_var(returns, mask)
    errors = masked_var(returns - completions.values, mask)
    return {
        "value/mean": masked_mean(completions.values, mask),
        "value/returns_mean": masked_mean(returns, mask),
        "value/returns_var": spread,
        "value/explained_variance": jnp.where(
            spread > 0, 1 - errors / jnp.maximum(spread, 1e-12), 0
        ),
    }


def ratio_metrics(
    policy_loss: jax.Array,
    clipped: jax.Array,
    token_log_ratio: jax.Array,
    log_ratio: jax.Array,
    shares: jax.Array,
) -> Metrics:
    """Describe how far the policy has moved from the step's first; all [B, C] but the loss.

    clipped: where the clip acts; log_ratio: what it acts on, each token's own or its sequence's;
    shares: each token's share of all real tokens.
    """
    return {
        "policy/loss": policy_loss,
        "policy/clip_fraction": jnp.sum(shares * clipped),
        "policy/approx_kl": jnp.sum(shares * 0.5 * jnp.square(token_log_ratio)),
        "policy/ratio_max": jnp.max(jnp.exp(log_ratio)),
        "health/sampler_logprob_gap": jnp.max(jnp.abs(token_log_ratio)),
        "health/sampler_logprob_mean_gap": jnp.sum(shares * jnp.abs(token_log_ratio)),
    }


TOKENS = "tokens/"
"""Numbers of single tokens stand among a step's metrics under names that begin so."""


def token_metrics(
    shown: int, advantages: jax.Array, rewards: jax.Array, proximal: Rollout | None = None
) -> Metrics:
    """Keep what an update gave the tokens of a batch's first completions: "tokens/NAME" [shown, C].

    advantages, rewards [B, C]; proximal: the batch with the log-probs of the policy that the step
    starts from, where another one sampled. Of 0 completions nothing is kept.
    """
    kept = {"advantage": advantages, "reward": rewards}
    if proximal is not None:
        kept["learner_log_prob"] = proximal.completions.log_probs
    return {f"{TOKENS}{name}": array[:shown] for name, array in kept.items() if shown}


def split_tokens(metrics: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a step's metrics, one number each, and apart the numbers of tokens, by NAME."""
    tokens = {
        name.removeprefix(TOKENS): x for name, x in metrics.items() if name.startswith(TOKENS)
    }
    return {name: x for name, x in metrics.items() if not name.startswith(TOKENS)}, tokens


def update_metrics(metrics: Metrics) -> Metrics:
    """Reduce metrics of the optimizer updates [U]: means, maxima, and the first update's gaps."""
    report = {k: jnp.max(v) if k in MAXIMA else jnp.mean(v) for k, v in metrics.items()}
    # Only the first update is on-policy: there sampler and learner must agree.
    for name in ("health/sampler_logprob_gap", "health/sampler_logprob_mean_gap"):
        report[name] = metrics[name][0]
    return report
