"""Answer with the answer of the nearest known prompt: TF-IDF (scikit-learn) or BM25 (rank-bm25).

BM25 is Robertson and Zaragoza 2009 (https://doi.org/10.1561/1500000019) with k1 = 1.5, b = 0.75;
TF-IDF is compared by its cosine.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from rljax.reporting.statistics import words_of
from rljax.tasks.language import Example
from rljax.tasks.sources import DataError, read_rows

ROWS_AT_ONCE = 256


def character_pairs(text: str) -> list[str]:
    """Split a text into its overlapping pairs of characters, lower-case, white space joined."""
    joined = " ".join(text.lower().split())
    return [joined[i : i + 2] for i in range(max(len(joined) - 1, 1))]


TERMS: dict[str, Callable[[str], list[str]]] = {"words": words_of, "characters": character_pairs}


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """Look the observation up among the training prompts and give the nearest one's answer."""

    method: Literal["bm25", "tfidf"] = "bm25"
    """How nearness is measured: BM25 (from 0 up, of no fixed scale), or the cosine of TF-IDF
    vectors, in [0, 1]."""
    terms: Literal["words", "characters"] = "words"
    """What texts are compared by; pairs of characters for languages written without spaces."""
    index: str | None = None
    """A .jsonl or .csv file of `prompt` and `answer` to look up instead of the training examples;
    `RetrievalPolicy.save` writes one."""
    min_score: float = 0.0
    """Where the nearest is not above this, `otherwise` is written."""
    otherwise: str = ""
    """What is written where nothing is near enough."""

    def __post_init__(self) -> None:
        if not self.min_score >= 0:
            raise ValueError(f"min_score is {self.min_score}; it must be at least 0")

    def fit(self, train: Sequence[Example]) -> RetrievalPolicy:
        """Index the examples, or the file. Raises DataError for an unreadable or empty one."""
        if self.index is None:
            pairs = [(example.prompt, example.answer) for example in train]
        else:
            rows = read_rows(self.index)
            for row in rows:
                if not row.columns.get("answer"):
                    raise DataError(f"{row.where}: an index needs a field 'answer' with a text")
            pairs = [(row.text, str(row.columns["answer"])) for row in rows]
        return RetrievalPolicy(dict.fromkeys(pairs), self)


class Hit(NamedTuple):
    """A known prompt that was found, its answer, and how near it is."""

    score: float
    prompt: str
    answer: str


class RetrievalPolicy:
    """A policy that answers as the nearest of known prompts was answered."""

    def __init__(self, pairs: Sequence[tuple[str, str]] | dict, settings: Retrieval) -> None:
        self.pairs, self.settings = list(pairs), settings
        split = TERMS[settings.terms]
        prompts = [prompt for prompt, _ in self.pairs]
        if not any(map(split, prompts)):
            raise DataError(f"retrieval needs known prompts with words: there are {len(prompts)}")
        make = {"bm25": _bm25, "tfidf": _tfidf}[settings.method]
        self._scores = make(prompts, split)

    def search(self, observation: str, count: int = 1) -> list[Hit]:
        """Find the `count` nearest known prompts, nearest first; of equals the earlier one."""
        scores = self._scores([observation])[0]
        order = np.argsort(-scores, kind="stable")[:count]
        return [Hit(float(scores[i]), *self.pairs[i]) for i in order]

    def act(self, observations: Sequence[str]) -> list[str]:
        """Give each observation the answer of the nearest known prompt."""
        texts: list[str] = []
        for start in range(0, len(observations), ROWS_AT_ONCE):
            scores = self._scores(observations[start : start + ROWS_AT_ONCE])
            for row, best in zip(scores, np.argmax(scores, axis=1), strict=True):
                near = row[best] > self.settings.min_score
                texts.append(self.pairs[best][1] if near else self.settings.otherwise)
        return texts

    def save(self, path: str | Path) -> None:
        """Write what is known as JSON lines of `prompt` and `answer`, to read and to edit."""
        lines = (json.dumps({"prompt": p, "answer": a}, ensure_ascii=False) for p, a in self.pairs)
        Path(path).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


Scores = Callable[[Sequence[str]], np.ndarray]
"""Texts -> [texts, known prompts]: nearness."""


def _bm25(prompts: Sequence[str], split: Callable[[str], list[str]]) -> Scores:
    try:
        from rank_bm25 import BM25Okapi
    except ImportError as error:
        raise DataError(
            "retrieval by bm25 needs the package rank-bm25: pip install rank-bm25"
        ) from error
    index = BM25Okapi([split(prompt) for prompt in prompts])
    return lambda texts: np.stack([index.get_scores(split(text)) for text in texts])


def _tfidf(prompts: Sequence[str], split: Callable[[str], list[str]]) -> Scores:
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError as error:
        raise DataError(
            "retrieval by tfidf needs the package scikit-learn: pip install scikit-learn"
        ) from error
    vectorizer = TfidfVectorizer(analyzer=split)
    known = vectorizer.fit_transform(prompts)
    return lambda texts: (vectorizer.transform(texts) @ known.T).toarray()
