"""Translate without a language model: copying, a dictionary, a translation memory."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from rljax.tasks.catalogues import PLACEHOLDER, WHAT
from rljax.tasks.installed import import_package
from rljax.tasks.language import Example
from rljax.tasks.translation import asked

UNSPACED = ("zh", "ja", "th", "km", "my")
"""Languages that write words without spaces between them."""
PIECES = re.compile(rf"{PLACEHOLDER.pattern}|\w+|[^\w\s]|\s+")
MIN_ASSOCIATION = 0.15
"""Words whose best translation is less associated than this are copied."""


class Copy:
    """Write the source as it is: what placeholders, names and loan words are worth."""

    def act(self, observations: Sequence[str]) -> list[str]:
        """Copy."""
        return [asked(prompt)[0] for prompt in observations]


class Dictionary:
    """Translate word by word with the words that go together in the training pairs.

    The translation of a source word is the target word (for languages without spaces, the run of 1
    to 4 characters) of the highest Dice coefficient 2 n(s, t) / (n(s) + n(t)), n counting pairs
    (Dice 1945). Words without a good one, placeholders and marks are copied.
    """

    def __init__(self, train: Sequence[Example]) -> None:
        by_language: dict[str, list[Example]] = defaultdict(list)
        for example in train:
            by_language[example.columns["language"]].append(example)
        self.words = {name: _associate(rows, name) for name, rows in by_language.items()}

    def act(self, observations: Sequence[str]) -> list[str]:
        """Translate each source by its words."""
        written = []
        for prompt in observations:
            source, language = asked(prompt)
            words = self.words.get(language, {})
            parts = [self._word(piece, words) for piece in PIECES.findall(source)]
            if language.partition("_")[0] in UNSPACED:
                parts = [part for part in parts if part.strip()]
            written.append("".join(parts))
        return written

    @staticmethod
    def _word(piece: str, words: dict[str, str]) -> str:
        return words.get(piece.casefold(), piece)


def _associate(rows: Sequence[Example], language: str) -> dict[str, str]:
    """Find each source word's translation: {lower-case word: target}."""
    text = import_package("sklearn.feature_extraction.text", what=WHAT)
    sources = text.CountVectorizer(binary=True, lowercase=True, token_pattern=r"\w+")
    if language.partition("_")[0] in UNSPACED:
        targets = text.CountVectorizer(
            binary=True, lowercase=False, analyzer="char", ngram_range=(1, 4)
        )
    else:
        targets = text.CountVectorizer(binary=True, lowercase=False, token_pattern=r"\w+")
    # A placeholder's name is no word.
    left = sources.fit_transform([PLACEHOLDER.sub(" ", row.columns["source"]) for row in rows])
    right = targets.fit_transform([PLACEHOLDER.sub(" ", row.answer) for row in rows])
    together = (left.T @ right).toarray()  # [S, T]
    sums = left.sum(axis=0).A1[:, None] + right.sum(axis=0).A1[None, :]
    dice = 2 * together / sums
    names = targets.get_feature_names_out()
    # Of equally associated runs the longest: it is a whole word more often than its parts are.
    lengths = [len(name) for name in names]
    best = (dice + 1e-6 * _as_row(lengths)).argmax(axis=1)
    return {
        word: names[j].strip()
        for i, (word, j) in enumerate(zip(sources.get_feature_names_out(), best, strict=True))
        if dice[i, j] >= MIN_ASSOCIATION and names[j].strip()
    }


def _as_row(values: Sequence[int]) -> Any:
    import numpy as np

    return np.asarray(values)[None, :]


class TranslationMemory:
    """Answer with the translation of the most similar training source (TF-IDF, cosine)."""

    def __init__(self, train: Sequence[Example]) -> None:
        text = import_package("sklearn.feature_extraction.text", what=WHAT)
        self.answers: dict[str, list[str]] = defaultdict(list)
        sources: dict[str, list[str]] = defaultdict(list)
        for example in train:
            language = example.columns["language"]
            sources[language].append(example.columns["source"])
            self.answers[language].append(example.answer.strip())
        self.indices = {}
        for language, texts in sources.items():
            vectorizer = text.TfidfVectorizer(
                analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True
            )
            self.indices[language] = (vectorizer, vectorizer.fit_transform(texts))

    def act(self, observations: Sequence[str]) -> list[str]:
        """Look each source up."""
        written = []
        for prompt in observations:
            source, language = asked(prompt)
            vectorizer, known = self.indices[language]
            scores = (vectorizer.transform([source]) @ known.T).toarray()[0]
            written.append(self.answers[language][int(scores.argmax())])
        return written
