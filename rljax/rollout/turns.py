"""The compiled parts of a conversation: read the first prompt, write a turn, read an answer to it.

The keys and values of what was read and written stay; a turn costs its own tokens, an answer its
own, and nothing of the past is computed again. A conversation's tokens stand one after another in
its row, as the learner scores them, while rows are of different lengths.

B conversations, P prompt slots, C slots of what follows the prompt, S = P + C cache slots, W tokens
of a turn at most, O tokens of an answer at most, D hidden.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax.models.cache import (
    Cache,
    GroupCache,
    append_rows,
    empty_cache,
    is_layer,
    take_rows,
    widen,
)
from rljax.models.transformer import Model
from rljax.rollout.distribution import SamplingConfig, token_set
from rljax.rollout.sampler import (
    Decoding,
    make_choose,
    require_context,
    sampling_model,
    sampling_noise,
)
from rljax.rollout.scoring import whole_group
from rljax.shares import gathered
from rljax.traced import check
from rljax.types import Completions, Prompts

Params = dict[str, Any]


class Talk(NamedTuple):
    """How far B conversations are."""

    prompt_mask: jax.Array
    """[B, P] bool."""
    cache: Cache
    """S slots: the prompt, and what followed but for the last token of a turn."""
    hidden: jax.Array
    """[D, B]: the state that the next own token is drawn from."""
    noise: jax.Array
    """[C, B]: the uniform number that decides the token of each slot."""
    used: jax.Array
    """[B] int32: slots that are filled."""
    made: Completions
    """What stands in them."""


class Turn(NamedTuple):
    """What the policy wrote in a turn."""

    tokens: jax.Array
    """[B, W] int32, right-padded."""
    counts: jax.Array
    """[B] int32: how many of them are real; 0 where it did not write."""


class Talking(NamedTuple):
    """The functions of a conversation, all pure."""

    prepare: Callable[..., tuple[Params, Params | None]]
    """(params, value_head or None) -> both, for many calls of the others."""
    start: Callable[..., Talk]
    """(prepared, prompts, key) -> the state after the first prompt was read."""
    write: Callable[..., tuple[Talk, Turn]]
    """(prepared, state, live [B] bool) -> the state with a turn more where live, the turn."""
    read: Callable[..., Talk]
    """(prepared, state, tokens [B, O], counts [B], live [B]) -> the state after an answer of that
    many tokens was read; where it is not live the conversation is over, and nothing is read."""


@dataclasses.dataclass(frozen=True, eq=False)  # by identity: its methods are compiled
class _Conversation:
    """What the functions of a conversation share; `Talking` says what each of them is."""

    model: Model
    choose: Any
    """As `make_choose` builds it."""
    ends: jax.Array
    """[V] bool: what ends a turn."""
    pad_token_id: int
    length: int
    """Slots of what follows the prompt, C."""
    width: int
    """Tokens of a turn at most, W."""
    group: int
    """So many rows in turn have the same prompt."""

    def prepare(self, params: Params, value_head: Params | None) -> tuple[Params, Params | None]:
        return self.model.prepare(params), gathered(value_head)

    def start(
        self, prepared: tuple[Params, Params | None], prompts: Prompts, key: jax.Array
    ) -> Talk:
        require_context(self.model, prompts, self.length)
        batch, slots = prompts.tokens.shape
        each = whole_group(self.group, batch)
        hidden, cache = self.model.prefill(
            prepared[0], prompts.tokens[::each], prompts.mask[::each], slots
        )
        if each > 1:
            cache = take_rows(cache, jnp.repeat(jnp.arange(batch // each), each))
        nothing = jnp.zeros((batch, self.length), jnp.float32)
        made = Completions(
            tokens=jnp.full((batch, self.length), self.pad_token_id, jnp.int32),
            mask=nothing > 0,
            log_probs=nothing,
            values=nothing,
            seen=nothing > 0,
        )
        return Talk(
            prompt_mask=prompts.mask,
            cache=widen(cache, self.length),
            hidden=jnp.repeat(hidden[:, -1], each, axis=0).T,
            noise=sampling_noise(key, prompts, self.length),
            used=jnp.zeros(batch, jnp.int32),
            made=made,
        )

    def write(
        self, prepared: tuple[Params, Params | None], state: Talk, live: jax.Array
    ) -> tuple[Talk, Turn]:
        params, head = prepared
        rows = jnp.arange(len(live))

        def draw(decoding: Decoding, hidden: jax.Array) -> Decoding:
            index = state.used + decoding.index
            uniform = state.noise[jnp.minimum(index, self.length - 1), rows]
            chosen = self.choose((params,), head, (hidden,), index, uniform)
            return decoding.write(chosen, self.ends, self.pad_token_id)

        def step(decoding: Decoding) -> Decoding:
            hidden, cache = _decode(self.model, params, state, decoding)
            return draw(decoding._replace(caches=(cache,)), hidden)

        own = _empty(state.cache, self.width)
        begun = Decoding.start(len(live), self.width, (own,), self.pad_token_id, mixed=False)
        end = jax.lax.while_loop(
            lambda decoding: (decoding.index < self.width) & ~jnp.all(decoding.done),
            step,
            draw(begun._replace(done=~live), state.hidden),
        )
        counts = jnp.sum(end.mask, axis=0, dtype=jnp.int32)
        first = state.prompt_mask.shape[1] + state.used
        # the last token was drawn, and not read yet
        cache = append_rows(state.cache, end.caches[0], first, counts - 1)
        return _add_turn(state._replace(cache=cache), end, counts), Turn(end.tokens.T, counts)

    def read(
        self,
        prepared: tuple[Params, Params | None],
        state: Talk,
        tokens: jax.Array,
        counts: jax.Array,
        live: jax.Array,
    ) -> Talk:
        slots = jnp.arange(state.prompt_mask.shape[1] + self.length)
        before = jnp.maximum(state.used - 1, 0)  # slots whose keys and values are there
        last = jnp.take_along_axis(state.made.tokens, before[:, None], axis=1)
        first = state.prompt_mask.shape[1] + before
        prompt = jnp.pad(state.prompt_mask, ((0, 0), (0, self.length)))
        behind = (slots >= state.prompt_mask.shape[1]) & (slots < first[:, None])
        position = jnp.sum(state.prompt_mask, axis=1) + before
        hidden, cache = self.model.extend(
            prepared[0],
            jnp.concatenate([last, tokens], axis=1),
            jnp.where(live, counts + 1, 0),
            position[:, None] + jnp.arange(tokens.shape[1] + 1),
            first,
            prompt | behind,
            state.cache,
        )
        at = jnp.take_along_axis(hidden, counts[:, None, None], axis=1)[:, 0].T
        state = state._replace(cache=cache, hidden=jnp.where(live, at, state.hidden))
        return _add_answer(state, tokens, jnp.where(live, counts, 0))


def make_talking(
    model: Model,
    sampling: SamplingConfig,
    eos_token_ids: Sequence[int],
    pad_token_id: int,
    *,
    max_turn_tokens: int,
    group: int = 1,
) -> Talking:
    """Build the functions of a conversation of sampling.max_new_tokens slots after its prompt.

    A turn ends at one of eos_token_ids, which is part of it, or after max_turn_tokens. Log-probs
    and values are as `make_sampler`'s; a single turn gives the same completions. The number that
    decides a token depends on (key, prompt id, sample index, slot) alone. group: so many rows in
    turn have the same prompt, which is read once.
    Raises ValueError for min_new_tokens, which a turn does not have, and when a conversation
    exceeds the context (at trace time).
    """
    check(sampling)
    if sampling.min_new_tokens:
        raise ValueError(
            f"sampling.min_new_tokens is {sampling.min_new_tokens}, but turns may be of any length"
        )
    model = sampling_model(model, sampling, None)
    ends = token_set(eos_token_ids, model.config.vocab_size)
    whole = _Conversation(
        model,
        make_choose(model, sampling, ends, None),
        ends,
        pad_token_id,
        length=sampling.max_new_tokens,
        width=max_turn_tokens,
        group=group,
    )
    return Talking(whole.prepare, whole.start, whole.write, whole.read)


def _empty(cache: Cache, slots: int) -> Cache:
    """Return an empty cache of so many slots for the sequences of another cache."""
    few = jax.eval_shape(lambda whole: _first_slots(whole, slots), cache)
    rows = jax.tree.leaves(cache)[0].shape[-4]
    return empty_cache(few, rows)


def _first_slots(cache: Cache, slots: int) -> Cache:
    return jax.tree.map(
        lambda layer: layer.map_slots(lambda x, axis: jax.lax.slice_in_dim(x, 0, slots, axis=axis)),
        cache,
        is_leaf=is_layer,
    )


def _decode(
    model: Model, params: Params, state: Talk, decoding: Decoding
) -> tuple[jax.Array, Cache]:
    """Read the turn's last token into the turn's own cache: hidden [D, B], that cache.

    The new token sees the prompt, the slots that are used, and the turn up to itself.
    """
    (batch, width), length = state.prompt_mask.shape, len(state.noise)
    last = decoding.index - 1
    slots, steps = jnp.arange(width + length), jnp.arange(decoding.tokens.shape[0])
    used = (slots >= width) & (slots < width + state.used[:, None])
    past = jnp.pad(state.prompt_mask, ((0, 0), (0, length))) | used
    own = jnp.broadcast_to(steps <= last, (batch, len(steps)))
    place = width + state.used + last
    distance = [place[:, None] - slots, jnp.broadcast_to(last - steps, own.shape)]
    position = jnp.sum(state.prompt_mask, axis=1, dtype=jnp.int32) + state.used + last
    hidden, cache = model.decode(
        params,
        decoding.tokens[last],
        position,
        width + length + last,
        jnp.concatenate([past, own], axis=1),
        GroupCache(decoding.caches[0], state.cache),
        jnp.concatenate(distance, axis=1),
    )
    return hidden, cache.own


def _places(state: Talk, counts: jax.Array, width: int) -> tuple[jax.Array, jax.Array]:
    """Say where the first counts[b] of `width` tokens go: rows [B, 1], slots [B, width]."""
    steps = jnp.arange(width)
    slots = state.used[:, None] + steps
    return jnp.arange(len(counts))[:, None], jnp.where(
        steps < counts[:, None], slots, len(state.noise)
    )


def _add_turn(state: Talk, end: Decoding, counts: jax.Array) -> Talk:
    """Store what a turn has made; its buffers are [W, B]."""
    rows, slots = _places(state, counts, len(end.tokens))
    made = state.made

    def put(old: jax.Array, new: jax.Array) -> jax.Array:
        return old.at[rows, slots].set(new, mode="drop")

    made = made._replace(
        tokens=put(made.tokens, end.tokens.T),
        mask=put(made.mask, True),
        log_probs=put(made.log_probs, end.log_probs.T),
        values=put(made.values, end.values.T),
        seen=put(made.seen, True),
    )
    return state._replace(made=made, used=state.used + counts)


def _add_answer(state: Talk, tokens: jax.Array, counts: jax.Array) -> Talk:
    """Store what the environment wrote: tokens that are seen, and not the policy's."""
    rows, slots = _places(state, counts, tokens.shape[1])
    made = state.made
    assert made.seen is not None
    made = made._replace(
        tokens=made.tokens.at[rows, slots].set(tokens, mode="drop"),
        seen=made.seen.at[rows, slots].set(True, mode="drop"),
    )
    return state._replace(made=made, used=state.used + counts)
