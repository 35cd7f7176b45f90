"""Policy gradients without a critic: REINFORCE, RLOO, ReMax, REINFORCE++, GRPO and its kin.

One small set of choices (advantage, objective, level of the ratio, aggregation, place of the KL)
spans them; configs/grpo_sentiment.py names each method's. GRPO is Shao et al. 2024
(https://arxiv.org/abs/2402.03300), section 4.1; the other sources stand at the choices.

B completions a step, C completion slots, G of each prompt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rljax.algorithms.actor_critic import Compose, all_trained
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
    cut_off,
    ratio_metrics,
    rollout_kl,
    rollout_metrics,
    token_metrics,
    update_metrics,
)
from rljax.group_advantages import (
    baseline_advantages,
    batch_mean_advantages,
    best_advantages,
    group_advantages,
    informative_groups,
    leave_one_out_advantages,
    overlong_penalty,
)
from rljax.kl import KLConfig, kl_estimate, make_kl_controller
from rljax.losses import cispo_loss, clipped_policy_loss, sequence_log_ratio
from rljax.masking import masked_whiten, token_weights, weighted_loss
from rljax.models.transformer import Model
from rljax.rewards.shaping import RunningMoments, place_at_last_token
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.scoring import Score
from rljax.traced import check, is_zero
from rljax.types import Rollout, TrainState

Params = dict[str, Any]
Update = Callable[..., tuple[TrainState, Metrics]]
GROUPED = ("leave_one_out", "group_mean", "group_std", "best")


# ------------------------------------------------------------------------------------ Config


@dataclasses.dataclass(frozen=True)
class GRPOConfig(OnPolicyConfig):
    """What critic-free policy gradients do with a batch of scored completions."""

    samples_per_prompt: int = 8
    """Completions of each prompt in a batch: the group, G."""
    num_epochs: int = 1
    """Passes over each batch."""
    advantage: Literal[
        "none", "batch_mean", "moving_mean", "greedy", "leave_one_out", "group_mean", "group_std",
        "best",
    ] = "group_std"  # fmt: skip
    """What a completion's score is compared with. none: nothing; batch_mean; moving_mean: of all
    scores so far; greedy: the score of the greedy completion (ReMax); leave_one_out: the group's
    others (RLOO); group_mean (Dr. GRPO); group_std: that, over the group's deviation (GRPO); best:
    1 for the group's best, 0 else (RAFT). moving_mean and greedy compare with scores as the reward
    gave them, before penalties."""
    whiten_advantages: bool = False
    """Scale advantages to mean 0 and variance 1 over the batch's tokens (REINFORCE++)."""
    objective: Literal["clip", "cispo", "reinforce"] = "clip"
    """clip: PPO's surrogate; cispo: clipped, detached weights; reinforce: -A log p, no ratio."""
    ratio: Literal["token", "sequence"] = "token"
    """Level of the ratio: each token's, or the sequence's mean (GSPO)."""
    clip_eps: float | None = 0.2
    """The ratio is clipped below at 1 - clip_eps, and above unless clip_eps_high is set; None with
    objective reinforce, which has no ratio."""
    clip_eps_high: float | None = None
    """Clip above at 1 + clip_eps_high (DAPO's clip-higher); None: clip_eps."""
    dual_clip: float | None = None
    """Bound the loss of tokens of negative advantage at this ratio (> 1); None: off."""
    loss_aggregation: Literal["token", "sequence", "constant"] = "sequence"
    """token: mean over tokens (DAPO); sequence: mean of sequence means (GRPO); constant: over
    B * slots (Dr. GRPO)."""
    kl: KLConfig = KLConfig(coef=0.04, estimator="k3")
    """The penalty that keeps the policy near its reference."""
    kl_place: Literal["loss", "score", "tokens"] = "loss"
    """Where it is charged: as a term of the loss; on the completion's score before the advantage
    (RLOO); or on each token, with what follows it (REINFORCE++). In the loss, on-policy, k1 has no
    expected gradient, k2 has that of KL(policy || reference), k3 that of KL(reference || policy),
    each token's given its prefix: only score and tokens, with k1, have the whole KL's."""
    mask_truncated: bool = False
    """Learn nothing from completions that were cut off (DAPO's overlong filter)."""
    overlong_buffer: int = 0
    """Tokens before the limit in which the score falls by up to 1 (DAPO's soft punishment); 0:
    off."""
    dynamic_sampling: int = 0
    """Further batches sampled at most to replace groups of equal scores, which teach nothing
    (DAPO); 0: off."""

    @property
    def further_batches(self) -> int:
        """Batches sampled at most to replace groups that teach nothing."""
        return self.dynamic_sampling

    @property
    def wants_greedy(self) -> bool:
        """Whether the update reads the scores of the greedy completions."""
        return self.advantage == "greedy"

    def validate(self) -> None:
        """Raise ValueError on sizes that do not divide and choices that exclude each other."""
        super().validate()
        eps, group = self.clip_eps, self.samples_per_prompt
        plain = self.objective == "reinforce"
        self.require(
            clip_eps=(
                (eps is None) if plain else (eps is not None and eps > 0),
                "None with objective reinforce" if plain else "positive",
            ),
            clip_eps_high=(
                self.clip_eps_high is None or (not plain and self.clip_eps_high > 0),
                "None with objective reinforce" if plain else "positive",
            ),
            dual_clip=(
                self.dual_clip is None or (self.objective == "clip" and self.dual_clip > 1),
                "above 1, and goes with objective clip",
            ),
            ratio=(self.ratio == "token" or not plain, "token with objective reinforce"),
            advantage=(
                group > 1 or self.advantage not in GROUPED,
                "one without a group, or samples_per_prompt above 1",
            ),
            overlong_buffer=(self.overlong_buffer >= 0, "at least 0"),
            dynamic_sampling=(
                self.dynamic_sampling >= 0 and (group > 1 or not self.dynamic_sampling),
                "at least 0, and needs samples_per_prompt above 1",
            ),
            mask_truncated=(
                not (self.mask_truncated and self.missing_eos_penalty is not None),
                "off with missing_eos_penalty: what is not learnt from needs no score",
            ),
            kl_place=(
                self.kl.coef > 0 or self.kl_place == "loss", "loss while kl.coef is 0"
            ),
        )  # fmt: skip
        if self.dynamic_sampling and self.advantage == "greedy":
            raise ValueError("dynamic_sampling compares groups: it does not go with greedy")
        if self.advantage in ("moving_mean", "greedy"):
            raw = f"advantage {self.advantage} compares with scores as the reward gave them"
            self.require(
                scale_scores=(self.scale_scores == "none", f"none: {raw}"),
                clip_scores=(self.clip_scores is None, f"None: {raw}"),
            )


# ------------------------------------------------------------------------------------ Advantages


class Minibatch(NamedTuple):
    """What the loss reads of a set of sequences."""

    rollout: Rollout
    advantages: jax.Array
    """[B, C] float32."""
    weights: jax.Array
    """[B, C]: each token's share of the loss; they stay as they are when a minibatch is split."""
    shares: jax.Array
    """[B, C]: each real token's share of all real tokens, for metrics."""
    policy_weights: jax.Array
    """[B, C]: `weights`, times the importance weights where there are any."""


def sequence_advantages(
    config: GRPOConfig,
    scores: jax.Array,
    good: jax.Array,
    moving_mean: jax.Array,
    greedy: jax.Array | None,
) -> jax.Array:
    """Compute the advantage of each completion [B] by the chosen comparison."""
    group = config.samples_per_prompt
    if config.advantage == "none":
        return jnp.where(good, scores, 0)
    if config.advantage == "batch_mean":
        return batch_mean_advantages(scores, good)
    if config.advantage == "moving_mean":
        return baseline_advantages(scores, good, moving_mean)
    if config.advantage == "greedy":
        if greedy is None:
            raise ValueError("advantage 'greedy' needs the scores of the greedy completions")
        return baseline_advantages(scores, good, greedy)
    if config.advantage == "leave_one_out":
        return leave_one_out_advantages(scores, good, group_size=group)
    if config.advantage == "best":
        return best_advantages(scores, good, group_size=group)
    divide = config.advantage == "group_std"
    return group_advantages(scores, good, group_size=group, divide_by_std=divide)


def token_advantages(
    config: GRPOConfig, sequence: jax.Array, token_kl: jax.Array, mask: jax.Array, kl_coef: Any
) -> jax.Array:
    """Spread advantages [B] over the real tokens [B, C]; charge the KL to come; whiten."""
    advantages = jnp.where(mask, sequence[:, None], 0)
    if config.kl_place == "tokens":
        to_come = jnp.cumsum(jnp.where(mask, token_kl, 0)[:, ::-1], axis=1)[:, ::-1]
        advantages = jnp.where(mask, advantages - kl_coef * to_come, 0)
    return masked_whiten(advantages, mask) if config.whiten_advantages else advantages


def judge_batch(
    config: GRPOConfig,
    eos_token_ids: Sequence[int],
    state: TrainState,
    rollout: Rollout,
    scores: jax.Array,
    good: jax.Array,
    greedy: jax.Array | None,
) -> tuple[jax.Array, jax.Array, RunningMoments]:
    """Compute final scores [B], advantages [B, C] and the scores' moments."""
    completions, mask = rollout.completions, rollout.completions.mask
    seen = state.score_moments
    final, moments = final_scores(config, eos_token_ids, seen, rollout, scores, good)
    if config.overlong_buffer:
        lengths, room = jnp.sum(mask, axis=1), mask.shape[1]
        final += overlong_penalty(lengths, max_length=room, buffer=config.overlong_buffer)
    kl = kl_estimate(completions.log_probs, rollout.ref_log_probs, config.kl.estimator)
    compared = final
    if config.kl_place == "score":
        compared = final - state.kl_coef * jnp.sum(jnp.where(mask, kl, 0), axis=1)
    mean = jnp.where(seen.count > 0, seen.mean, moments.mean)
    sequence = sequence_advantages(config, compared, good, mean, greedy)
    return final, token_advantages(config, sequence, kl, mask, state.kl_coef), moments


def make_minibatch(
    config: GRPOConfig,
    rollout: Rollout,
    learnt: jax.Array,
    advantages: jax.Array,
    importance: jax.Array | None = None,
) -> Minibatch:
    """Compute what the loss needs of the sequences of one optimizer update.

    learnt: bool [B, C], the tokens that the loss counts. importance: weights [B, C] of what the
    loss expects of the policy's tokens, its surrogate and its KL; None: 1.
    """
    shares = token_weights(rollout.completions.mask, "token")
    weights = loss_weights(config, learnt)
    policy_weights = weights if importance is None else weights * importance
    return Minibatch(rollout, advantages, weights, shares, policy_weights)


# ---------------------------------------------------------------------------------------- Loss


def policy_losses(
    config: GRPOConfig, log_probs: jax.Array, log_ratio: jax.Array, advantages: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Compute the chosen objective's loss of each token, and where its clip acts: [B, C] each."""
    if config.objective == "reinforce":
        return -advantages * log_probs, jnp.zeros(log_probs.shape, bool)
    clip: dict[str, Any] = {"clip_eps": config.clip_eps, "clip_eps_high": config.clip_eps_high}
    if config.objective == "cispo":
        return cispo_loss(log_probs, log_ratio, advantages, **clip)
    sampled = jnp.zeros_like(log_ratio)  # the ratio is given: of itself to nothing
    return clipped_policy_loss(log_ratio, sampled, advantages, dual_clip=config.dual_clip, **clip)


def loss_fn(
    params: Params,
    coefs: tuple[jax.Array, float | jax.Array],
    batch: Minibatch,
    *,
    score: Score,
    config: GRPOConfig,
) -> tuple[jax.Array, Metrics]:
    """Compute policy loss + kl_coef KL (where it is in the loss) - entropy_coef entropy.

    coefs: these two. With a minibatch in parts, the parts' losses and metrics (but maxima) add up
    to the whole's.
    """
    kl_coef, entropy_coef = coefs
    rollout, completions = batch.rollout, batch.rollout.completions
    mask, old = completions.mask, completions.log_probs
    group = config.learnt_group
    scored = score(params["policy"], rollout.prompts, completions, group=group)
    log_probs = jnp.where(mask, scored.log_probs, 0)  # a failed completion's tokens are masked
    token_ratio = log_probs - old
    log_ratio = token_ratio
    if config.ratio == "sequence":
        log_ratio = sequence_log_ratio(log_probs, old, mask)
    losses, clipped = policy_losses(config, log_probs, log_ratio, batch.advantages)
    policy_loss = weighted_loss(losses, batch.policy_weights)
    entropy = weighted_loss(scored.entropy, batch.weights)
    loss = policy_loss - entropy_coef * entropy
    metrics = ratio_metrics(policy_loss, clipped, token_ratio, log_ratio, batch.shares)
    if config.kl_place == "loss":
        kl = kl_estimate(log_probs, rollout.ref_log_probs, config.kl.estimator)
        penalty = weighted_loss(kl, batch.policy_weights)
        loss = loss + kl_coef * penalty
        metrics["policy/kl_loss"] = penalty
    if not is_zero(config.entropy_coef):
        metrics["policy/entropy"] = jnp.sum(batch.shares * scored.entropy)
    return loss, metrics


# -------------------------------------------------------------------------------------- Update


def make_update(
    model: Model,
    config: GRPOConfig,
    sampling: SamplingConfig,
    eos_token_ids: Sequence[int],
    optimizer: optax.GradientTransformation,
    compose: Compose = all_trained,
    shown: int = 0,
) -> Update:
    """Build update(state, rollout, scores [B] float32, key, greedy [B] or None) -> state, metrics.

    Pure: epochs x minibatches x parts run inside. `key` only shuffles sequences into minibatches;
    rows g G to (g + 1) G must be one prompt's. A score of NaN is a failed reward: the completion
    teaches nothing. greedy: scores of the greedy completions, for that advantage.
    compose, shown: as PPO's. Raises ValueError for an impossible config.
    """
    check(config)
    score = make_loss_score(model, config, sampling, eos_token_ids)
    correct = make_correct(config, score, compose, per_sequence=config.ratio == "sequence")
    controller = make_kl_controller(config.kl)
    learn = make_batch_learner(
        config,
        optimizer,
        compose,
        lambda params, coefs, batch: loss_fn(params, coefs, batch, score=score, config=config),
        config.learnt_group,
    )

    def update(
        state: TrainState,
        rollout: Rollout,
        scores: jax.Array,
        key: jax.Array,
        greedy: jax.Array | None = None,
    ) -> tuple[TrainState, Metrics]:
        informative = informative_groups(
            scores, ~jnp.isnan(scores), group_size=config.samples_per_prompt
        )
        kl = rollout_kl(rollout)  # needs no score: of the whole batch
        rollout, scores, good = drop_failed(rollout, scores)
        policies = (state.params, state.ref_params, state.mask_params)
        proximal, weights, importance = correct(policies, rollout)
        final, advantages, moments = judge_batch(
            config, eos_token_ids, state, proximal, scores, good, greedy
        )
        mask = rollout.completions.mask
        rewards = place_at_last_token(final, mask)
        report = rollout_metrics(rollout, scores, good, final, rewards, advantages, eos_token_ids)
        report |= token_metrics(shown, advantages, rewards, None if weights is None else proximal)
        learnt = mask
        if config.mask_truncated:
            learnt = mask & ~cut_off(rollout.completions, eos_token_ids)[:, None]
        trained, metrics = learn(
            (state.params, state.opt_state),
            (state.ref_params, (state.kl_coef, entropy_coef_of(config, state))),
            (proximal, learnt, advantages, weights),
            lambda rows: make_minibatch(config, *rows),
            key,
        )
        report |= update_metrics(metrics) | importance
        report |= {
            "objective/kl": kl,
            "objective/kl_coef": state.kl_coef,
            "objective/informative_groups": jnp.mean(informative.astype(jnp.float32)),
        }
        state, steered = steer_entropy(config, state, report)
        report |= steered
        kl_coef = controller.update(state.kl_coef, kl, scores.shape[0])
        return next_state(state, trained, moments, kl_coef), report

    return update
