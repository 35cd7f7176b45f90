"""Continuous batching: a slot whose completion has ended takes the next prompt of the queue.

The plain sampler decodes until its longest completion has ended, the ended ones with it. Here N
slots decode, and all prompts pass through them: a slot that is free is given the next prompt, on
the device, inside one compiled program. What a slot decodes does not depend on its neighbours, and
a token's noise does not depend on the slot, so completions are those of the plain sampler.

All slots write their keys and values at one column of the cache, which moves with every step
through a ring of C columns behind the prompt's P. A completion of n tokens owns the n newest; each
key carries its own position, so their order does not matter.

When the queue is empty the slots run dry one by one; the last completions then move together into
a batch of fewer slots.

B prompts, P prompt slots, C completion slots, N decoding slots, D hidden, R prompts of a refill.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax.models.cache import Cache, empty_cache, replace_prompts, take_rows
from rljax.models.transformer import Model
from rljax.rollout.distribution import ActionMask, SamplingConfig, require_mask_params, token_set
from rljax.rollout.sampler import (
    Chosen,
    Sample,
    make_choose,
    make_sampler,
    require_context,
    sampling_model,
    sampling_noise,
)
from rljax.rollout.scoring import whole_group
from rljax.shares import gathered
from rljax.traced import is_zero
from rljax.types import Completions, Prompts

Params = dict[str, Any]

REFILL_SHARE = 8
"""A refill waits for 1 / 8 of the slots, so that prompts are read several at a time."""
DRAIN_SHARE = 4
"""With an empty queue and 1 / 4 of the slots left, these go on as a batch of their own."""


class Slots(NamedTuple):
    """What the decoding slots hold; N each."""

    live: jax.Array
    """[N] bool: the completion goes on."""
    row: jax.Array
    """[N] int32: which prompt."""
    count: jax.Array
    """[N] int32: tokens written so far."""
    token: jax.Array
    """[N] int32: the last of them."""
    prompt_mask: jax.Array
    """[N, P] bool."""
    caches: tuple[Cache, ...]
    """The policy's, and the masking policy's if there is one: P + C columns."""


class State(NamedTuple):
    """What the loops carry."""

    step: jax.Array
    """Tokens that every slot has decoded, int32."""
    queue: jax.Array
    """The first prompt that no slot has taken yet, int32."""
    slots: Slots
    made: Completions
    """[B, C]; the mask is filled in at the end, from the lengths."""
    lengths: jax.Array
    """[B] int32: tokens written."""

    def write(self, chosen: Chosen, row: jax.Array, index: jax.Array, live: jax.Array) -> State:
        """Write token `index` of completion `row`, where `live`: [n] each, as is `chosen`."""
        row = jnp.where(live, row, self.lengths.shape[0])  # beyond the end: dropped

        def put(buffer: jax.Array, values: jax.Array) -> jax.Array:
            return buffer.at[row, index].set(values, mode="drop")

        made = self.made._replace(
            tokens=put(self.made.tokens, chosen.tokens),
            log_probs=put(self.made.log_probs, chosen.log_probs),
            values=put(self.made.values, chosen.values),
        )
        if made.allowed is not None and chosen.allowed is not None:
            made = made._replace(allowed=put(made.allowed, chosen.allowed))
        if made.policy_log_probs is not None and chosen.policy_log_probs is not None:
            own = put(made.policy_log_probs, chosen.policy_log_probs)
            made = made._replace(policy_log_probs=own)
        lengths = self.lengths.at[row].set(index + 1, mode="drop")
        return self._replace(made=made, lengths=lengths)


class Queue(NamedTuple):
    """All prompts, and what turns them into completions; fixed while the loops run."""

    model: Model
    policies: tuple[Params, ...]
    prompts: Prompts
    noise: jax.Array
    """[C, B]."""
    choose: Callable[[tuple[jax.Array, ...], jax.Array, jax.Array], Chosen]
    """(hidden states [D, n] of each policy, token index [n], uniform [n]) -> a token for each."""
    ends: jax.Array
    """[V] bool: EOS."""
    refill_size: int
    shared: int
    """So many rows in turn, of a refill too, have the same prompt."""
    mixed: bool
    """Whether a mixture is sampled from."""

    def start(self, slots: int, pad_token_id: int) -> State:
        """Return the state in which no slot has a prompt yet."""
        length, batch = self.noise.shape
        tokens, mask = self.prompts.tokens, self.prompts.mask
        width = tokens.shape[1]
        shapes = [
            jax.eval_shape(
                lambda p: self.model.prefill(p, tokens[:1], mask[:1], width + length)[1], policy
            )
            for policy in self.policies
        ]
        numbers = jnp.zeros(slots, jnp.int32)
        floats = jnp.zeros((batch, length), jnp.float32)
        return State(
            step=jnp.int32(0),
            queue=jnp.int32(0),
            slots=Slots(
                live=jnp.zeros(slots, bool),
                row=numbers,
                count=numbers,
                token=numbers,
                prompt_mask=jnp.zeros((slots, width), bool),
                caches=tuple(empty_cache(shape, slots) for shape in shapes),
            ),
            made=Completions(
                tokens=jnp.full((batch, length), pad_token_id, jnp.int32),
                mask=jnp.zeros((batch, length), bool),
                log_probs=floats,
                values=floats,
                allowed=floats if len(self.policies) > 1 else None,
                policy_log_probs=floats if self.mixed else None,
            ),
            lengths=jnp.zeros(batch, jnp.int32),
        )

    def waiting(self, state: State) -> jax.Array:
        """Say whether prompts wait for which there is room."""
        left = self.noise.shape[1] - state.queue
        free = jnp.sum(~state.slots.live)
        return (left > 0) & (free >= jnp.minimum(left, self.refill_size))

    def goes_on(self, token: jax.Array, count: jax.Array) -> jax.Array:
        """Say which completions go on after a token, their number `count`."""
        return ~self.ends[token] & (count < self.noise.shape[0])

    def refill(self, state: State) -> State:
        """Read the next R prompts, put them into free slots, and choose their first tokens."""
        slots, size = state.slots, self.refill_size
        places = jnp.nonzero(~slots.live, size=size, fill_value=slots.live.shape[0])[0]
        row = state.queue + jnp.arange(size, dtype=jnp.int32)
        real = row < self.noise.shape[1]
        places = jnp.where(real, places, slots.live.shape[0])  # beyond the end: dropped
        row = jnp.where(real, row, 0)
        mask, asked = self.prompts.mask[row], row[:: self.shared]
        tokens = self.prompts.tokens[asked]
        read = [
            self.model.prefill(p, tokens, self.prompts.mask[asked], tokens.shape[1])
            for p in self.policies
        ]
        hidden, caches = zip(*read, strict=True)
        first, copies = jnp.zeros(size, jnp.int32), jnp.arange(size) // self.shared
        columns = tuple(states[copies, -1].T for states in hidden)
        chosen = self.choose(columns, first, self.noise[0, row])

        def put(buffer: jax.Array, values: jax.Array) -> jax.Array:
            return buffer.at[places].set(values, mode="drop")

        filled = Slots(
            live=put(slots.live, self.goes_on(chosen.tokens, first + 1)),
            row=put(slots.row, row),
            count=put(slots.count, first + 1),
            token=put(slots.token, chosen.tokens),
            prompt_mask=put(slots.prompt_mask, mask),
            caches=tuple(
                replace_prompts(old, take_rows(new, copies), places)
                for old, new in zip(slots.caches, caches, strict=True)
            ),
        )
        state = state.write(chosen, row, first, real)
        return state._replace(queue=state.queue + size, slots=filled)

    def decode(self, state: State) -> State:
        """Write one token more in every slot."""
        slots, (length, _) = state.slots, self.noise.shape
        width = slots.prompt_mask.shape[1]
        age = (state.step - jnp.arange(length)) % length  # of the ring's columns, in tokens
        count = slots.count[:, None]
        seen = jnp.concatenate([slots.prompt_mask, age < count], axis=1)
        ages = jnp.broadcast_to(age, (len(slots.count), length))
        distance = jnp.concatenate([count - 1 + width - jnp.arange(width), ages], axis=1)
        position = jnp.sum(slots.prompt_mask, axis=1, dtype=jnp.int32) + slots.count - 1
        column = width + state.step % length
        steps = [
            self.model.decode(policy, slots.token, position, column, seen, cache, distance)
            for policy, cache in zip(self.policies, slots.caches, strict=True)
        ]
        hidden, caches = zip(*steps, strict=True)
        index = jnp.minimum(slots.count, length - 1)
        chosen = self.choose(hidden, index, self.noise[index, slots.row])
        state = state.write(chosen, slots.row, index, slots.live)
        after = slots._replace(
            live=slots.live & self.goes_on(chosen.tokens, index + 1),
            count=index + 1,
            token=chosen.tokens,
            caches=caches,
        )
        return state._replace(step=state.step + 1, slots=after)

    def run(self, state: State) -> State:
        """Decode until the queue is empty and only a share of the slots, or none, goes on."""
        left = len(state.slots.live) // DRAIN_SHARE

        def unfinished(state: State) -> jax.Array:
            return (jnp.sum(state.slots.live) > left) | (state.queue < self.noise.shape[1])

        def decodes(state: State) -> jax.Array:
            return unfinished(state) & ~self.waiting(state)

        def fill_and_decode(state: State) -> State:
            return jax.lax.while_loop(decodes, self.decode, self.refill(state))

        return jax.lax.while_loop(unfinished, fill_and_decode, state)

    def drain(self, state: State) -> State:
        """Finish the completions that `run` has left, in a batch that is just large enough."""
        left = len(state.slots.live) // DRAIN_SHARE
        if not left:
            return state
        slots = state.slots
        places = jnp.argsort(~slots.live)[:left]
        rest = jax.tree.map(lambda x: x[places], slots._replace(caches=()))
        rest = rest._replace(caches=tuple(take_rows(cache, places) for cache in slots.caches))
        return jax.lax.while_loop(
            lambda state: jnp.any(state.slots.live), self.decode, state._replace(slots=rest)
        )


def make_continuous_sampler(
    model: Model,
    sampling: SamplingConfig,
    eos_token_ids: Sequence[int],
    pad_token_id: int,
    action_mask: ActionMask | None = None,
    group: int = 1,
    epsilon: float | jax.Array = 0.0,
    *,
    refill_size: int | None = None,
) -> Sample:
    """Build sample(params, value_head or None, prompts, key[, mask_params]) -> Completions.

    The same completions as `make_sampler`'s, written by sampling.slots slots (as far as the last
    bits of the logits allow: batches of other sizes round otherwise). Where sampling.slots is None,
    or at least the number of prompts, it is the plain sampler. group: so many rows in turn have the
    same prompt; those that are refilled together read it once. epsilon: as there.
    refill_size: completions that are begun together, R; None: an eighth of the slots.
    Raises what `make_sampler` raises, and ValueError for a refill_size that is not in 1..slots.
    """
    plain = make_sampler(model, sampling, eos_token_ids, pad_token_id, action_mask, group, epsilon)
    if sampling.slots is None:
        return plain
    model = sampling_model(model, sampling, action_mask)
    slots, length = sampling.slots, sampling.max_new_tokens
    size = max(1, slots // REFILL_SHARE) if refill_size is None else refill_size
    if not 1 <= size <= slots:
        raise ValueError(f"refill_size is {size}; it must be in 1..{slots}, the slots")
    ends = token_set(eos_token_ids, model.config.vocab_size)
    choose = make_choose(model, sampling, ends, action_mask, epsilon)

    def sample(
        params: Params,
        value_head: Params | None,
        prompts: Prompts,
        key: jax.Array,
        mask_params: Params | None = None,
    ) -> Completions:
        if slots >= len(prompts.tokens):
            return plain(params, value_head, prompts, key, mask_params)
        require_mask_params(action_mask is not None, mask_params)
        require_context(model, prompts, length)
        wanted = (params,) if mask_params is None else (params, mask_params)
        policies, head = tuple(map(model.prepare, wanted)), gathered(value_head)

        def choose_for(
            hidden: tuple[jax.Array, ...], index: jax.Array, uniform: jax.Array
        ) -> Chosen:
            return choose(policies, head, hidden, index, uniform)

        noise = sampling_noise(key, prompts, length)
        queue = Queue(
            model,
            policies,
            prompts,
            noise,
            choose_for,
            ends,
            size,
            math.gcd(size, whole_group(group, len(prompts.tokens))),
            not is_zero(epsilon),
        )
        end = queue.drain(queue.run(queue.start(slots, pad_token_id)))
        return end.made._replace(mask=jnp.arange(length) < end.lengths[:, None])

    return sample
