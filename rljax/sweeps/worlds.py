"""Tasks of nano size, as arrays: what is asked, what demonstrations look like, what answers score.

A world is a frozen dataclass: its fields are flags. B completions, N prompts, P prompt slots, C
completion slots, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from rljax.types import Completions


class World(Protocol):
    """What a nano run asks of a task."""

    @property
    def vocabulary(self) -> int:
        """V."""
        ...

    @property
    def eos(self) -> int:
        """The token that ends a completion."""
        ...

    def prompts(self) -> np.ndarray:
        """[N, P] int32, all of one length."""
        ...

    def demonstrate(self, key: jax.Array, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Draw a demonstration for each prompt [B]: tokens [B, L] int32, mask [B, L] bool."""
        ...

    def judge(self, ids: jax.Array, made: Completions) -> dict[str, jax.Array]:
        """Return "score" [B] float32 of completions, and what else is to be logged, [B] each."""
        ...


@dataclasses.dataclass(frozen=True)
class Slips:
    """Sort the letters of a word, demonstrated with slips; answers may have thoughts, dots.

    Prompts are all words of `letters` different letters. In a demonstration two neighbours have
    changed places with probability `easy` where the word begins with a letter of the alphabet's
    first half, and `hard` where with one of the second: a base model knows what is right, and does
    it on some prompts more often than on others. Score 1 for the right letters, dots left out, in a
    completion that ends; else 0. `cut` and `wrong_length`: whether it does not end; tokens where
    it is wrong, to be divided by `wrong`.
    """

    alphabet: int = 8
    """Letters there are, even."""
    letters: int = 4
    """Letters of a word."""
    easy: float = 0.1
    """Share of slips on easy words."""
    hard: float = 0.8
    """Share of slips on hard words."""
    thoughts: float = 0.0
    """Mean number of dots in a demonstration; their number is geometric."""
    most: int = 0
    """Dots in a demonstration at most."""
    before: bool = False
    """Dots come before the letters; else behind them."""
    period: float = 0.0
    """Share of demonstrations with a period (a token of its own) before the end."""

    def validate(self) -> None:
        """Raise ValueError for sizes that mean nothing."""
        if self.alphabet % 2 or not 2 <= self.letters <= self.alphabet <= 26:
            raise ValueError(
                f"alphabet {self.alphabet} must be even, up to 26, and letters {self.letters} from "
                "2 to it"
            )
        for name in ("easy", "hard", "period"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is a share, from 0 to 1")
        if self.thoughts < 0 or self.most < 0 or bool(self.thoughts) != bool(self.most):
            raise ValueError(
                f"thoughts {self.thoughts} and most {self.most} are 0, or both are positive"
            )

    @property
    def dot(self) -> int:
        """The token of a thought."""
        return self.alphabet

    @property
    def full_stop(self) -> int:
        """The token of a period."""
        return self.alphabet + 1

    @property
    def eos(self) -> int:
        """The token that ends a completion; it also pads."""
        return self.alphabet + 3

    @property
    def vocabulary(self) -> int:
        """V: letters, the dot, the period, the mark behind a word, the end."""
        return self.alphabet + 4

    def words(self) -> np.ndarray:
        """[N, letters] int32: all words."""
        return np.asarray(
            list(itertools.permutations(range(self.alphabet), self.letters)), np.int32
        )

    def prompts(self) -> np.ndarray:
        """[N, letters + 1] int32: a word, and the mark behind it."""
        return np.pad(self.words(), ((0, 0), (0, 1)), constant_values=self.alphabet + 2)

    def demonstrate(self, key: jax.Array, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Draw a demonstration for each prompt [B]: see `World`."""
        keys = jax.random.split(key, 4)
        rows, size = len(ids), self.letters
        words = jnp.asarray(self.words())[ids]
        share = jnp.where(words[:, 0] < self.alphabet // 2, self.easy, self.hard)
        slips = jax.random.uniform(keys[0], (rows,)) < share
        place = jax.random.randint(keys[1], (rows,), 0, size - 1)
        column = jnp.arange(size)
        source = jnp.where(column == place[:, None], column + 1, column)
        source = jnp.where(column == place[:, None] + 1, place[:, None], source)
        answer = jnp.sort(words, axis=1)
        swapped = jnp.take_along_axis(answer, source, axis=1)
        letters = jnp.where(slips[:, None], swapped, answer)
        dots = jnp.zeros((rows, 1), jnp.int32)
        if self.most:
            goes_on = jax.random.uniform(keys[2], (rows, self.most)) * (1 + self.thoughts) >= 1
            dots = jnp.sum(jnp.cumprod(goes_on, axis=1), axis=1, keepdims=True, dtype=jnp.int32)
        stop = (jax.random.uniform(keys[3], (rows, 1)) < self.period).astype(jnp.int32)
        slot = jnp.arange(size + self.most + 2)
        first = dots if self.before else jnp.zeros_like(dots)
        inside = (slot >= first) & (slot < first + size)
        which = jnp.clip(slot - first, 0, size - 1)
        tokens = jnp.where(inside, jnp.take_along_axis(letters, which, axis=1), self.dot)
        end = dots + size
        tokens = jnp.where((slot == end) & (stop == 1), self.full_stop, tokens)
        tokens = jnp.where(slot >= end + stop, self.eos, tokens)
        return tokens, slot <= end + stop

    def judge(self, ids: jax.Array, made: Completions) -> dict[str, jax.Array]:
        """Score completions; see the class."""
        answer = jnp.sort(jnp.asarray(self.words())[ids], axis=1)
        tokens, mask = made.tokens, made.mask
        ended = jnp.any(mask & (tokens == self.eos), axis=1)
        letter = mask & (tokens < self.alphabet)
        odd = jnp.any(mask & (tokens == self.alphabet + 2), axis=1)  # the mark is no answer
        order = jnp.argsort(~letter, axis=1, stable=True)[:, : self.letters]
        found = jnp.take_along_axis(tokens, order, axis=1)
        same = jnp.all(found == answer, axis=1) & (jnp.sum(letter, axis=1) == self.letters)
        right = same & ended & ~odd
        length = jnp.sum(mask, axis=1)
        return {
            "score": right.astype(jnp.float32),
            "wrong": (~right).astype(jnp.float32),
            "wrong_length": jnp.where(right, 0, length).astype(jnp.float32),
            "right_length": jnp.where(right, length, 0).astype(jnp.float32),
            "cut": (~ended).astype(jnp.float32),
            "period": jnp.any(mask & (tokens == self.full_stop), axis=1).astype(jnp.float32),
        }


VALENCES = {
    "love": 3.2, "great": 3.1, "good": 1.9, "fine": 0.8,
    "dull": -1.7, "bad": -2.5, "awful": -2.0, "worst": -3.1,
    "film": 0.0, "story": 0.0, "actor": 0.0, "scene": 0.0,
    "plot": 0.0, "music": 0.0, "end": 0.0, "start": 0.0,
}  # fmt: skip
"""Words, and their valence in VADER's lexicon (Hutto and Gilbert 2014), 0 where it has none."""


@dataclasses.dataclass(frozen=True)
class Praise:
    """Say words of praise, without saying one twice: a sentiment with a rule that data hides.

    A text is `length` words of `VALENCES`, as likely as each other, but one that has been said is
    `reserve` nats less likely: the rule is seldom broken in demonstrations. Score: the sum of the
    valences less `penalty` for each word that was said before; `repeats` counts these. All texts
    have one prompt, the end token, which is in none of them.
    """

    length: int = 12
    """L, words of a text."""
    reserve: float = 3.0
    """Nats by which a word is less likely once it was said."""
    penalty: float = 5.0
    """What it then costs."""

    def validate(self) -> None:
        """Raise ValueError for sizes that mean nothing."""
        if self.length < 1 or self.reserve < 0 or self.penalty < 0:
            raise ValueError(
                f"length {self.length} must be at least 1, reserve {self.reserve} and penalty "
                f"{self.penalty} at least 0"
            )

    @property
    def eos(self) -> int:
        """The end token, which begins a text here and ends none."""
        return len(VALENCES)

    @property
    def vocabulary(self) -> int:
        """V: the words and the end."""
        return len(VALENCES) + 1

    def prompts(self) -> np.ndarray:
        """[1, 1] int32."""
        return np.full((1, 1), self.eos, np.int32)

    def demonstrate(self, key: jax.Array, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Draw texts [B, L]."""
        words = len(VALENCES)

        def say(said: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
            word = jax.random.categorical(key, -self.reserve * said)
            return jnp.maximum(said, jax.nn.one_hot(word, words)), word

        keys = jax.random.split(key, self.length)
        tokens = jax.lax.scan(say, jnp.zeros((len(ids), words)), keys)[1].T
        return tokens.astype(jnp.int32), jnp.ones(tokens.shape, bool)

    def judge(self, ids: jax.Array, made: Completions) -> dict[str, jax.Array]:
        """Score texts; see the class."""
        said = jax.nn.one_hot(made.tokens, self.vocabulary) * made.mask[..., None]
        counts = jnp.sum(said, axis=1)
        valences = jnp.array([*VALENCES.values(), 0.0])
        repeats = jnp.sum(jnp.maximum(counts - 1, 0), axis=1)
        return {"score": counts @ valences - self.penalty * repeats, "repeats": repeats}


def means(judged: dict[str, jax.Array]) -> dict[str, Any]:
    """Average what a world says of completions: {"world/NAME": scalar}."""
    return {f"world/{name}": jnp.mean(x) for name, x in judged.items()}
