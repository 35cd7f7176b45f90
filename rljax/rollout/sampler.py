"""The compiled sampler: one prefill, then a while loop that decodes until every sequence has ended.

B sequences, P prompt slots, C completion slots, S = P + C cache slots, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from rljax.models.cache import Cache
from rljax.models.heads import apply_scalar_head
from rljax.models.rounded import rounded_model
from rljax.models.transformer import Model
from rljax.rollout.distribution import (
    ActionMask,
    SamplingConfig,
    allowed_tokens,
    distribution_logits,
    inverse_cdf,
    mix_uniformly,
    require_mask_params,
    token_set,
)
from rljax.rollout.scoring import whole_group
from rljax.shares import gathered
from rljax.traced import check, is_zero
from rljax.types import Completions, Prompts

Params = dict[str, Any]


class Sample(Protocol):
    def __call__(
        self,
        params: Params,
        value_head: Params | None,
        prompts: Prompts,
        key: jax.Array,
        mask_params: Params | None = ...,
    ) -> Completions: ...


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


def require_context(model: Model, prompts: Prompts, length: int) -> None:
    """Raise ValueError unless prompts and completions of `length` tokens fit the model."""
    width = prompts.tokens.shape[1]
    if width + length > model.config.context_length:
        raise ValueError(
            f"prompt slots {width} + max_new_tokens {length} exceed the model's context of "
            f"{model.config.context_length}; shorten one of them"
        )


def sampling_model(model: Model, sampling: SamplingConfig, action_mask: ActionMask | None) -> Model:
    """Return the model that samples: in 8 bits where the sampling says so.

    Raises ValueError with an action mask: which tokens it allows would be another set for the
    learner.
    """
    if sampling.coarse and action_mask is not None:
        raise ValueError(
            f"sampling.weights {sampling.weights} and sampling.cache {sampling.cache} with an "
            "action mask (mask_top_p): the masking policy would allow other tokens when sampled "
            "from than when learnt; set both to model"
        )
    return rounded_model(model, weights=sampling.weights == "int8", cache=sampling.cache == "int8")


class Chosen(NamedTuple):
    """A token per sequence, [B] each, and what was known when it was chosen."""

    tokens: jax.Array
    log_probs: jax.Array
    values: jax.Array
    allowed: jax.Array | None
    """float32: how many tokens the masking policy allowed; None without one."""
    policy_log_probs: jax.Array | None
    """Under the policy itself, where a mixture is sampled from; else None."""


def choose_tokens(
    logits: jax.Array,
    sampling: SamplingConfig,
    uniform: jax.Array,
    forbidden: jax.Array | None,
    allowed: jax.Array | None = None,
    epsilon: float | jax.Array = 0.0,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Draw a token per column of logits [V, B] with the uniform numbers [B]: ids, log-probs [B].

    Greedy (temperature 0) takes the largest and reports its log-prob at temperature 1. With epsilon
    the token and its log-prob are those of the mixture with uniform tokens, and the third result is
    the policy's own log-prob; else it is None.
    """
    logits = distribution_logits(logits, sampling, forbidden=forbidden, allowed=allowed, axis=0)
    if not is_zero(epsilon):
        mixed, log_pi = mix_uniformly(logits, epsilon, axis=0)
        token = inverse_cdf(mixed, uniform)
        found = [jnp.take_along_axis(x, token[None], axis=0)[0] for x in (mixed, log_pi)]
        return token, jnp.log(found[0]), found[1]
    top = jnp.max(logits, axis=0)
    weights = jnp.exp(logits - top)
    if is_zero(sampling.temperature):
        token = jnp.argmax(logits, axis=0).astype(jnp.int32)
    else:
        token = inverse_cdf(weights, uniform)
    chosen = jnp.take_along_axis(logits, token[None], axis=0)[0]
    return token, chosen - top - jnp.log(jnp.sum(weights, axis=0)), None


def make_choose(
    model: Model,
    sampling: SamplingConfig,
    eos: jax.Array,
    action_mask: ActionMask | None,
    epsilon: float | jax.Array = 0.0,
) -> Callable[..., Chosen]:
    """Build choose(policies, value_head, hidden, index, uniform [B]) -> Chosen.

    policies, and their hidden states [D, B] each: the one that samples, and with an action mask the
    one that masks. eos: [V] bool. index: the token's position, one for all or [B]. epsilon: see
    `choose_tokens`.
    """

    def choose(
        policies: tuple[Params, ...],
        head: Params | None,
        hidden: tuple[jax.Array, ...],
        index: jax.Array,
        uniform: jax.Array,
    ) -> Chosen:
        early = eos[:, None] & (index < sampling.min_new_tokens)
        forbidden = early if sampling.min_new_tokens else None
        logits, *others = map(model.head_columns, policies, hidden)
        count = allowed = None
        if action_mask is not None:
            allowed = allowed_tokens(others[0], action_mask, forbidden=forbidden, axis=0)
            count = jnp.sum(allowed, axis=0, dtype=jnp.float32)
        token, log_prob, own = choose_tokens(logits, sampling, uniform, forbidden, allowed, epsilon)
        states = hidden[0].T
        value = apply_scalar_head(head, states) if head is not None else jnp.zeros_like(log_prob)
        return Chosen(token, log_prob, value, count, own)

    return choose


class Decoding(NamedTuple):
    """What the loop carries; buffers are [C, B], so that a step writes one contiguous row."""

    index: jax.Array
    done: jax.Array
    caches: tuple[Cache, ...]
    """The policy's, and the masking policy's if there is one."""
    tokens: jax.Array
    mask: jax.Array
    log_probs: jax.Array
    values: jax.Array
    allowed: jax.Array | None
    policy_log_probs: jax.Array | None

    @classmethod
    def start(
        cls,
        batch: int,
        length: int,
        caches: tuple[Cache, ...],
        pad_token_id: int,
        mixed: bool,
    ) -> Decoding:
        """Return the state before the first token. mixed: a mixture will be sampled from."""
        floats = jnp.zeros((length, batch), jnp.float32)
        return cls(
            index=jnp.int32(0),
            done=jnp.zeros(batch, bool),
            caches=caches,
            tokens=jnp.full((length, batch), pad_token_id, jnp.int32),
            mask=jnp.zeros((length, batch), bool),
            log_probs=floats,
            values=floats,
            allowed=floats if len(caches) > 1 else None,
            policy_log_probs=floats if mixed else None,
        )

    def write(self, chosen: Chosen, ends: jax.Array, pad_token_id: int) -> Decoding:
        """Store token number `index`; sequences that have ended get padding. ends: [V] bool."""
        at, live = self.index, ~self.done
        token = jnp.where(live, chosen.tokens, pad_token_id)
        allowed = self.allowed
        if allowed is not None and chosen.allowed is not None:
            allowed = allowed.at[at].set(jnp.where(live, chosen.allowed, 0.0))
        own = self.policy_log_probs
        if own is not None and chosen.policy_log_probs is not None:
            own = own.at[at].set(jnp.where(live, chosen.policy_log_probs, 0.0))
        return self._replace(
            index=at + 1,
            done=self.done | ends[token],
            tokens=self.tokens.at[at].set(token),
            mask=self.mask.at[at].set(live),
            log_probs=self.log_probs.at[at].set(jnp.where(live, chosen.log_probs, 0.0)),
            values=self.values.at[at].set(jnp.where(live, chosen.values, 0.0)),
            allowed=allowed,
            policy_log_probs=own,
        )


def decode_all(
    model: Model,
    policies: tuple[Params, ...],
    prompts: Prompts,
    length: int,
    start: Callable[[tuple[Cache, ...]], Decoding],
    write: Callable[[Decoding, tuple[jax.Array, ...]], Decoding],
    group: int,
) -> Decoding:
    """Prefill, then decode until every sequence has ended; all policies read the same text.

    length: completion slots. group: so many rows in turn share a prompt, which is read
    once. start: caches -> the state before the first token. write: (state, the hidden states [D, B]
    of each policy) -> the state with one token more.
    """
    width = prompts.tokens.shape[1]
    prompt_lengths = jnp.sum(prompts.mask, axis=1, dtype=jnp.int32)
    slots = jnp.arange(width + length)
    prompt_slots = jnp.pad(prompts.mask, ((0, 0), (0, length)))

    def decode(state: Decoding) -> Decoding:
        last = state.index - 1
        slot = width + last
        seen = prompt_slots | ((slots >= width) & (slots <= slot))
        steps = [
            model.decode(policy, state.tokens[last], prompt_lengths + last, slot, seen, cache)
            for policy, cache in zip(policies, state.caches, strict=True)
        ]
        hidden, caches = zip(*steps, strict=True)
        return write(state._replace(caches=caches), hidden)

    asked = (prompts.tokens[::group], prompts.mask[::group])
    starts = [model.prefill(policy, *asked, width + length, group) for policy in policies]
    hidden, caches = zip(*starts, strict=True)
    return jax.lax.while_loop(
        lambda state: (state.index < length) & ~jnp.all(state.done),
        decode,
        write(
            start(caches), tuple(jnp.repeat(states[:, -1], group, axis=0).T for states in hidden)
        ),
    )


def make_sampler(
    model: Model,
    sampling: SamplingConfig,
    eos_token_ids: Sequence[int],
    pad_token_id: int,
    action_mask: ActionMask | None = None,
    group: int = 1,
    epsilon: float | jax.Array = 0.0,
) -> Sample:
    """Build sample(params, value_head or None, prompts, key[, mask_params]) -> Completions.

    EOS is part of the completion, its mask is true. With a value head, values are read from the
    trunk's hidden states on the way (shared critic); without, they are 0. Log-probs are those of
    the distribution sampled from; greedy (temperature 0) reports those at temperature 1.
    action_mask: only tokens that a second policy, mask_params, allows are chosen; it decodes the
    same text in step. group: so many rows in turn have the same prompt, which is prefilled once;
    its keys and values are shared. epsilon: the share of uniform tokens in what is sampled from,
    see `rljax.rollout.exploration`; 0: none.
    Raises ValueError for 8 bits with an action mask, and when prompt and completion exceed the
    context (at trace time).
    """
    check(sampling)
    model = sampling_model(model, sampling, action_mask)
    length = sampling.max_new_tokens
    eos = token_set(eos_token_ids, model.config.vocab_size)

    choose = make_choose(model, sampling, eos, action_mask, epsilon)

    def sample(
        params: Params,
        value_head: Params | None,
        prompts: Prompts,
        key: jax.Array,
        mask_params: Params | None = None,
    ) -> Completions:
        require_mask_params(action_mask is not None, mask_params)
        require_context(model, prompts, length)
        batch = len(prompts.tokens)
        wanted = (params,) if mask_params is None else (params, mask_params)
        policies, head = tuple(map(model.prepare, wanted)), gathered(value_head)
        noise = sampling_noise(key, prompts, length)
        shared = whole_group(group, batch)

        def start(caches: tuple[Cache, ...]) -> Decoding:
            return Decoding.start(batch, length, caches, pad_token_id, not is_zero(epsilon))

        def write(state: Decoding, hidden: tuple[jax.Array, ...]) -> Decoding:
            index = state.index
            chosen = choose(policies, head, hidden, index, noise[index])
            return state.write(chosen, eos, pad_token_id)

        end = decode_all(model, policies, prompts, length, start, write, shared)
        made = (
            end.tokens, end.mask, end.log_probs, end.values, end.allowed, end.policy_log_probs
        )  # fmt: skip
        return Completions(*jax.tree.map(jnp.transpose, made))

    return sample
