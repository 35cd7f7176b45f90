"""Sum up without a language model: take a sentence of the text, or another text's summary."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rljax.tasks.docstrings import WHAT
from rljax.tasks.installed import import_package
from rljax.tasks.language import Example
from rljax.tasks.summarisation import ASK


def sentences_of(prompt: str) -> list[str]:
    """Split the text of a prompt into its sentences."""
    text = prompt.removesuffix(ASK).strip()
    return [part for part in re.split(r"(?<=[.!?:])\s+", text) if part]


class Lead:
    """Write the first sentence, up to so many words."""

    def __init__(self, max_words: int) -> None:
        self.max_words = max_words

    def act(self, observations: Sequence[str]) -> list[str]:
        """Take the first sentences."""
        return [self._cut(self._choose(sentences_of(prompt))) for prompt in observations]

    def _choose(self, sentences: Sequence[str]) -> str:
        return sentences[0]

    def _cut(self, sentence: str) -> str:
        return " ".join(sentence.split()[: self.max_words])


class Central(Lead):
    """Write the most central sentence: the highest mean cosine with all sentences of the text.

    Degree centrality of TF-IDF weights (LexRank, Erkan and Radev 2004, section 3.2, without a
    threshold).
    """

    def _choose(self, sentences: Sequence[str]) -> str:
        text = import_package("sklearn.feature_extraction.text", what=WHAT)
        vectorizer = text.TfidfVectorizer(token_pattern=r"\w+")
        weights = vectorizer.fit_transform(sentences)
        degrees = (weights @ weights.T).toarray().sum(axis=1)
        return sentences[int(degrees.argmax())]


class Retrieval:
    """Answer with the summary of the most similar training text (TF-IDF of words, cosine)."""

    def __init__(self, train: Sequence[Example]) -> None:
        text = import_package("sklearn.feature_extraction.text", what=WHAT)
        self.vectorizer = text.TfidfVectorizer(
            stop_words="english", ngram_range=(1, 2), sublinear_tf=True
        )
        self.known = self.vectorizer.fit_transform([e.columns["body"] for e in train])
        self.answers = [example.answer.strip() for example in train]

    def act(self, observations: Sequence[str]) -> list[str]:
        """Look each text up."""
        texts = [prompt.removesuffix(ASK) for prompt in observations]
        scores = self.vectorizer.transform(texts) @ self.known.T
        return [self.answers[int(row.toarray()[0].argmax())] for row in scores]
