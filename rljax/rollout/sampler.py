"""The compiled sampler: one prefill, then a while loop that decodes until every sequence has ended.

B sequences, P prompt slots, C completion slots, S = P + C cache slots, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax.models.heads import apply_scalar_head
from rljax.models.transformer import Cache, Model
from rljax.rollout.distribution import SamplingConfig, distribution_logits, inverse_cdf
from rljax.types import Completions, Prompts

Params = dict[str, Any]
Sample = Callable[[Params, Params | None, Prompts, jax.Array], Completions]


def sampling_noise(key: jax.Array, prompts: Prompts, length: int) -> jax.Array:
    """Draw the uniform numbers [C, B] that decide the tokens.

    The number of a token depends on (key, prompt id, sample index, token position) alone: a prompt
    gets the same text whatever batch, slot or micro-batch it stands in.
    """

    def row(prompt_id: jax.Array, sample: jax.Array) -> jax.Array:
        row_key = jax.random.fold_in(jax.random.fold_in(key, prompt_id), sample)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(row_key, jnp.arange(length))
        return jax.vmap(jax.random.uniform)(keys)

    return jax.vmap(row)(prompts.ids, prompts.samples).T


class _Step(NamedTuple):
    """What the loop carries; buffers are [C, B], so that a step writes one contiguous row."""

    index: jax.Array
    done: jax.Array
    cache: Cache
    tokens: jax.Array
    mask: jax.Array
    log_probs: jax.Array
    values: jax.Array


def make_sampler(
    model: Model, sampling: SamplingConfig, eos_token_ids: Sequence[int], pad_token_id: int
) -> Sample:
    """Build sample(params, value_head or None, prompts, key) -> Completions.

    EOS is part of the completion, its mask is true. With a value head, values are read from the
    trunk's hidden states on the way (shared critic); without, they are 0. Log-probs are those of
    the distribution sampled from; greedy (temperature 0) reports those at temperature 1.
    Raises ValueError when prompt and completion exceed the context (at trace time).
    """
    sampling.validate()
    vocabulary = model.config.vocab_size
    eos = jnp.zeros((vocabulary, 1), bool).at[jnp.asarray(list(eos_token_ids), jnp.int32)].set(True)

    def choose(
        params: Params, head: Params | None, hidden: jax.Array, index: jax.Array, uniform: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Pick a token per column of hidden [D, B]: token, log-prob and value, each [B]."""
        logits = model.head_columns(params, hidden)
        early = index < sampling.min_new_tokens
        forbidden = eos & early if sampling.min_new_tokens else None
        logits = distribution_logits(logits, sampling, forbidden=forbidden, axis=0)
        top = jnp.max(logits, axis=0)
        weights = jnp.exp(logits - top)
        if sampling.temperature == 0:
            token = jnp.argmax(logits, axis=0).astype(jnp.int32)
        else:
            token = inverse_cdf(weights, uniform)
        chosen = jnp.take_along_axis(logits, token[None], axis=0)[0]
        log_prob = chosen - top - jnp.log(jnp.sum(weights, axis=0))
        value = apply_scalar_head(head, hidden.T) if head is not None else jnp.zeros_like(log_prob)
        return token, log_prob, value

    def sample(
        params: Params, value_head: Params | None, prompts: Prompts, key: jax.Array
    ) -> Completions:
        batch, width = prompts.tokens.shape
        length = sampling.max_new_tokens
        if width + length > model.config.context_length:
            raise ValueError(
                f"prompt slots {width} + max_new_tokens {length} exceed the model's context of "
                f"{model.config.context_length}; shorten one of them"
            )
        noise = sampling_noise(key, prompts, length)
        prompt_lengths = jnp.sum(prompts.mask, axis=1, dtype=jnp.int32)
        slots = jnp.arange(width + length)
        prompt_slots = jnp.pad(prompts.mask, ((0, 0), (0, length)))

        def write(step: _Step, hidden: jax.Array) -> _Step:
            """Sample token number step.index and store it."""
            token, log_prob, value = choose(
                params, value_head, hidden, step.index, noise[step.index]
            )
            live = ~step.done
            token = jnp.where(live, token, pad_token_id)
            return step._replace(
                index=step.index + 1,
                done=step.done | eos[token, 0],
                tokens=step.tokens.at[step.index].set(token),
                mask=step.mask.at[step.index].set(live),
                log_probs=step.log_probs.at[step.index].set(jnp.where(live, log_prob, 0.0)),
                values=step.values.at[step.index].set(jnp.where(live, value, 0.0)),
            )

        def decode(step: _Step) -> _Step:
            last = step.index - 1
            slot = width + last
            seen = prompt_slots | ((slots >= width) & (slots <= slot))
            hidden, cache = model.decode(
                params, step.tokens[last], prompt_lengths + last, slot, seen, step.cache
            )
            return write(step._replace(cache=cache), hidden)

        hidden, cache = model.prefill(params, prompts.tokens, prompts.mask, width + length)
        floats = jnp.zeros((length, batch), jnp.float32)
        start = _Step(
            index=jnp.int32(0),
            done=jnp.zeros(batch, bool),
            cache=cache,
            tokens=jnp.full((length, batch), pad_token_id, jnp.int32),
            mask=jnp.zeros((length, batch), bool),
            log_probs=floats,
            values=floats,
        )
        end = jax.lax.while_loop(
            lambda step: (step.index < length) & ~jnp.all(step.done),
            decode,
            write(start, hidden[:, -1].T),
        )
        return Completions(end.tokens.T, end.mask.T, end.log_probs.T, end.values.T)

    return sample
