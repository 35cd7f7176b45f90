"""Learn to predict the next token: pretraining and supervised fine-tuning.

The loss is the mean over the batch's target tokens of -log p(token | those before it in its
document), as in Radford et al. 2019 (GPT-2), with the targets that `tasks.packing` marks.

B rows, T slots of a row, V vocabulary, N = B (T - 1).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rljax.algorithms.actor_critic import Compose, all_trained
from rljax.algorithms.checks import require_positive, require_whole_parts
from rljax.algorithms.learner import (
    Metrics,
    Params,
    Update,
    make_single_update,
    whole_params,
)
from rljax.masking import token_weights, weighted_loss
from rljax.models.transformer import Model
from rljax.parallel import over_rows
from rljax.rollout.chunks import map_rows
from rljax.tasks.packing import Packed
from rljax.types import SupervisedState


@dataclasses.dataclass(frozen=True)
class SFTConfig:
    """How batches of packed documents are learnt."""

    batch_size: int = 8
    """Rows of packed documents in a batch."""
    gradient_accumulation: int = 1
    """Parts that a batch is computed in; the update is the same, the memory smaller."""
    head_rows: int = 1024
    """Tokens whose logits exist at once."""

    def validate(self) -> None:
        """Raise ValueError on sizes that do not divide or are not positive."""
        require_positive(self, ("batch_size", "gradient_accumulation", "head_rows"), "sft.")
        require_whole_parts(self, "sft.")


class Weighted(NamedTuple):
    """A batch and the weight of each target in its mean."""

    batch: Packed
    weights: jax.Array
    """[B, T - 1] float32, adding up to 1; 0 where nothing is learnt."""


def packed_hidden(model: Model, params: Params, batch: Packed) -> jax.Array:
    """Run the trunk over packed rows: the state [B, T - 1, D] before each token but the first."""
    segments = batch.segments[:, :-1]
    return model.hidden(params, batch.tokens[:, :-1], segments > 0, segments)


def next_token_scores(
    model: Model, params: Params, batch: Packed, *, rows: int
) -> tuple[jax.Array, jax.Array]:
    """Compute log-probs of the next tokens, and whether each is the likeliest: both [B, T - 1].

    The head runs over `rows` tokens at a time. What stands where `batch.targets` is false means
    nothing.
    """
    hidden = packed_hidden(model, params, batch)
    tokens = batch.tokens[:, 1:]

    def scores(head: Params, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        states, wanted = inputs  # [n, D], [n]
        logits = model.head(head, states)
        taken = jnp.take_along_axis(logits, wanted[:, None], axis=-1)[:, 0]
        return taken - jax.nn.logsumexp(logits, axis=-1), jnp.argmax(logits, axis=-1) == wanted

    flat = (hidden.reshape(-1, hidden.shape[-1]), tokens.reshape(-1))
    log_probs, correct = map_rows(scores, model.head_params(params), flat, rows)
    return log_probs.reshape(tokens.shape), correct.reshape(tokens.shape)


def with_weights(batch: Packed) -> Weighted:
    """Weigh every target of the batch alike."""
    return Weighted(batch, token_weights(batch.targets[:, 1:], "token"))


def token_counts(batch: Packed) -> Metrics:
    """Count a batch's tokens, and those that are learnt."""
    return {
        "tokens": jnp.sum(batch.segments > 0).astype(jnp.float32),
        "target_tokens": jnp.sum(batch.targets).astype(jnp.float32),
    }


def make_loss(
    model: Model, config: SFTConfig
) -> Callable[[Params, Weighted], tuple[jax.Array, Metrics]]:
    """Build loss(params, weighted) -> mean loss in nats per target, metrics that add up."""

    def loss_fn(params: Params, weighted: Weighted) -> tuple[jax.Array, Metrics]:
        batch, weights = weighted
        log_probs, correct = next_token_scores(
            model, params["policy"], batch, rows=config.head_rows
        )
        loss = weighted_loss(-log_probs, weights)
        accuracy = weighted_loss(correct.astype(jnp.float32), weights)
        return loss, {"loss": loss, "accuracy": accuracy, **token_counts(batch)}

    return loss_fn


def make_update(
    model: Model,
    config: SFTConfig,
    optimizer: optax.GradientTransformation,
    learning_rate: Callable[[jax.Array], jax.Array],
    compose: Compose = all_trained,
) -> Update:
    """Build update(state, batch, key) -> state, metrics: one optimizer update on one batch.

    learning_rate: step -> rate, for the metrics. compose: of the frozen base and what is trained.
    Metrics: loss, perplexity = exp(loss), accuracy, tokens, target_tokens.
    """
    update = make_single_update(
        make_loss(model, config),
        with_weights,
        optimizer,
        learning_rate,
        parts=config.gradient_accumulation,
        compose=compose,
    )

    def with_perplexity(
        state: SupervisedState, batch: Packed, key: jax.Array
    ) -> tuple[SupervisedState, Metrics]:
        state, metrics = update(state, batch, key)
        return state, metrics | {"perplexity": jnp.exp(metrics["loss"])}

    return with_perplexity


def make_evaluate(
    model: Model, config: SFTConfig, compose: Compose = all_trained
) -> Callable[[Any, Packed], dict[str, Any]]:
    """Build evaluate(state, batch) -> {name: (sum, count)} of loss and accuracy over targets."""

    def evaluate(state: SupervisedState, batch: Packed) -> dict[str, tuple[jax.Array, jax.Array]]:
        policy = whole_params(compose, state)["policy"]
        score = functools.partial(next_token_scores, model, rows=config.head_rows)
        log_probs, correct = over_rows(score)(policy, batch)
        targets = batch.targets[:, 1:]
        count = jnp.sum(targets)
        return {
            "loss": (-jnp.sum(jnp.where(targets, log_probs, 0)), count),
            "accuracy": (jnp.sum(targets & correct), count),
        }

    return evaluate
