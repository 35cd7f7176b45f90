"""Token rewards: jittable functions of arrays that score completions inside compiled code.

Mark a function of your own in mine.py and pass `--task.reward mine.py:short`:

    from rljax.rewards import token_reward

    @token_reward
    def short(prompts, completions):
        return -completions.mask.sum(axis=1) / completions.mask.shape[1]

It is traced once: all in it is jax.numpy on arrays of fixed shapes, `prompts` and `completions` as
in `rljax.types`. Arguments beyond these two name columns of the prompt file, which come as
`TokenTexts` [B, A], or `vocabulary`, the tokenizer's tables (`Vocabulary`). It works in every
script, and with `--fused-steps` it is part of the training program.

B completions, C completion slots, A slots of a column, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.rewards.protocol import TokenTexts, Vocabulary, token_reward
from rljax.types import Completions, Prompts


def make_vocabulary(tokenizer: Any) -> Vocabulary:
    """Look up what each token of a tokenizer spells: NumPy tables [V]."""
    texts = [tokenizer.decode([i], skip_special_tokens=True) for i in range(len(tokenizer))]
    first: dict[str, int] = {}
    folded = [
        # part of a character: its text says nothing of it
        i if "\ufffd" in text else first.setdefault(text.casefold(), i)
        for i, text in enumerate(texts)
    ]
    return Vocabulary(
        silent=np.array([text == "" for text in texts]),
        blank=np.array([text.isspace() for text in texts]),
        line_end=np.array([len(f"{text}.".splitlines()) > 1 for text in texts]),
        folded=np.array(folded, np.int32),
    )


def first_line(tokens: jax.Array, mask: jax.Array, vocabulary: Vocabulary) -> TokenTexts:
    """Take out of completions [B, C] the first line that is not blank, without white space around.

    Tokens that a text does not show are left out. The result is right-padded to C and has folded
    tokens.
    """
    place = jnp.arange(tokens.shape[1])
    silent = jnp.asarray(vocabulary.silent).at[tokens].get(mode="fill", fill_value=True)
    real = mask & ~silent
    ink = real & ~jnp.asarray(vocabulary.blank)[tokens]
    started = jnp.cumsum(ink, axis=1) > 0
    ends = started & real & jnp.asarray(vocabulary.line_end)[tokens]
    line = started & real & (jnp.cumsum(ends, axis=1) == 0)
    last = jnp.max(jnp.where(line & ink, place, -1), axis=1, keepdims=True)
    kept = line & (place <= last)
    order = jnp.argsort(~kept, axis=1, stable=True)
    folded = jnp.asarray(vocabulary.folded)[jnp.take_along_axis(tokens, order, axis=1)]
    return TokenTexts(folded, jnp.take_along_axis(kept, order, axis=1))


def _agreement(
    completions: Completions, answer: TokenTexts, vocabulary: Vocabulary
) -> tuple[jax.Array, jax.Array]:
    """Count places where the first line has the answer's token, and the longer one's places."""
    found = first_line(completions.tokens, completions.mask, vocabulary)
    wanted = jnp.asarray(vocabulary.folded)[answer.tokens]
    width = min(found.tokens.shape[1], wanted.shape[1])
    same = (found.tokens[:, :width] == wanted[:, :width]) & found.mask[:, :width]
    right = jnp.sum(same & answer.mask[:, :width], axis=1)
    longer = jnp.maximum(jnp.sum(found.mask, axis=1), jnp.sum(answer.mask, axis=1))
    return right, longer


@token_reward
def exact_match(
    prompts: Prompts, completions: Completions, answer: TokenTexts, vocabulary: Vocabulary
) -> jax.Array:
    """Reward 1.0 where the completion's first line is the `answer` column, token by token, else 0.

    White space around it, and upper or lower case, do not count. With byte tokens it is the text
    reward `exact_match`, but that white space and case outside ASCII do count. With merged tokens
    it is stricter: a right answer in other tokens than the tokenizer's own is wrong.
    """
    del prompts
    right, longer = _agreement(completions, answer, vocabulary)
    return (right == longer).astype(jnp.float32)


@token_reward
def partial_match(
    prompts: Prompts, completions: Completions, answer: TokenTexts, vocabulary: Vocabulary
) -> jax.Array:
    """Reward the share of places where the first line has the `answer` column's token, in [0, 1].

    Of the places of the longer of the two: it is 1 just where `exact_match` is, and what is
    written after the answer costs.
    """
    del prompts
    right, longer = _agreement(completions, answer, vocabulary)
    return jnp.where(longer > 0, right / jnp.maximum(longer, 1), 1.0)
