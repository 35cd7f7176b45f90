"""Score completions under a policy: log-probs, entropy, hidden states; never the whole [B, T, V].

B sequences, P prompt slots, C completion slots, T = P + C, D hidden, V vocabulary, N = B C rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax.models.heads import score_sequences
from rljax.models.transformer import Model
from rljax.rollout.chunks import map_rows
from rljax.rollout.distribution import SamplingConfig, distribution_logits
from rljax.types import Completions, Prompts

Params = dict[str, Any]


class Scored(NamedTuple):
    """What a policy thinks of given completions."""

    log_probs: jax.Array
    """[B, C] float32 under the sampling distribution; 0 on padding."""
    entropy: jax.Array
    """[B, C] float32, nats, of the sampling distribution; 0 on padding, or where not asked for."""
    hidden: jax.Array
    """[B, C, D]: the state before each completion token, for scalar heads."""


Score = Callable[[Params, Prompts, Completions], Scored]


def completion_hidden(
    model: Model, params: Params, prompts: Prompts, completions: Completions
) -> jax.Array:
    """Run the trunk over prompts and completions: states before each completion token [B, C, D].

    The last token is never an input: nothing is predicted from it.
    """
    tokens = jnp.concatenate([prompts.tokens, completions.tokens], axis=1)[:, :-1]
    mask = jnp.concatenate([prompts.mask, completions.mask], axis=1)[:, :-1]
    return model.hidden(params, tokens, mask)[:, prompts.tokens.shape[1] - 1 :]


def reward_scores(
    model: Model, params: Params, head: Params, prompts: Prompts, completions: Completions
) -> jax.Array:
    """Read a reward head at the last token of each completion: [B] float32."""
    tokens = jnp.concatenate([prompts.tokens, completions.tokens], axis=1)
    mask = jnp.concatenate([prompts.mask, completions.mask], axis=1)
    return score_sequences(head, model.hidden(params, tokens, mask), mask)


def make_score(
    model: Model,
    sampling: SamplingConfig,
    eos_token_ids: Sequence[int],
    *,
    with_entropy: bool = False,
    rows: int = 1024,
) -> Score:
    """Build score(params, prompts, completions) -> Scored, differentiable in params.

    The head runs over `rows` tokens at a time and is recomputed in the backward pass when there is
    more than one such chunk, so that at most [rows, V] logits exist.
    """
    vocabulary = model.config.vocab_size
    eos = jnp.zeros((vocabulary,), bool).at[jnp.asarray(list(eos_token_ids), jnp.int32)].set(True)

    def chunk_scores(
        params: Params, hidden: jax.Array, token: jax.Array, early: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Log-prob and entropy of n rows: [n, D], [n], [n] -> [n], [n]."""
        forbidden = eos & early[:, None] if sampling.min_new_tokens else None
        logits = distribution_logits(
            model.head(params, hidden), sampling, forbidden=forbidden, taken=token[:, None]
        )
        normaliser = jax.nn.logsumexp(logits, axis=-1)
        log_prob = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0] - normaliser
        if not with_entropy:
            return log_prob, jnp.zeros_like(log_prob)
        mean_logit = jnp.sum(jnp.exp(logits - normaliser[:, None]) * logits, axis=-1)
        return log_prob, normaliser - mean_logit

    def score(params: Params, prompts: Prompts, completions: Completions) -> Scored:
        batch, length = completions.tokens.shape
        hidden = completion_hidden(model, params, prompts, completions)
        early = jnp.broadcast_to(jnp.arange(length) < sampling.min_new_tokens, (batch, length))
        flat = (
            hidden.reshape(batch * length, -1),
            completions.tokens.reshape(-1),
            early.reshape(-1),
        )
        log_probs, entropy = map_rows(lambda xs: chunk_scores(params, *xs), flat, rows)
        mask = completions.mask
        return Scored(
            jnp.where(mask, log_probs.reshape(batch, length), 0.0),
            jnp.where(mask, entropy.reshape(batch, length), 0.0),
            hidden,
        )

    return score
