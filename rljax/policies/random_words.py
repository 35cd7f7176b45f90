"""Answer with random words: what a policy that knows only the vocabulary is worth."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

from rljax.tasks.language import Example
from rljax.tasks.sources import DataError


@dataclasses.dataclass(frozen=True)
class RandomWords:
    """Write words drawn uniformly from the words of the training answers.

    How many: the number of words of a training answer, drawn uniformly. Words are what white space
    separates. Where an answer is one word, this is a uniform choice among the labels.
    """

    seed: int = 0
    """Of the drawing; the text that an observation gets depends on nothing else."""

    def fit(self, train: Sequence[Example]) -> RandomWordsPolicy:
        """Collect words and lengths. Raises DataError where the answers hold no word."""
        split = [example.answer.split() for example in train]
        words = sorted({word for answer in split for word in answer})
        if not words:
            raise DataError("random words come from the training answers, which hold none")
        return RandomWordsPolicy(words, [len(answer) for answer in split], self.seed)


class RandomWordsPolicy:
    """A policy that writes `lengths`-distributed many of `words`."""

    def __init__(self, words: Sequence[str], lengths: Sequence[int], seed: int) -> None:
        self.words, self.lengths, self.seed = tuple(words), tuple(lengths), seed

    def act(self, observations: Sequence[str]) -> list[str]:
        """Write one text for each observation; equal ones get equal texts."""
        return [self._write(observation) for observation in observations]

    def _write(self, observation: str) -> str:
        draw = random.Random(f"{self.seed}:{observation}")
        return " ".join(draw.choice(self.words) for _ in range(draw.choice(self.lengths)))
