"""Score completions under a policy: log-probs, entropy, hidden states; never the whole [B, T, V].

B sequences, P prompt slots, C completion slots, T = P + C, D hidden, V vocabulary, N = B C rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from rljax.models.heads import score_sequences
from rljax.models.transformer import Model
from rljax.rollout.chunks import map_rows
from rljax.rollout.distribution import (
    SamplingConfig,
    distribution_logits,
    most_probable,
    require_mask_params,
    token_set,
)
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
    mask_hidden: jax.Array | None = None
    """[B, C, D]: the same of the masking policy, for a further scoring; None without one."""


class Score(Protocol):
    def __call__(
        self,
        params: Params,
        prompts: Prompts,
        completions: Completions,
        mask_params: Params | None = ...,
        mask_hidden: jax.Array | None = ...,
        group: int = ...,
    ) -> Scored: ...


def whole_group(group: int, rows: int) -> int:
    """Return how many of the rows in turn can share a prompt: `group`, or 1 where one is cut.

    That is so where a batch is shared out in parts, over devices say, that are no whole groups.
    """
    return 1 if rows % group else group


def completion_hidden(
    model: Model, params: Params, prompts: Prompts, completions: Completions, group: int = 1
) -> jax.Array:
    """Run the trunk over prompts and completions: states before each completion token [B, C, D].

    group: so many rows in turn have the same prompt, which then runs once. The last token is never
    an input: nothing is predicted from it.
    """
    group = whole_group(group, len(completions.tokens))
    asked = (prompts.tokens[::group], prompts.mask[::group])
    return model.hidden_groups(params, *asked, completions.tokens, completions.real)


def reward_scores(
    model: Model, params: Params, head: Params, prompts: Prompts, completions: Completions
) -> jax.Array:
    """Read a reward head at the last token of each completion: [B] float32."""
    tokens = jnp.concatenate([prompts.tokens, completions.tokens], axis=1)
    mask = jnp.concatenate([prompts.mask, completions.real], axis=1)
    return score_sequences(head, model.hidden(params, tokens, mask), mask)


def make_chunk_scores(
    model: Model, sampling: SamplingConfig, eos_token_ids: Sequence[int], *, with_entropy: bool
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Build chunk_scores(params, mask_params, hidden, token, early, mask_rows) of n tokens.

    It gives their log-probs and entropies (or 0), [n] each.

    hidden: [n, D]; token: [n]; early: [n], where EOS is forbidden; mask_rows: the masking policy's
    states [n, D] and how many tokens it allows [n].
    """
    eos = token_set(eos_token_ids, model.config.vocab_size)

    def chunk_scores(
        params: Params,
        mask_params: Params | None,
        hidden: jax.Array,
        token: jax.Array,
        early: jax.Array,
        mask_rows: tuple[jax.Array, jax.Array] | None,
    ) -> tuple[jax.Array, jax.Array]:
        forbidden = eos & early[:, None] if sampling.min_new_tokens else None
        allowed = None
        if mask_params is not None and mask_rows is not None:
            mask_logits = model.head(mask_params, mask_rows[0])
            # nothing is allowed on padding, which the search for a border could not end at
            count = jnp.maximum(mask_rows[1], 1.0)[:, None]
            allowed = most_probable(mask_logits, count, forbidden=forbidden)
        logits = distribution_logits(
            model.head(params, hidden),
            sampling,
            forbidden=forbidden,
            allowed=allowed,
            taken=token[:, None],
        )
        normaliser = jax.nn.logsumexp(logits, axis=-1)
        log_prob = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0] - normaliser
        if not with_entropy:
            return log_prob, jnp.zeros_like(log_prob)
        mean_logit = jnp.sum(jnp.exp(logits - normaliser[:, None]) * logits, axis=-1)
        return log_prob, normaliser - mean_logit

    return chunk_scores


def make_score(
    model: Model,
    sampling: SamplingConfig,
    eos_token_ids: Sequence[int],
    *,
    with_entropy: bool = False,
    rows: int = 1024,
) -> Score:
    """Build score(params, prompts, completions[, mask_params, mask_hidden, group]) -> Scored.

    Differentiable in params. The head runs over `rows` tokens at a time and is recomputed in the
    backward pass when there is more than one such chunk, so that at most [rows, V] logits exist.
    Completions that were sampled under an action mask are scored under it: mask_params is the
    masking policy, mask_hidden are its states, where an earlier scoring of them gave these.
    group: so many rows in turn have the same prompt, which is computed once for all of them.
    Raises ValueError where mask_params are missing, or given for others (at trace time).
    """
    chunk_scores = make_chunk_scores(model, sampling, eos_token_ids, with_entropy=with_entropy)

    def score(
        params: Params,
        prompts: Prompts,
        completions: Completions,
        mask_params: Params | None = None,
        mask_hidden: jax.Array | None = None,
        group: int = 1,
    ) -> Scored:
        require_mask_params(completions.allowed is not None, mask_params)
        batch, length = completions.tokens.shape
        hidden = completion_hidden(model, params, prompts, completions, group)
        mask_rows = None
        if mask_params is not None and completions.allowed is not None:
            if mask_hidden is None:
                mask_hidden = completion_hidden(model, mask_params, prompts, completions, group)
            mask_rows = (mask_hidden.reshape(batch * length, -1), completions.allowed.reshape(-1))
        early = jnp.broadcast_to(jnp.arange(length) < sampling.min_new_tokens, (batch, length))
        flat = (
            hidden.reshape(batch * length, -1),
            completions.tokens.reshape(-1),
            early.reshape(-1),
            mask_rows,
        )
        heads = [p if p is None else model.head_params(p) for p in (params, mask_params)]
        log_probs, entropy = map_rows(lambda both, xs: chunk_scores(*both, *xs), heads, flat, rows)
        mask = completions.mask
        return Scored(
            jnp.where(mask, log_probs.reshape(batch, length), 0.0),
            jnp.where(mask, entropy.reshape(batch, length), 0.0),
            hidden,
            mask_hidden,
        )

    return score
