"""Watch the tone of a stream of documents: read, average, raise an alarm, and call it off.

A document has a score in [-1, 1].
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Literal, NamedTuple

from rljax.tasks.labels import read_label
from rljax.tasks.language import TextPolicy

Side = Literal["below", "above"]


@dataclasses.dataclass(frozen=True)
class AlarmConfig:
    """When a moving average is an alarm."""

    window: int = 20
    """Documents that the average is over: the last ones."""
    min_documents: int = 5
    """No alarm before the average is over so many."""
    below: float | None = -0.3
    """An alarm is raised where the average is at most this; None: never."""
    above: float | None = None
    """An alarm is raised where the average is at least this; None: never."""
    release: float = 0.1
    """The average has to come back past the threshold by this much until the alarm is called off:
    one that hovers about the threshold raises one alarm and not many."""

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window is {self.window}; it must be at least 1")
        if not 1 <= self.min_documents <= self.window:
            raise ValueError(
                f"min_documents is {self.min_documents}; it must be from 1 to window {self.window}"
            )
        if not 0 <= self.release < math.inf:
            raise ValueError(f"release is {self.release}; it must be at least 0")
        for name in ("below", "above"):
            value = getattr(self, name)
            if value is not None and not -1 <= value <= 1:
                raise ValueError(f"{name} is {value}; scores and averages are in [-1, 1]")
        low, high = self.below, self.above
        if low is None and high is None:
            raise ValueError("below and above are both None: nothing would be an alarm")
        if low is not None and high is not None and low + self.release >= high - self.release:
            raise ValueError(
                f"below {low} and above {high} are less than two release {self.release} apart: one "
                "alarm would begin before the other ends"
            )


class Change(NamedTuple):
    """An alarm that has been raised, or called off."""

    alarm: Side
    state: Literal["raised", "called off"]


class Alarm:
    """The moving average of scores, and whether it is beyond a threshold."""

    def __init__(self, config: AlarmConfig) -> None:
        self.config = config
        self.active: Side | None = None
        self._scores: collections.deque[float] = collections.deque(maxlen=config.window)

    @property
    def average(self) -> float:
        """The mean of the last `window` scores; NaN before the first."""
        return math.fsum(self._scores) / len(self._scores) if self._scores else math.nan

    def update(self, score: float) -> list[Change]:
        """Take in a score; say what that changes, what is called off first."""
        self._scores.append(score)
        if len(self._scores) < self.config.min_documents:
            return []
        changes: list[Change] = []
        if self.active is not None and not self._holds(self.active):
            changes.append(Change(self.active, "called off"))
            self.active = None
        if self.active is None:
            self.active = self._crossed()
            if self.active is not None:
                changes.append(Change(self.active, "raised"))
        return changes

    def _holds(self, side: Side) -> bool:
        """Whether an alarm goes on: the average has not come back far enough."""
        low, high, release = self.config.below, self.config.above, self.config.release
        if side == "below":
            return low is not None and self.average < low + release
        return high is not None and self.average > high - release

    def _crossed(self) -> Side | None:
        if self.config.below is not None and self.average <= self.config.below:
            return "below"
        if self.config.above is not None and self.average >= self.config.above:
            return "above"
        return None


class Document(NamedTuple):
    """One line of a stream."""

    line: int
    text: str
    problem: str = ""
    """What is wrong with the line; it has then no text."""


def read_stream(lines: Iterator[bytes], *, field: str | None, encoding: str) -> Iterator[Document]:
    """Read one document a line: the line itself, or a field of a JSON object.

    Blank lines are passed over; a malformed one comes as a document with a `problem`.
    """
    for number, raw in enumerate(lines, start=1):
        try:
            line = raw.decode(encoding).lstrip("\ufeff" if number == 1 else "").strip()
        except UnicodeDecodeError as error:
            yield Document(number, "", f"not {encoding} at byte {error.start}")
            continue
        if line:
            yield Document(number, line) if field is None else _parse(number, line, field)


def _parse(number: int, line: str, field: str) -> Document:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        return Document(number, "", f"expected a JSON object: {error.msg} at column {error.colno}")
    if not isinstance(record, dict):
        return Document(number, "", f"expected a JSON object, got a {type(record).__name__}")
    text = record.get(field)
    if not isinstance(text, str) or not text.strip():
        problem = f"expected a text in {field!r}, found {sorted(record)}"
        return Document(number, "", problem if field not in record else f"{field!r} is {text!r}")
    return Document(number, " ".join(text.split()))


def follow(stream: IO[bytes], *, poll_s: float, stop: Callable[[], bool]) -> Iterator[bytes]:
    """Yield the lines of a file and those that are appended to it, as `tail -f` does.

    A line is given when its end has been written. poll_s: seconds between looks at the end; ends
    when `stop` says so there.
    """
    kept = b""
    while True:
        part = stream.readline()
        if part:
            kept += part
            if kept.endswith(b"\n"):
                yield kept
                kept = b""
        elif stop():
            if kept:
                yield kept
            return
        else:
            time.sleep(poll_s)


class Judged(NamedTuple):
    """What a judge says of a document."""

    score: float
    """In [-1, 1]."""
    label: str | None
    """What was said, where it was said in words; None: no label."""


Judge = Callable[[str], Judged]


def numeric_judge(score: Callable[[str], float]) -> Judge:
    """Make a judge of a function from a text to a number in [-1, 1]."""

    def judge(text: str) -> Judged:
        value = score(text)
        return Judged(value, "positive" if value > 0 else "negative" if value < 0 else "neutral")

    return judge


def policy_judge(
    policy: TextPolicy,
    ask: Callable[[str], str],
    labels: Sequence[str],
    values: Mapping[str, float],
) -> Judge:
    """Make a judge of a policy that says labels.

    ask: text -> prompt; values: the score of each label. What is none of them scores 0.
    """

    def judge(text: str) -> Judged:
        label = read_label(policy.act([ask(text)])[0], labels)
        return Judged(values.get(label or "", 0.0), label)

    return judge
