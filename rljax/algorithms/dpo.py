"""Direct preference optimisation and its relatives: learn from judged completions, no sampling.

Rafailov et al. 2023 (https://arxiv.org/abs/2305.18290); the losses and their papers are in
`rljax.preference_losses`. What the reference thinks of the data is computed once, before training.

B records of a batch, K completions of a record (pairs: chosen and rejected; KTO: a completion, and
one that belongs to another prompt), C completion slots.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rljax.algorithms.actor_critic import Compose, all_trained
from rljax.algorithms.buckets import shorten_preferences
from rljax.algorithms.checks import require, require_positive, require_whole_parts
from rljax.algorithms.learner import (
    Metrics,
    Params,
    Update,
    make_single_update,
    whole_params,
)
from rljax.models.transformer import Model
from rljax.parallel import over_rows
from rljax.preference_losses import (
    dpo_loss,
    hinge_loss,
    ipo_loss,
    kto_baseline,
    kto_loss,
    orpo_loss,
    robust_dpo_loss,
    simpo_loss,
)
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.scoring import Score, make_score
from rljax.tasks.preference_batches import PreferenceBatch, flat_rows
from rljax.traced import check
from rljax.types import SupervisedState

MEANS = ("ipo", "orpo", "simpo")
"""Losses that read log-probs per token."""
REFERENCE_FREE = ("orpo", "simpo")


# ------------------------------------------------------------------------------------ Config


@dataclasses.dataclass(frozen=True)
class DPOConfig:
    """What is learnt from preferences."""

    loss: Literal["sigmoid", "robust", "ipo", "hinge", "kto", "orpo", "simpo"] = "sigmoid"
    """sigmoid: DPO (with label_smoothing: conservative DPO); robust: DPO for flipped labels; ipo;
    hinge: SLiC's; kto: single completions with labels; orpo and simpo: without a reference."""
    beta: float = 0.1
    """Strength of the tie to the reference: rewards are beta x log-ratios. IPO: tau; ORPO: weight
    of the odds ratio; SimPO: scale of the mean log-probs (2 there)."""
    label_smoothing: float = 0.0
    """Probability that a label is wrong; of sigmoid, robust and simpo."""
    target_margin: float | None = None
    """SimPO's gamma, by which the chosen reward is to lead; None: beta / 2."""
    margin_scale: float = 0.0
    """Ask for a lead of this times the data's margins (scores' differences, or `margin`); of
    sigmoid. 0: margins are not read."""
    desirable_weight: float = 1.0
    """KTO's weight of desirable completions."""
    undesirable_weight: float = 1.0
    """KTO's weight of undesirable completions."""
    log_probs: Literal["method", "sum", "mean"] = "method"
    """Log-probs of whole completions, or per token; method: as the loss has it (ipo, orpo and
    simpo: mean, the others: sum)."""
    batch_size: int = 8
    """Records of a batch."""
    gradient_accumulation: int = 1
    """Parts that a batch is computed in; the update is the same, the memory smaller."""
    length_buckets: int = 1
    """Widths for parts, sorted by length, to choose from: all slots, a half, a quarter ...; 1: off.
    """
    score_rows: int = 1024
    """Tokens whose logits exist at once."""

    @property
    def needs_reference(self) -> bool:
        """Whether the loss reads the reference's log-probs."""
        return self.loss not in REFERENCE_FREE

    @property
    def per_token(self) -> bool:
        """Whether log-probs are divided by the completion's tokens."""
        if self.log_probs == "method":
            return self.loss in MEANS
        return self.log_probs == "mean"

    @property
    def form(self) -> Literal["pairs", "labels"]:
        """What form of preferences the loss reads."""
        return "labels" if self.loss == "kto" else "pairs"

    @property
    def gamma(self) -> float:
        """SimPO's target margin."""
        return self.beta / 2 if self.target_margin is None else self.target_margin

    def validate(self) -> None:
        """Raise ValueError on sizes that do not divide and flags that the loss does not read."""
        sizes = ("batch_size", "gradient_accumulation", "length_buckets", "score_rows")
        require_positive(self, sizes, "dpo.")
        require_whole_parts(self, "dpo.")
        read_by = {
            "label_smoothing": (0.0, ("sigmoid", "robust", "simpo")),
            "target_margin": (None, ("simpo",)),
            "margin_scale": (0.0, ("sigmoid",)),
            "desirable_weight": (1.0, ("kto",)),
            "undesirable_weight": (1.0, ("kto",)),
        }
        for name, (default, losses) in read_by.items():
            value = getattr(self, name)
            if value != default and self.loss not in losses:
                raise ValueError(
                    f"dpo.{name} is {value}, but dpo.loss {self.loss!r} does not read it; "
                    f"{' and '.join(losses)} {'does' if len(losses) == 1 else 'do'}"
                )
        least = 0 if self.loss != "robust" else 1e-9
        bounds = {
            "beta": (self.beta > 0, "positive"),
            "label_smoothing": (
                least <= self.label_smoothing < 0.5,
                "in [0, 0.5)" if not least else "in (0, 0.5) with loss robust",
            ),
            "target_margin": (self.gamma >= 0, "at least 0"),
            "margin_scale": (self.margin_scale >= 0, "at least 0"),
            "desirable_weight": (self.desirable_weight > 0, "positive"),
            "undesirable_weight": (self.undesirable_weight > 0, "positive"),
            "log_probs": (
                self.needs_reference or self.log_probs != "sum",
                f"'method' or 'mean' with loss {self.loss}",
            ),
        }
        require(self, bounds, "dpo.")


# ----------------------------------------------------------------------------------- Log-probs


def make_preference_score(model: Model, rows: int) -> Score:
    """Build the score of completions under a policy itself: temperature 1, nothing excluded."""
    return make_score(model, SamplingConfig(temperature=1.0), (), rows=rows)


def sequence_log_probs(score: Score, policy: Params, batch: PreferenceBatch) -> jax.Array:
    """Compute log pi(completion | prompt) of every completion: [B, K] float32, nats."""
    shape = batch.tokens.shape[:2]
    log_probs = score(policy, *flat_rows(batch), group=shape[1]).log_probs  # [B K, C]
    return jnp.sum(log_probs, axis=1).reshape(shape)


class Outcome(NamedTuple):
    """What a policy makes of a batch."""

    loss: jax.Array
    """[B]."""
    rewards: jax.Array
    """[B, 2] of chosen and rejected: beta x log-ratio, or x mean log-prob without a reference; of
    KTO the completion's own in both."""
    log_probs: jax.Array
    """[B, 2]: as the rewards, of whole completions in nats."""
    correct: jax.Array
    """[B] bool: the chosen reward is the larger; of KTO: it lies on its label's side of the
    baseline."""


def outcome(
    config: DPOConfig, batch: PreferenceBatch, log_probs: jax.Array, baseline: jax.Array
) -> Outcome:
    """Compute losses and implied rewards from log-probs [B, K] of whole completions.

    baseline: KTO's, [B] or scalar; the other losses do not read it.
    """
    lengths = jnp.sum(batch.mask, axis=2)
    scale = 1 / jnp.maximum(lengths, 1) if config.per_token else jnp.ones(lengths.shape)
    seen = log_probs - batch.ref_log_probs if config.needs_reference else log_probs
    seen = seen * scale
    if config.loss == "kto":
        own, desirable = seen[:, 0], batch.values[:, 0] > 0
        loss = kto_loss(
            own,
            desirable,
            baseline,
            beta=config.beta,
            desirable_weight=config.desirable_weight,
            undesirable_weight=config.undesirable_weight,
        )
        both = jnp.stack([own, own], axis=1)
        spoken = jnp.stack([log_probs[:, 0]] * 2, axis=1)
        return Outcome(loss, config.beta * both, spoken, (own > baseline) == desirable)
    chosen, rejected = seen[:, 0], seen[:, 1]
    loss = _pair_loss(config, chosen, rejected, batch.margins)
    return Outcome(loss, config.beta * seen, log_probs, chosen > rejected)


def _pair_loss(
    config: DPOConfig, chosen: jax.Array, rejected: jax.Array, margins: jax.Array
) -> jax.Array:
    """Compute the loss of each pair, [B]."""
    beta, smoothing = config.beta, config.label_smoothing
    if config.loss == "sigmoid":
        lead = config.margin_scale * margins
        return dpo_loss(chosen, rejected, beta=beta, label_smoothing=smoothing, margins=lead)
    if config.loss == "robust":
        return robust_dpo_loss(chosen, rejected, beta=beta, label_smoothing=smoothing)
    if config.loss == "ipo":
        return ipo_loss(chosen, rejected, beta=beta)
    if config.loss == "hinge":
        return hinge_loss(chosen, rejected, beta=beta)
    if config.loss == "orpo":
        return orpo_loss(chosen, rejected, beta=beta)
    return simpo_loss(chosen, rejected, beta=beta, gamma=config.gamma, label_smoothing=smoothing)


def mismatched_log_ratio(
    config: DPOConfig, batch: PreferenceBatch, log_probs: jax.Array
) -> jax.Array:
    """Compute the log-ratio [B] of the other prompts' completions, from log_probs [B]."""
    ratio = log_probs - batch.ref_log_probs[:, 1]
    if config.per_token:
        ratio = ratio / jnp.maximum(jnp.sum(batch.mask[:, 1], axis=1), 1)
    return ratio


def shares(config: DPOConfig, batch: PreferenceBatch) -> jax.Array:
    """Compute the share [B, 2] of each record in the means over chosen and over rejected ones."""
    weights = jnp.stack([batch.weights] * 2, axis=1)
    if config.loss == "kto":
        kinds = jnp.stack([batch.values[:, 0] > 0, batch.values[:, 0] <= 0], axis=1)
        weights = weights * kinds
    return weights


# ---------------------------------------------------------------------------------------- Loss


class Minibatch(NamedTuple):
    """What the loss reads."""

    batch: PreferenceBatch
    """Its weights add up to 1 over the whole batch."""
    baseline: jax.Array
    """[B]: KTO's, the same for the whole batch; 0 for the other losses."""
    shares: jax.Array
    """[B, 2]: adding up to 1 over the batch in each column that has any."""


def loss_fn(
    params: Params,
    minibatch: Minibatch,
    *,
    score: Score,
    config: DPOConfig,
) -> tuple[jax.Array, Metrics]:
    """Compute the mean loss of a batch, and metrics; over the parts of a batch both add up."""
    batch, weights = minibatch.batch, minibatch.shares
    seen = batch
    if config.loss == "kto":  # the other prompt's completion is the baseline's, without a gradient
        seen = batch._replace(tokens=batch.tokens[:, :1], mask=batch.mask[:, :1])
    log_probs = sequence_log_probs(score, params["policy"], seen)
    if config.loss == "kto":
        seen = seen._replace(ref_log_probs=batch.ref_log_probs[:, :1])
    made = outcome(config, seen, log_probs, minibatch.baseline)
    loss = jnp.sum(batch.weights * made.loss)
    rewards = jnp.sum(weights * made.rewards, axis=0)
    spoken = jnp.sum(weights * made.log_probs, axis=0)
    return loss, {
        "loss": loss,
        "rewards/chosen": rewards[0],
        "rewards/rejected": rewards[1],
        "rewards/margin": rewards[0] - rewards[1],
        "rewards/accuracy": jnp.sum(batch.weights * made.correct),
        "log_probs/chosen": spoken[0],
        "log_probs/rejected": spoken[1],
        "tokens": jnp.sum(batch.mask).astype(jnp.float32),
    }


# -------------------------------------------------------------------------------------- Update


def make_baseline(
    score: Score, config: DPOConfig
) -> Callable[[Params, PreferenceBatch], jax.Array]:
    """Build baseline(params, batch) -> KTO's reference point of the batch, [B] all alike.

    It is computed in as many parts as the gradient, over the batch's records with a weight.
    """

    def baseline(params: Params, batch: PreferenceBatch) -> jax.Array:
        parts = config.gradient_accumulation

        def in_parts(policy: Params, rows: PreferenceBatch) -> jax.Array:
            split = jax.tree.map(lambda x: jnp.reshape(x, (parts, -1, *x.shape[1:])), rows)
            found = jax.lax.map(lambda part: sequence_log_probs(score, policy, part)[:, 0], split)
            return found.reshape(-1)

        other = batch._replace(tokens=batch.tokens[:, 1:], mask=batch.mask[:, 1:])
        ratio = mismatched_log_ratio(config, batch, over_rows(in_parts)(params["policy"], other))
        weights = batch.weights / jnp.sum(batch.weights)
        return jnp.broadcast_to(kto_baseline(ratio, weights), batch.weights.shape)

    return baseline


def make_update(
    model: Model,
    config: DPOConfig,
    optimizer: optax.GradientTransformation,
    learning_rate: Callable[[jax.Array], jax.Array],
    compose: Compose = all_trained,
) -> Update:
    """Build update(state, batch, key) -> state, metrics: one optimizer update on one batch.

    batch: a PreferenceBatch with the reference's log-probs where `config.needs_reference`.
    learning_rate: step -> rate, for the metrics. compose: of the frozen base and what is trained.
    Raises ValueError for an impossible config.
    """
    check(config)
    score = make_preference_score(model, config.score_rows)
    baseline = make_baseline(score, config)

    def prepare(inputs: tuple[PreferenceBatch, jax.Array]) -> Minibatch:
        batch, point = inputs
        weights = shares(config, batch)
        total = jnp.sum(weights, axis=0)
        return Minibatch(batch, point, weights / jnp.where(total > 0, total, 1))

    single = make_single_update(
        lambda params, rows: loss_fn(params, rows, score=score, config=config),
        prepare,
        optimizer,
        learning_rate,
        parts=config.gradient_accumulation,
        compose=compose,
        shorten=shorten_preferences(config.length_buckets),
    )

    def update(
        state: SupervisedState, batch: PreferenceBatch, key: jax.Array
    ) -> tuple[SupervisedState, Metrics]:
        point = jnp.zeros(batch.weights.shape)
        if config.loss == "kto":
            point = baseline(whole_params(compose, state), batch)
        state, metrics = single(state, (batch, point), key)
        if config.loss == "kto":
            metrics["kto/baseline"] = point[0]
        return state, metrics

    return update


def make_evaluate(
    model: Model, config: DPOConfig, compose: Compose = all_trained
) -> Callable[[SupervisedState, PreferenceBatch], dict[str, tuple[jax.Array, jax.Array]]]:
    """Build evaluate(state, batch) -> {name: (sum, count)} over the records that have a weight.

    KTO's baseline is that of each held-out batch.
    """
    score = make_preference_score(model, config.score_rows)

    def evaluate(
        state: SupervisedState, batch: PreferenceBatch
    ) -> dict[str, tuple[jax.Array, jax.Array]]:
        policy = whole_params(compose, state)["policy"]
        log_probs = over_rows(functools.partial(sequence_log_probs, score))(policy, batch)
        baseline = jnp.float32(0)
        if config.loss == "kto":
            ratio = mismatched_log_ratio(config, batch, log_probs[:, 1])
            baseline = kto_baseline(ratio, batch.weights / jnp.sum(batch.weights))
        made = outcome(config, batch, log_probs, baseline)
        count = jnp.sum(batch.weights)
        weights = shares(config, batch)
        sides = jnp.sum(weights, axis=0)
        rewards = jnp.sum(weights * made.rewards, axis=0)
        spoken = jnp.sum(weights * made.log_probs, axis=0)
        return {
            "loss": (jnp.sum(batch.weights * made.loss), count),
            "rewards/accuracy": (jnp.sum(batch.weights * made.correct), count),
            "rewards/chosen": (rewards[0], sides[0]),
            "rewards/rejected": (rewards[1], sides[1]),
            "log_probs/chosen": (spoken[0], sides[0]),
            "log_probs/rejected": (spoken[1], sides[1]),
        }

    return evaluate
