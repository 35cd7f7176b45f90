"""What a turn of a dialogue is worth: Li et al. 2016 (https://arxiv.org/abs/1606.01541), section 4.

p is the agent's turn before, q what the user answered, a what the agent says now; log-probabilities
are those of frozen language models, N the number of tokens.

    ease of answering      r1 = - 1/|S| sum_{s in S} 1/N_s log p(s | a)          S: dull responses
    information flow       r2 = - log cos(h_p, h_a)
    semantic coherence     r3 = 1/N_a log p(a | p, q) + 1/N_q log p_backward(q | a)

Departures: h is the mean of a language model's last hidden states over a turn, not an encoder's
last state; a cosine below 0.01 counts as 0.01.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.models import Pretrained
from rljax.tasks.prompts import encode_texts
from rljax.tasks.sources import DataError

DULL = (
    "i don't know what you are talking about",
    "i have no idea",
    "i don't know",
    "i don't know what you mean",
    "i'm not sure",
    "you don't know",
    "you know what i mean",
    "i don't understand",
)
"""Eight dull responses; the paper names the first two."""
LEAST_COSINE = 0.01


class Parts(NamedTuple):
    """The three rewards of a turn."""

    ease: float
    flow: float
    coherence: float


class Pair(NamedTuple):
    """A text to be scored after a context."""

    context: list[int]
    text: list[int]


class DialogueJudge:
    """Frozen language models that say what turns are worth."""

    def __init__(self, forward: Pretrained, backward: Pretrained, width: int) -> None:
        """Make the judge. width: tokens of a context and a turn; longer contexts lose their start.

        Raises DataError for a model without a chat template, or of a shorter context.
        """
        for pretrained in (forward, backward):
            if not pretrained.tokenizer.chat_template:
                raise DataError("dialogue's models need tokenizers with a chat template")
            if pretrained.model.config.context_length < width:
                raise DataError(
                    f"dialogue: width is {width}, but a model's context has "
                    f"{pretrained.model.config.context_length} tokens"
                )
        self.forward, self.backward, self.width = forward, backward, width
        self._log_probs = [_mean_log_probs(model, width) for model in (forward, backward)]
        self._state = _mean_state(forward, width)
        self._dull = encode_texts(forward.tokenizer, DULL)

    def judge(self, before: str | None, heard: str, said: str) -> Parts:
        """Score a turn: before = p (None at the first turn), heard = q, said = a with a word in it.

        Information flow of a first turn is 0.
        """
        own = self.forward.tokenizer
        history = [("assistant", before)] if before is not None else []
        pairs = [Pair(_context(own, [*history, ("user", heard)]), _encode(own, said))]
        pairs += [Pair(_context(own, [("user", said)]), dull) for dull in self._dull]
        scores = self._log_probs[0](pairs)
        other = self.backward.tokenizer
        behind = Pair(_context(other, [("user", said)]), _encode(other, heard))
        flow = 0.0 if before is None else self._flow(before, said)
        coherence = scores[0] + self._log_probs[1]([behind])[0]
        return Parts(-float(np.mean(scores[1:])), flow, coherence)

    def _flow(self, before: str, said: str) -> float:
        own = self.forward.tokenizer
        first, second = self._state([_encode(own, before), _encode(own, said)])
        cosine = float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))
        return -math.log(max(cosine, LEAST_COSINE))


@functools.lru_cache(maxsize=2)
def load_judge(model: str, backward: str | None, width: int) -> DialogueJudge:
    """Load a judge once; backward None: the same model, asked for q as the answer to a.

    Raises UserError for a source that cannot be loaded.
    """
    from rljax.training.policies import load_model  # runs are read there

    forward = load_model(model)
    return DialogueJudge(forward, load_model(backward) if backward else forward, width)


def _encode(tokenizer: Any, text: str) -> list[int]:
    return encode_texts(tokenizer, [text])[0]


def _context(tokenizer: Any, said: Sequence[tuple[str, str]]) -> list[int]:
    """Encode turns in the chat template, up to where the next one begins."""
    messages = [{"role": role, "content": content} for role, content in said]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return _encode(tokenizer, text)


def _padded(rows: Sequence[Sequence[int]], width: int) -> tuple[np.ndarray, np.ndarray]:
    tokens, mask = np.zeros((len(rows), width), np.int32), np.zeros((len(rows), width), np.bool_)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)], mask[row, : len(ids)] = ids, True
    return tokens, mask


def _mean_log_probs(pretrained: Pretrained, width: int) -> Any:
    """Make a function: pairs -> the mean log-probability of each text's tokens, a float each."""
    model = pretrained.model

    @jax.jit
    def score(params: Any, tokens: jax.Array, mask: jax.Array, scored: jax.Array) -> jax.Array:
        logits = model.apply(params, tokens, mask)[:, :-1]
        log_probs = jax.nn.log_softmax(logits, axis=-1)
        taken = jnp.take_along_axis(log_probs, tokens[:, 1:, None], axis=-1)[..., 0]
        counted = scored[:, 1:]
        return jnp.sum(jnp.where(counted, taken, 0), axis=1) / jnp.sum(counted, axis=1)

    def mean_log_probs(pairs: Sequence[Pair]) -> list[float]:
        texts = [pair.text[: width - 1] for pair in pairs]
        contexts = [
            pair.context[-(width - len(text)) :] for pair, text in zip(pairs, texts, strict=True)
        ]
        rows = [[*context, *text] for context, text in zip(contexts, texts, strict=True)]
        tokens, mask = _padded(rows, width)
        scored = mask & (np.arange(width) >= np.asarray([len(c) for c in contexts])[:, None])
        return [float(x) for x in score(pretrained.params, tokens, mask, scored)]

    return mean_log_probs


def _mean_state(pretrained: Pretrained, width: int) -> Any:
    """Make a function: token lists -> the mean last hidden state of each, [rows, D]."""
    model = pretrained.model

    @jax.jit
    def state(params: Any, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        hidden = model.hidden(params, tokens, mask).astype(jnp.float32)
        counted = mask[..., None]
        return jnp.sum(jnp.where(counted, hidden, 0), axis=1) / jnp.sum(counted, axis=1)

    def mean_state(rows: Sequence[Sequence[int]]) -> np.ndarray:
        return np.asarray(state(pretrained.params, *_padded([r[:width] for r in rows], width)))

    return mean_state
