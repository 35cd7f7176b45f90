"""Tasks whose answer is one of a few labels, or "unknown": what is paid, and what is reported.

An answer is the first line of a completion, without regard to case, white space around it and a
full stop at its end.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rljax.tasks.installed import import_package
from rljax.tasks.language import Example, LanguageTask, Report, TextPolicy
from rljax.tasks.prompts import text_fraction

UNKNOWN = "unknown"
NO_LABEL = "(no label)"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelTask(LanguageTask):
    """Say which label a text has; an answer that is not sure may be "unknown".

    With the default payments an answer is worth its risk where it is right with a probability of
    more than 2/3: expected 3 p - 2, against 0 for "unknown".
    """

    right: float = 1.0
    """Paid for the right label."""
    unknown: float = 0.0
    """Paid for "unknown"; less than `right`, more than `wrong`."""
    wrong: float = -2.0
    """Paid for another label."""
    invalid: float = -3.0
    """Paid for what is no label at all; less than `wrong`."""
    unknown_share: float = 0.1
    """Share of the examples, chosen by a hash, whose demonstration is "unknown": the supervised
    start knows the word, RL finds out what it is good for."""
    max_words: int = 40
    """Longer texts are cut to so many words."""
    max_characters: int = 1000
    """And to so many characters: what is hardly made of words would be hundreds of tokens."""

    def __post_init__(self) -> None:
        payments = (self.right, self.unknown, self.wrong, self.invalid)
        ordered = all(a > b for a, b in zip(payments, payments[1:], strict=False))
        if not (ordered and all(map(math.isfinite, payments))):
            raise ValueError(
                "right > unknown > wrong > invalid must hold, and all be finite: they are "
                f"{', '.join(map(str, payments))}"
            )
        if not 0 <= self.unknown_share < 1:
            raise ValueError(f"unknown_share is {self.unknown_share}; it must be in [0, 1)")
        for name in ("max_words", "max_characters"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")

    @property
    def worth_answering(self) -> float:
        """The probability of being right above which a label pays more than "unknown"."""
        return (self.unknown - self.wrong) / (self.right - self.wrong)

    def cut(self, text: str, part: str = "start") -> str:
        """Keep the words of one end of a text; part: "start" or "end"."""
        words = text.split()
        if part == "end":
            return " ".join(words[-self.max_words :])[-self.max_characters :].strip()
        return " ".join(words[: self.max_words])[: self.max_characters].strip()

    def demonstration(self, prompt: str) -> str | None:
        """Return what is shown for a prompt, where that is not its answer."""
        chosen = text_fraction(f"{UNKNOWN}:{prompt}") < self.unknown_share
        return UNKNOWN if chosen else None

    @abc.abstractmethod
    def all_labels(self) -> tuple[str, ...]:
        """List the labels that an answer may be, besides "unknown"."""

    @abc.abstractmethod
    def ask(self, text: str) -> str:
        """Write the prompt for a text."""

    def reward(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        answer: Sequence[str],
        **columns: Sequence[Any],
    ) -> list[float]:
        """Pay each completion, by the label that it says."""
        del prompts, columns
        labels = self.all_labels()
        return [
            self.payment(read_label(text, labels), right)
            for text, right in zip(completions, answer, strict=True)
        ]

    def payment(self, said: str | None, right: str) -> float:
        """Return what a label pays (None: what was said is none)."""
        if said is None:
            return self.invalid
        if said == right:
            return self.right
        return self.unknown if said == UNKNOWN else self.wrong

    def report(self, completions: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> Report:
        """Measure labels: see `label_report`."""
        return label_report(completions, columns["answer"], self.all_labels())

    def supervised(self, train: Sequence[Example], *, analyzer: str = "word") -> TextPolicy:
        """Train TF-IDF and logistic regression on the examples; it abstains where that pays."""
        return LinearPolicy(train, abstain_below=self.worth_answering, analyzer=analyzer)


def read_label(completion: str, labels: Sequence[str]) -> str | None:
    """Return the label that a completion says, one of `labels` or "unknown"; None for no label."""
    lines = completion.strip().splitlines() or [""]
    said = lines[0].strip().removesuffix(".").strip().casefold()
    known = {label.casefold(): label for label in (UNKNOWN, *labels)}
    return known.get(said)


def label_report(
    completions: Sequence[str], answers: Sequence[str], labels: Sequence[str]
) -> Report:
    """Measure N answers: accuracy, macro-F1, coverage, and a table of each class.

    accuracy: share of right ones, "unknown" being not right; answered_accuracy: of those that say a
    label, left out where none does; coverage: share that says a label; macro_f1: unweighted mean
    of the F1 of the labels that are right somewhere; invalid: share of what is no label. The table
    is scikit-learn's classification_report over the labels, with what was said beneath. Raises
    DataError where scikit-learn is missing.
    """
    metrics = import_package("sklearn.metrics", what="a report of labels", install="scikit-learn")
    said = [read_label(text, labels) or NO_LABEL for text in completions]
    present = [label for label in labels if label in set(answers)]
    answered = [a == s for a, s in zip(answers, said, strict=True) if s in set(labels)]
    right = [a == s for a, s in zip(answers, said, strict=True)]
    numbers = {
        "accuracy": sum(right) / len(right),
        "coverage": len(answered) / len(said),
        "macro_f1": float(
            metrics.f1_score(answers, said, labels=present, average="macro", zero_division=0)
        ),
        "invalid": said.count(NO_LABEL) / len(said),
    }
    if answered:
        numbers["answered_accuracy"] = sum(answered) / len(answered)
    table = metrics.classification_report(
        answers, said, labels=list(labels), digits=3, zero_division=0
    )
    counts = ", ".join(f"{name} {said.count(name)}" for name in (*labels, UNKNOWN, NO_LABEL))
    return Report(numbers, f"{table}\nsaid: {counts}")


class LinearPolicy:
    """TF-IDF of words and pairs, and logistic regression (scikit-learn), with abstention.

    Args:
      train: prompts with their right answers.
      abstain_below: "unknown" is said where the best label's probability is not above this.
      analyzer: "word" (words and pairs of words), or "char" (one to three characters, for
        languages written without spaces).

    Raises DataError where scikit-learn is missing.
    """

    def __init__(
        self, train: Sequence[Example], *, abstain_below: float, analyzer: str = "word"
    ) -> None:
        what, install = "the supervised baseline", "scikit-learn"
        text = import_package("sklearn.feature_extraction.text", what=what, install=install)
        linear = import_package("sklearn.linear_model", what=what, install=install)
        sizes = {"word": (1, 2), "char": (1, 3)}[analyzer]
        once = 2 if len(train) > 1000 else 1  # of a large set, what stands in one text is left out
        self.features = text.TfidfVectorizer(
            analyzer=analyzer, ngram_range=sizes, min_df=once, sublinear_tf=True
        )
        self.model = linear.LogisticRegression(C=4, max_iter=300)
        self.model.fit(
            self.features.fit_transform([e.prompt for e in train]), [e.answer for e in train]
        )
        self.abstain_below = abstain_below

    def act(self, observations: Sequence[str]) -> list[str]:
        """Say the most probable label of each observation, or "unknown"."""
        if not observations:
            return []
        chances = self.model.predict_proba(self.features.transform(observations))
        best = chances.argmax(axis=1)
        return [
            str(self.model.classes_[i]) if row[i] > self.abstain_below else UNKNOWN
            for row, i in zip(chances, best, strict=True)
        ]
