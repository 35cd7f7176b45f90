"""Describe a batch and what was learnt from it; OpenAI's names, so that curves can be overlaid."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from rljax.algorithms.learner import MAXIMA, Metrics
from rljax.kl import kl_estimate
from rljax.masking import is_any_of, masked_mean, masked_std, masked_var
from rljax.types import Rollout


def rollout_kl(rollout: Rollout) -> jax.Array:
    """Estimate KL(policy || reference) by k1: mean over the batch of nats per completion."""
    completions = rollout.completions
    k1 = kl_estimate(completions.log_probs, rollout.ref_log_probs, "k1")
    return jnp.mean(jnp.sum(jnp.where(completions.mask, k1, 0), axis=1))


def rollout_metrics(
    rollout: Rollout,
    scores: jax.Array,
    final: jax.Array,
    rewards: jax.Array,
    advantages: jax.Array,
    returns: jax.Array,
    eos_token_ids: Sequence[int],
) -> Metrics:
    """Describe a batch before it is learnt from; every mean is over real tokens or completions.

    scores [B]: as the reward gave them, NaN where it failed; final [B]: after scaling and
    penalties; rewards, advantages, returns [B, C]. Completions without a score count in what needs
    none: KL, entropy, lengths.
    """
    completions, mask = rollout.completions, rollout.completions.mask
    judged = ~jnp.isnan(scores)
    learnt = mask & judged[:, None]
    ended = jnp.any(is_any_of(completions.tokens, eos_token_ids) & mask, axis=1)
    full = jnp.all(mask, axis=1) & ~ended
    totals = jnp.sum(rewards, axis=1)
    spread = masked_var(returns, learnt)
    errors = masked_var(returns - completions.values, learnt)
    explained = jnp.where(spread > 0, 1 - errors / jnp.maximum(spread, 1e-12), 0)
    return {
        "objective/kl": rollout_kl(rollout),
        "objective/entropy": -jnp.mean(jnp.sum(completions.log_probs, axis=1)),
        "objective/scores": masked_mean(scores, judged),
        "objective/scores_std": masked_std(scores, judged),
        "objective/score_total": masked_mean(totals, judged),
        "objective/non_score_reward": masked_mean(totals - final, judged),
        "advantages/mean": masked_mean(advantages, learnt),
        "advantages/std": masked_std(advantages, learnt),
        "value/mean": masked_mean(completions.values, learnt),
        "value/returns_mean": masked_mean(returns, learnt),
        "value/returns_var": spread,
        "value/explained_variance": explained,
        "completion/length": jnp.mean(jnp.sum(mask, axis=1).astype(jnp.float32)),
        "completion/eos_fraction": jnp.mean(ended.astype(jnp.float32)),
        "completion/truncated_fraction": jnp.mean(full.astype(jnp.float32)),
        "health/zero_advantage_fraction": masked_mean(
            (advantages == 0).astype(jnp.float32), learnt
        ),
        "health/reward_failures": jnp.sum(~judged).astype(jnp.float32),
    }


def update_metrics(metrics: Metrics) -> Metrics:
    """Reduce metrics of the optimizer updates [U]: means, maxima, and the first update's gap."""
    report = {k: jnp.max(v) if k in MAXIMA else jnp.mean(v) for k, v in metrics.items()}
    # Only the first update is on-policy: there sampler and learner must agree.
    report["health/sampler_logprob_gap"] = metrics["health/sampler_logprob_gap"][0]
    return report
