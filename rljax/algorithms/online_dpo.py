"""Online DPO: sample completions, let the reward prefer one of each prompt, take a DPO step.

Guo et al. 2024 (https://arxiv.org/abs/2402.04792), with the task's reward as the judge. Of more
than two completions of a prompt the best and the worst make the pair.

B completions a step, C completion slots, G of each prompt, n = B / G pairs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from rljax.algorithms.actor_critic import Compose, all_trained
from rljax.algorithms.batch import (
    OnPolicyConfig,
    drop_failed,
    final_scores,
    make_batch_learner,
    next_state,
)
from rljax.algorithms.buckets import shorten_preferences
from rljax.algorithms.dpo import DPOConfig, outcome, sequence_log_probs
from rljax.algorithms.learner import Metrics
from rljax.algorithms.metrics import rollout_kl, rollout_metrics, token_metrics, update_metrics
from rljax.kl import KLConfig
from rljax.models.transformer import Model
from rljax.rewards.shaping import place_at_last_token
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.scoring import Score, make_score
from rljax.tasks.preference_batches import PreferenceBatch
from rljax.traced import check
from rljax.types import Rollout, TrainState

Params = dict[str, Any]
Update = Callable[[TrainState, Rollout, jax.Array, jax.Array], tuple[TrainState, Metrics]]
NO_KL = KLConfig(coef=0.0)


# ------------------------------------------------------------------------------------ Config


@dataclasses.dataclass(frozen=True)
class OnlineDPOConfig(OnPolicyConfig):
    """What online DPO does with a batch of scored completions."""

    samples_per_prompt: int = 2
    """Completions of each prompt; the best and the worst make its pair."""
    num_epochs: int = 1
    """Passes over each batch of pairs."""
    loss: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
    """DPO's, IPO's or SLiC's."""
    beta: float = 0.1
    """Strength of the tie to the reference; IPO's tau."""
    label_smoothing: float = 0.0
    """Probability that the reward prefers the wrong one; of sigmoid."""
    margin_scale: float = 0.0
    """Ask for a lead of this times the difference of the scores; of sigmoid."""
    kl: KLConfig = NO_KL
    """Stays as it is: beta ties the policy to its reference."""

    @property
    def pairwise(self) -> DPOConfig:
        """The loss of a pair."""
        return DPOConfig(
            loss=self.loss,
            beta=self.beta,
            label_smoothing=self.label_smoothing,
            margin_scale=self.margin_scale,
        )

    @property
    def allows_stale(self) -> bool:
        """Always: a preference holds whoever wrote the pair."""
        return True

    @property
    def pass_rows(self) -> tuple[int, str]:
        """Pairs whose gradient is computed at once, and what they are in terms of the flags."""
        rows, what = super().pass_rows
        return rows // self.samples_per_prompt, f"{what} / samples_per_prompt, the pairs"

    @property
    def episode_rewards(self) -> Literal["sum", "turns", "none"]:
        """What is learnt of an environment's rewards: nothing, conversations make no pairs."""
        return "none"

    def validate(self) -> None:
        """Raise ValueError on sizes that do not divide and flags that nothing reads."""
        super().validate()
        self.pairwise.validate()
        parts = self.num_minibatches * self.gradient_accumulation
        self.require(
            samples_per_prompt=(self.samples_per_prompt >= 2, "at least 2: a pair"),
            batch_size=(
                (self.batch_size // self.samples_per_prompt) % parts == 0,
                f"such that its pairs, one of {self.samples_per_prompt} completions, are a "
                f"multiple of num_minibatches x gradient_accumulation = {parts}",
            ),
            kl=(self.kl == NO_KL, "left as it is: beta ties the policy to its reference"),
            entropy_coef=(self.entropy_coef == 0, "0: there is no entropy bonus"),
            target_entropy=(self.target_entropy is None, "None: there is no entropy bonus"),
            importance_cap=(
                self.importance_cap is None, "None: a preference holds whoever wrote the pair"
            ),
            loss_aggregation=(
                self.loss_aggregation == "token", "left as it is: the loss is one of pairs"
            ),
        )  # fmt: skip


# ------------------------------------------------------------------------------------- The pairs


def best_and_worst(scores: jax.Array, good: jax.Array, group_size: int) -> jax.Array:
    """Find the rows [n, 2] of the best and the worst judged completion of each prompt."""
    grouped, judged = scores.reshape(-1, group_size), good.reshape(-1, group_size)
    best = jnp.argmax(jnp.where(judged, grouped, -jnp.inf), axis=1)
    worst = jnp.argmin(jnp.where(judged, grouped, jnp.inf), axis=1)
    return jnp.stack([best, worst], axis=1) + group_size * jnp.arange(len(best))[:, None]


def choose_pairs(
    rollout: Rollout, scores: jax.Array, good: jax.Array, group_size: int
) -> tuple[PreferenceBatch, jax.Array, jax.Array]:
    """Pair the best with the worst completion of each prompt: n pairs, their rows [n, 2], signs.

    Groups whose judged completions all have one score, or of which fewer than two are judged, have
    weight 0 (the others 1). signs [B]: 1 on chosen completions, -1 on rejected ones, 0 else.
    """
    places = best_and_worst(scores, good, group_size)
    judged = jnp.sum(good.reshape(-1, group_size), axis=1)
    lead = scores[places[:, 0]] - scores[places[:, 1]]
    weights = ((lead > 0) & (judged >= 2)).astype(jnp.float32)
    completions = rollout.completions
    batch = PreferenceBatch(
        prompt_tokens=rollout.prompts.tokens[places[:, 0]],
        prompt_mask=rollout.prompts.mask[places[:, 0]],
        tokens=completions.tokens[places],
        mask=completions.mask[places],
        values=jnp.tile(jnp.array([1.0, 0.0]), (len(places), 1)),
        valid=jnp.ones(places.shape, bool),
        margins=lead,
        ref_log_probs=jnp.sum(rollout.ref_log_probs, axis=1)[places],
        weights=weights,
    )
    signs = jnp.zeros(scores.shape).at[places[:, 0]].add(weights).at[places[:, 1]].add(-weights)
    return batch, places, signs


# ---------------------------------------------------------------------------------------- Loss


def loss_fn(
    policy: Params,
    batch: PreferenceBatch,
    old_log_probs: jax.Array,
    *,
    score: Score,
    config: OnlineDPOConfig,
) -> tuple[jax.Array, Metrics]:
    """Compute the mean loss of pairs whose weights add up to 1 (or are all 0), and its metrics.

    old_log_probs: [n, 2] of whole completions as they were sampled. Over the parts of a minibatch
    losses and metrics (but maxima) add up to the whole's.
    """
    log_probs = sequence_log_probs(score, policy, batch)
    made = outcome(config.pairwise, batch, log_probs, jnp.float32(0))
    loss = jnp.sum(batch.weights * jnp.where(batch.weights > 0, made.loss, 0))
    rewards = jnp.sum(batch.weights[:, None] * made.rewards, axis=0)
    gap = jnp.abs(log_probs - old_log_probs) / jnp.maximum(jnp.sum(batch.mask, axis=2), 1)
    return loss, {
        "policy/loss": loss,
        "rewards/chosen": rewards[0],
        "rewards/rejected": rewards[1],
        "rewards/margin": rewards[0] - rewards[1],
        "rewards/accuracy": jnp.sum(batch.weights * made.correct),
        "health/sampler_logprob_gap": jnp.max(gap),
        "health/sampler_logprob_mean_gap": jnp.sum(batch.weights * jnp.mean(gap, axis=1)),
    }


# -------------------------------------------------------------------------------------- Update


def make_update(
    model: Model,
    config: OnlineDPOConfig,
    sampling: SamplingConfig,
    eos_token_ids: Sequence[int],
    optimizer: optax.GradientTransformation,
    compose: Compose = all_trained,
    shown: int = 0,
) -> Update:
    """Build update(state, rollout, scores [B] float32, key) -> state, metrics.

    Rows g G to (g + 1) G must be one prompt's; a score of NaN is a failed reward, whose completion
    is in no pair. `key` only shuffles pairs into minibatches. compose, shown: as PPO's. Raises
    ValueError for an impossible config.
    """
    check(config)
    score = make_score(model, sampling, eos_token_ids, rows=config.score_rows)
    learn = make_batch_learner(
        config,
        optimizer,
        compose,
        lambda params, _, rows: loss_fn(params["policy"], *rows, score=score, config=config),
        shorten=shorten_preferences(config.length_buckets),
    )

    def prepare(minibatch: tuple[PreferenceBatch, jax.Array]) -> tuple[PreferenceBatch, jax.Array]:
        batch, old = minibatch
        return batch._replace(weights=batch.weights / jnp.maximum(jnp.sum(batch.weights), 1)), old

    def update(
        state: TrainState, rollout: Rollout, scores: jax.Array, key: jax.Array
    ) -> tuple[TrainState, Metrics]:
        kl = rollout_kl(rollout)
        rollout, scores, good = drop_failed(rollout, scores)
        final, moments = final_scores(
            config, eos_token_ids, state.score_moments, rollout, scores, good
        )
        batch, places, signs = choose_pairs(rollout, final, good, config.samples_per_prompt)
        old = jnp.sum(rollout.completions.own_log_probs, axis=1)[places]
        mask = rollout.completions.mask
        advantages = jnp.where(mask, signs[:, None], 0)
        rewards = place_at_last_token(final, mask)
        report = rollout_metrics(rollout, scores, good, final, rewards, advantages, eos_token_ids)
        report |= token_metrics(shown, advantages, rewards)
        trained, metrics = learn(
            (state.params, state.opt_state),
            (state.ref_params, state.kl_coef),
            (batch, old),
            prepare,
            key,
        )
        report |= update_metrics(metrics) | {
            "objective/kl": kl,
            "objective/informative_groups": jnp.mean(batch.weights),
        }
        return next_state(state, trained, moments, state.kl_coef), report

    return update
