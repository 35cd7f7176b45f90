"""Learn from what another policy sampled: the previous parameters, a coarser arithmetic, or a
mixture with uniform tokens.

Three policies: `old` sampled and gave its log-probabilities, `proximal` is the one that a step
starts from, and the third is learnt. The surrogate's ratio, with its clip, is learnt / proximal,
and each token's loss is weighted by min(proximal / old, cap): the decoupled objective of Hilton et
al. 2021 (https://arxiv.org/abs/2110.00641, section 3) with the weight truncated as in IMPALA
(Espeholt et al. 2018, https://arxiv.org/abs/1802.01561, rho-bar) and in the TIS of Yao et al. 2025
(https://fengyao.notion.site/off-policy-rl). A token is weighted given what stands before it: how
likely its prefix is stays the old policy's.

B completions of a batch, C completion slots.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax.algorithms.actor_critic import Compose, complete_mask, complete_params
from rljax.algorithms.batch import OnPolicyConfig
from rljax.algorithms.learner import Metrics
from rljax.kl import kl_estimate
from rljax.losses import sequence_log_ratio, truncated_importance_weights
from rljax.masking import masked_mean
from rljax.parallel import over_rows
from rljax.rollout.buckets import ONE_WIDTH, Buckets, map_by_length
from rljax.rollout.scoring import Score
from rljax.types import Completions, Prompts, Rollout

PolicyLogProbs = Callable[[Any, Rollout], jax.Array]
"""((trained, reference, masking policy or None), rollout) -> log-probs of the policy [B, C]."""


class Corrected(NamedTuple):
    """A batch as an update reads it."""

    rollout: Rollout
    """With the proximal policy's log-probabilities in place of the old ones."""
    weights: jax.Array | None
    """[B, C] of the policy's loss, 0 on padding; None: 1."""
    metrics: Metrics


def make_policy_log_probs(
    score: Score, compose: Compose, group: int = 1, buckets: Buckets = ONE_WIDTH
) -> PolicyLogProbs:
    """Build log_probs(policies, rollout): the policy's log-probs, as the learner computes them.

    group: so many rows in turn have the same prompt. buckets: how they are scored by length.
    """

    def log_probs(policies: Any, rollout: Rollout) -> jax.Array:
        params, base, masking = policies
        policy = complete_params(compose, params, base)["policy"]
        mask_params = complete_mask(compose, masking, base)

        def scored(prompts: Prompts, written: tuple[Completions, Any]) -> jax.Array:
            made, mask_hidden = written
            return score(policy, prompts, made, mask_params, mask_hidden, group=group).log_probs

        made = rollout.completions
        written = (made, rollout.mask_hidden)
        return map_by_length(scored, rollout.prompts, written, made.real, buckets, group)

    return log_probs


def make_correct(
    config: OnPolicyConfig, score: Score, compose: Compose, *, per_sequence: bool = False
) -> Callable[[Any, Rollout], Corrected]:
    """Build correct(policies, rollout) -> Corrected; without an importance_cap (the largest weight)
    the rollout is left as it is.

    per_sequence: all tokens of a completion share the weight of their mean log-ratio, which is the
    ratio of GSPO. policies: as `make_policy_log_probs`'s. Where a mixture with uniform tokens was
    sampled, the sampler gave the policy's own log-probs, which are the proximal ones: the learner's
    ratio to them, and with it health/sampler_logprob_gap, starts at 1 as without a mixture.
    Raises ValueError for such completions without a cap (at trace time).
    """
    cap = config.importance_cap
    log_probs = make_policy_log_probs(score, compose, config.sampled_group, config.buckets)

    def correct(policies: Any, rollout: Rollout) -> Corrected:
        made = rollout.completions
        own = made.policy_log_probs
        if cap is None:
            if own is not None:
                raise ValueError("a mixture with uniform tokens was sampled: set importance_cap")
            return Corrected(rollout, None, {})
        mask, old = made.mask, made.log_probs
        proximal = own if rollout.proximal_log_probs is None else rollout.proximal_log_probs
        if proximal is None:
            proximal = jax.lax.stop_gradient(over_rows(log_probs)(policies, rollout))
        proximal = jnp.where(mask, proximal, 0)  # failed completions are masked
        log_ratio = proximal - old
        if per_sequence:
            log_ratio = sequence_log_ratio(proximal, old, mask)
        weights = truncated_importance_weights(log_ratio, mask, cap=cap)
        metrics = importance_metrics(old, proximal, log_ratio, weights, mask, cap=cap)
        if own is not None:
            metrics = {name: x for name, x in metrics.items() if not name.startswith("health/")}
        completions = made._replace(log_probs=proximal, policy_log_probs=None)
        rollout = rollout._replace(completions=completions, proximal_log_probs=None)
        return Corrected(rollout, weights, metrics)

    return correct


def importance_metrics(
    old: jax.Array,
    proximal: jax.Array,
    log_ratio: jax.Array,
    weights: jax.Array,
    mask: jax.Array,
    *,
    cap: float,
) -> Metrics:
    """Describe how far the policy that sampled is from the one that learns; all [B, C] but the cap.

    effective_samples is (sum w)^2 / (n sum w^2), the share of n tokens that as many equal weights
    would be worth (Kong 1992); kl is KL(old || proximal) by k3, in nats per token; ratio_max is the
    largest weight without the cap.
    """
    ratio = jnp.where(mask, jnp.exp(log_ratio), 0)
    gap = jnp.where(mask, jnp.abs(proximal - old), 0)
    count, square = jnp.sum(mask), jnp.sum(jnp.square(weights))
    return {
        "importance/weight_mean": masked_mean(weights, mask),
        "importance/ratio_max": jnp.max(ratio),
        "importance/capped_fraction": masked_mean((ratio > cap).astype(jnp.float32), mask),
        "importance/effective_samples": jnp.square(jnp.sum(weights))
        / jnp.maximum(count * square, 1e-12),
        "importance/kl": masked_mean(kl_estimate(old, proximal, "k3"), mask),
        # the learner's ratio starts at 1 by construction: the samplers' gap is this one
        "health/sampler_logprob_gap": jnp.max(gap),
        "health/sampler_logprob_mean_gap": masked_mean(gap, mask),
    }
