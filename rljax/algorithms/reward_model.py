"""Learn a reward from judged completions: a scalar head on a language model's trunk.

Ziegler et al. 2019, section 2.1 (https://arxiv.org/abs/1909.08593); Ouyang et al. 2022, section
3.5 (https://arxiv.org/abs/2203.02155). The score of a completion is read at its last token.

params is {"policy": the trunk, "reward_head": {"kernel" [1, D], "bias" [1]}}.

B records of a batch, K completions of a record, D hidden.
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
    all_pairs_loss,
    bradley_terry_loss,
    classification_loss,
    plackett_luce_loss,
    regression_loss,
)
from rljax.rollout.scoring import reward_scores
from rljax.tasks.preference_batches import PreferenceBatch, flat_rows
from rljax.tasks.preference_forms import Form
from rljax.types import Completions, Prompts, SupervisedState

HEAD = "reward_head"
Loss = Literal["pairwise", "all_pairs", "plackett_luce", "regression", "classification"]
FORMS: dict[Loss, Form] = {
    "pairwise": "pairs",
    "all_pairs": "rankings",
    "plackett_luce": "rankings",
    "regression": "scores",
    "classification": "labels",
}
RELATIVE = ("pairwise", "all_pairs", "plackett_luce")
"""Losses that read differences of scores only: their mean and scale are free."""


# ------------------------------------------------------------------------------------ Config


@dataclasses.dataclass(frozen=True)
class RewardModelConfig:
    """How a reward is learnt."""

    loss: Loss = "pairwise"
    """pairwise: Bradley-Terry on pairs; all_pairs: the same, averaged over all pairs of a ranking
    (InstructGPT); plackett_luce: likelihood of the whole ranking; regression: squared error to
    scores; classification: cross-entropy with labels."""
    label_smoothing: float = 0.0
    """Probability that a label is wrong; of pairwise, all_pairs and classification."""
    margin_scale: float = 0.0
    """Ask for a lead of this times the data's margins (scores' differences, or `margin`); of
    pairwise. 0: margins are not read."""
    batch_size: int = 16
    """Records of a batch."""
    gradient_accumulation: int = 1
    """Parts that a batch is computed in; the update is the same, the memory smaller."""
    length_buckets: int = 1
    """Widths of completions to choose from: that of the data, a half of it, a quarter ... Records
    are sorted by length into parts, each in the smallest width that holds it. 1: off."""
    normalise_samples: int = 128
    """Completions of the model as it starts, for which scores are brought to mean 0 and standard
    deviation 1, before and after training; 0: scores stay as they are. Regression and
    classification have a scale of their own: 0 there."""
    normalise_temperature: float = 1.0
    """Temperature that those completions are sampled at."""

    @property
    def form(self) -> Form:
        """What form of preferences the loss reads."""
        return FORMS[self.loss]

    def validate(self) -> None:
        """Raise ValueError on sizes that do not divide and flags that the loss does not read."""
        sizes = ("batch_size", "gradient_accumulation", "length_buckets")
        require_positive(self, sizes, "reward_model.")
        require_whole_parts(self, "reward_model.")
        smoothed = self.loss in ("pairwise", "all_pairs", "classification")
        sampled = self.normalise_samples > 0
        bounds = {
            "label_smoothing": (
                0 <= self.label_smoothing < 0.5 and (smoothed or not self.label_smoothing),
                "in [0, 0.5)" if smoothed else f"0: loss {self.loss!r} does not read it",
            ),
            "margin_scale": (
                self.margin_scale >= 0 and (self.loss == "pairwise" or not self.margin_scale),
                "at least 0, and only with loss 'pairwise' above 0",
            ),
            "normalise_samples": (
                self.normalise_samples >= 2 * sampled
                and (self.loss in RELATIVE or not sampled)
                and self.normalise_samples >= 0,
                "0 or at least 2"
                if self.loss in RELATIVE
                else f"0: scores of loss {self.loss!r} have a scale of their own",
            ),
            "normalise_temperature": (
                self.normalise_temperature > 0 and (sampled or self.normalise_temperature == 1),
                "positive, and needs normalise_samples above 0",
            ),
        }
        require(self, bounds, "reward_model.")


# --------------------------------------------------------------------------------------- Scores


def batch_scores(model: Model, params: Params, batch: PreferenceBatch) -> jax.Array:
    """Score every completion: [B, K] float32."""
    prompts, completions = flat_rows(batch)
    scores = reward_scores(model, params["policy"], params[HEAD], prompts, completions)
    return scores.reshape(batch.tokens.shape[:2])


def record_losses(
    config: RewardModelConfig, scores: jax.Array, batch: PreferenceBatch
) -> jax.Array:
    """Compute the loss [B] of each record from scores [B, K]."""
    smoothing = config.label_smoothing
    if config.loss == "pairwise":
        margins = config.margin_scale * batch.margins
        return bradley_terry_loss(
            scores[:, 0], scores[:, 1], label_smoothing=smoothing, margins=margins
        )
    if config.loss == "all_pairs":
        return all_pairs_loss(scores, batch.values, batch.valid, label_smoothing=smoothing)
    if config.loss == "plackett_luce":
        return plackett_luce_loss(scores, batch.values, batch.valid)
    if config.loss == "regression":
        return regression_loss(scores[:, 0], batch.values[:, 0])
    return classification_loss(scores[:, 0], batch.values[:, 0], label_smoothing=smoothing)


def record_accuracy(
    config: RewardModelConfig, scores: jax.Array, batch: PreferenceBatch
) -> jax.Array:
    """Compute how right the scores [B, K] of each record are, [B].

    Of pairs and rankings the share of pairs in the right order, of labels whether the sign is
    right; of regression the absolute error.
    """
    if config.loss == "regression":
        return jnp.abs(scores[:, 0] - batch.values[:, 0])
    if config.loss == "classification":
        return ((scores[:, 0] > 0) == (batch.values[:, 0] > 0)).astype(jnp.float32)
    better = batch.values[:, :, None] > batch.values[:, None, :]
    pairs = better & batch.valid[:, :, None] & batch.valid[:, None, :]
    right = pairs & (scores[:, :, None] > scores[:, None, :])
    return jnp.sum(right, axis=(1, 2)) / jnp.maximum(jnp.sum(pairs, axis=(1, 2)), 1)


def accuracy_name(config: RewardModelConfig) -> str:
    """Name what `record_accuracy` computes."""
    return "absolute_error" if config.loss == "regression" else "accuracy"


# --------------------------------------------------------------------------------- Normalisation


class Normalised(NamedTuple):
    """Parameters whose scores have mean 0 and standard deviation 1, and how they were changed."""

    params: Params
    gain: jax.Array
    shift: jax.Array
    """new score = gain x old score + shift."""


def make_normalise(
    model: Model,
    prompts: Prompts,
    completions: Completions,
    rows: int,
) -> Callable[[Params], Normalised]:
    """Build normalise(params): gain and shift go into the head's kernel and bias.

    prompts, completions: [N] of the reference; the standard deviation is that of these N (ddof 0).
    They are scored `rows` at a time. Ziegler et al. 2019, section 2.1. Where all scores are equal
    the gain is 1.
    """
    count = prompts.tokens.shape[0]
    rows = min(rows, count)
    chunks = -(-count // rows)
    places = jnp.resize(jnp.arange(count), (chunks, rows))

    def normalise(params: Params) -> Normalised:
        trunk, head = params["policy"], params[HEAD]

        def score(chosen: jax.Array) -> jax.Array:
            some = jax.tree.map(lambda x: jnp.asarray(x)[chosen], (prompts, completions))
            return reward_scores(model, trunk, head, *some)

        scores = jax.lax.map(score, places).reshape(-1)[:count]
        deviation = jnp.std(scores)
        gain = jnp.where(deviation > 0, 1 / jnp.where(deviation > 0, deviation, 1), 1)
        shift = -gain * jnp.mean(scores)
        changed = {
            "kernel": (gain * head["kernel"]).astype(head["kernel"].dtype),
            "bias": (gain * head["bias"] + shift).astype(head["bias"].dtype),
        }
        return Normalised({**params, HEAD: changed}, gain, shift)

    return normalise


# ---------------------------------------------------------------------------------------- Loss


def loss_fn(
    params: Params,
    batch: PreferenceBatch,
    *,
    model: Model,
    config: RewardModelConfig,
) -> tuple[jax.Array, Metrics]:
    """Compute the mean loss of a batch whose weights add up to 1, and metrics that add up."""
    scores = batch_scores(model, params, batch)
    loss = jnp.sum(batch.weights * record_losses(config, scores, batch))
    first = jnp.sum(batch.weights * scores[:, 0])
    metrics = {
        "loss": loss,
        accuracy_name(config): jnp.sum(batch.weights * record_accuracy(config, scores, batch)),
        "tokens": (jnp.sum(batch.mask) + jnp.sum(batch.prompt_mask)).astype(jnp.float32),
    }
    if config.form == "pairs":
        rejected = jnp.sum(batch.weights * scores[:, 1])
        metrics |= {
            "scores/chosen": first,
            "scores/rejected": rejected,
            "scores/margin": first - rejected,
        }
    elif config.form != "rankings":
        metrics["scores/mean"] = first
    return loss, metrics


# -------------------------------------------------------------------------------------- Update


def make_update(
    model: Model,
    config: RewardModelConfig,
    optimizer: optax.GradientTransformation,
    learning_rate: Callable[[jax.Array], jax.Array],
    compose: Compose = all_trained,
) -> Update:
    """Build update(state, batch, key) -> state, metrics: one optimizer update on one batch.

    batch: a PreferenceBatch in `config.form`. learning_rate: step -> rate, for the metrics.
    compose: of the frozen base and what is trained of the trunk. Raises ValueError for an
    impossible config.
    """
    config.validate()
    return make_single_update(
        lambda params, batch: loss_fn(params, batch, model=model, config=config),
        lambda batch: batch,
        optimizer,
        learning_rate,
        parts=config.gradient_accumulation,
        compose=compose,
        shorten=shorten_preferences(config.length_buckets),
    )


def make_evaluate(
    model: Model, config: RewardModelConfig, compose: Compose = all_trained
) -> Callable[[SupervisedState, PreferenceBatch], dict[str, tuple[jax.Array, jax.Array]]]:
    """Build evaluate(state, batch) -> {name: (sum, count)} over the records that have a weight."""

    def evaluate(
        state: SupervisedState, batch: PreferenceBatch
    ) -> dict[str, tuple[jax.Array, jax.Array]]:
        score = functools.partial(batch_scores, model)
        scores = over_rows(score)(whole_params(compose, state), batch)
        count = jnp.sum(batch.weights)
        found = {
            "loss": record_losses(config, scores, batch),
            accuracy_name(config): record_accuracy(config, scores, batch),
        }
        return {name: (jnp.sum(batch.weights * value), count) for name, value in found.items()}

    return evaluate
