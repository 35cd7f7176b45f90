"""What an agent at a service desk does without a language model: keywords, retrieval, a classifier.

Each chooses a reply and says how sure it is; slots are then looked for in the question, and what is
not sure enough is passed on. How sure is enough is found on training templates that the chooser
has not seen.
"""

from __future__ import annotations

import functools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from rljax.policies.retrieval import Retrieval
from rljax.tasks.customer_service import (
    ESCALATE,
    Action,
    question_of,
    read_action,
    write_action,
)
from rljax.tasks.language import Example, TextPolicy
from rljax.tasks.prompts import text_fraction
from rljax.tasks.sources import DataError

UNSEEN = 0.2
"""Share of the training templates on which the thresholds are found."""
MOST_QUERIES = 400
STEM = 4
"""So many first letters of a word are compared by the keyword rule."""


class Choice(NamedTuple):
    """A reply, and how sure the chooser is of it."""

    reply: str
    confidence: float


Choose = Callable[[Sequence[str]], list[Choice]]
"""Questions -> one choice each."""


class Fit(Protocol):
    """How a chooser learns from examples."""

    def __call__(self, train: Sequence[Example]) -> Choose:
        """Learn."""
        ...


class SlotFinder:
    """Find in a question what a reply is about: the longest known ways to say its intent's slots.

    Of several slots that have the same words, the one that the next word has followed most often
    (12 *minutes*) gets them.
    """

    def __init__(self, train: Sequence[Example]) -> None:
        self.slots: dict[str, set[str]] = defaultdict(set)
        self.said: dict[str, dict[str, str]] = defaultdict(dict)
        self.intents: dict[str, str] = {}
        self.followers: dict[str, Counter[str]] = defaultdict(Counter)
        for example in train:
            action = read_action(example.columns["action"])
            question = question_of(example.prompt)
            self.intents[action.reply] = example.columns["intent"]
            for slot, spoken in json.loads(example.columns["spoken"]).items():
                self.slots[example.columns["intent"]].add(slot)
                self.said[slot][spoken.lower()] = action.slots[slot]
                for found in _places(spoken, question):
                    self.followers[slot][_next_word(question, found.end())] += 1

    def find(self, reply: str, question: str) -> dict[str, str]:
        """Return the values of the slots that the question names."""
        candidates = []
        for slot in self.slots.get(self.intents.get(reply, ""), ()):
            for spoken, value in self.said[slot].items():
                for found in _places(spoken, question):
                    follows = self.followers[slot][_next_word(question, found.end())]
                    start, end = found.span()
                    candidates.append((-len(spoken), -follows, start, slot, value, end))
        taken: list[tuple[int, int]] = []
        slots: dict[str, str] = {}
        for _, _, start, slot, value, end in sorted(candidates):
            if slot not in slots and all(end <= a or start >= b for a, b in taken):
                taken.append((start, end))
                slots[slot] = value
        return slots


def _places(spoken: str, question: str) -> list[re.Match[str]]:
    pattern = rf"(?<!\w){re.escape(spoken)}(?!\w)"
    return list(re.finditer(pattern, question, re.IGNORECASE)) if spoken else []


def _next_word(question: str, end: int) -> str:
    found = re.compile(r"\W*(\w+)").match(question, end)
    return found.group(1)[:STEM].lower() if found else ""


class ServicePolicy:
    """Choose a reply, fill its slots, and pass on what is less sure than `threshold`."""

    def __init__(self, choose: Choose, finder: SlotFinder, threshold: float) -> None:
        self.choose, self.finder, self.threshold = choose, finder, threshold

    def act(self, observations: Sequence[str]) -> list[str]:
        """Write an action for each observation."""
        questions = [question_of(observation) for observation in observations]
        choices = self.choose(questions) if questions else []
        return [
            write_action(Action(choice.reply, self.finder.find(choice.reply, question)))
            if choice.reply != ESCALATE and choice.confidence > self.threshold
            else ESCALATE
            for question, choice in zip(questions, choices, strict=True)
        ]


def calibrate(confidences: Sequence[float], right: Sequence[bool], escalation: float) -> float:
    """Find the threshold that earns most: 1 for right above it, `escalation` at or below it.

    Of thresholds that earn the same the lowest, which passes fewest on.
    """
    sure, hit = np.asarray(confidences, np.float64), np.asarray(right, np.float64)
    thresholds = np.unique(np.concatenate([[-np.inf], sure]))
    earned = [np.where(sure > t, hit, escalation).mean() for t in thresholds]
    return float(thresholds[int(np.argmax(earned))])


def _guarded(fit: Fit, train: Sequence[Example], escalation: float) -> ServicePolicy:
    """Learn from most templates, find the threshold on the others, then learn from all."""
    unseen = [e for e in train if text_fraction(f"unseen: {e.columns['template']}") < UNSEEN]
    seen = [e for e in train if text_fraction(f"unseen: {e.columns['template']}") >= UNSEEN]
    finder = SlotFinder(train)
    if not unseen or not seen:
        return ServicePolicy(fit(train), finder, -np.inf)
    asked = sorted(unseen, key=lambda e: text_fraction(e.prompt))[:MOST_QUERIES]
    questions = [question_of(example.prompt) for example in asked]
    choices = fit(seen)(questions)
    partial = SlotFinder(seen)
    right = [
        Action(c.reply, partial.find(c.reply, q)) == read_action(e.columns["action"])
        for c, q, e in zip(choices, questions, asked, strict=True)
    ]
    threshold = calibrate([choice.confidence for choice in choices], right, escalation)
    return ServicePolicy(fit(train), finder, threshold)


def _stems(text: str) -> set[str]:
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    return {word[:STEM].lower() for word in re.findall(r"[^\W_]+", parted)} - {"defa"}


def fit_keywords(train: Sequence[Example]) -> Choose:
    """Choose the reply of whose name most words stand in the question; none: pass on.

    Words are compared by their first four letters; of equals the reply with the shorter name.
    """
    names = sorted({read_action(e.columns["action"]).reply for e in train})
    words = {name: _stems(name) for name in sorted(names, key=lambda n: (len(n), n))}

    def choose(questions: Sequence[str]) -> list[Choice]:
        choices = []
        for question in questions:
            stems = _stems(question)
            shares = {name: len(own & stems) / max(len(own), 1) for name, own in words.items()}
            best = max(shares, key=shares.__getitem__)
            choices.append(Choice(best if shares[best] else ESCALATE, shares[best]))
        return choices

    return choose


def fit_retrieval(method: Any) -> Fit:
    """Make a chooser that takes the reply of the nearest past question."""

    def fit(train: Sequence[Example]) -> Choose:
        pairs = [
            Example(question_of(e.prompt), read_action(e.columns["action"]).reply) for e in train
        ]
        index = Retrieval(method=method).fit(pairs)

        def choose(questions: Sequence[str]) -> list[Choice]:
            hits = [index.search(question)[0] for question in questions]
            return [Choice(hit.answer, hit.score) for hit in hits]

        return choose

    return fit


def fit_linear(train: Sequence[Example]) -> Choose:
    """Learn a logistic regression of the reply on TF-IDF of words and word pairs."""
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
    except ImportError as error:
        raise DataError(
            "the baseline supervised needs the package scikit-learn: pip install scikit-learn"
        ) from error
    replies = [read_action(e.columns["action"]).reply for e in train]
    if len(set(replies)) < 2:
        return lambda questions: [Choice(replies[0], 1.0)] * len(questions)
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+", sublinear_tf=True)
    pipeline = make_pipeline(vectorizer, LogisticRegression(C=30.0, max_iter=300))
    pipeline.fit([question_of(e.prompt) for e in train], replies)

    def choose(questions: Sequence[str]) -> list[Choice]:
        shares = pipeline.predict_proba(list(questions))
        best = np.argmax(shares, axis=1)
        return [
            Choice(str(pipeline.classes_[i]), float(row[i]))
            for i, row in zip(best, shares, strict=True)
        ]

    return choose


class _Later:
    """A policy that is made when it first acts: the others cost nothing."""

    def __init__(self, make: Callable[[], TextPolicy]) -> None:
        self.make = functools.cache(make)

    def act(self, observations: Sequence[str]) -> list[str]:
        """Act as the policy does."""
        return self.make().act(observations)


def make_baselines(train: Sequence[Example], escalation: float) -> Mapping[str, TextPolicy]:
    """Make rule (keywords), retrieval (BM25), retrieval_tfidf and supervised (linear)."""
    fits: dict[str, Fit] = {
        "retrieval": fit_retrieval("bm25"),
        "retrieval_tfidf": fit_retrieval("tfidf"),
        "supervised": fit_linear,
    }

    def later(fit: Fit) -> TextPolicy:
        return _Later(lambda: _guarded(fit, train, escalation))

    rule = ServicePolicy(fit_keywords(train), SlotFinder(train), 0.0)
    return {"rule": rule} | {name: later(fit) for name, fit in fits.items()}
