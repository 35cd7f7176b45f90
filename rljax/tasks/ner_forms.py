"""How tagged sentences are asked for and written as text, and how such text is read back.

Three forms, of "Empire State Building = ESB ." with the facilities "Empire State Building", "ESB":

    tags       Empire State Building = ESB . =>                F f f O F O
    indexed    Empire 1 State 2 Building 3 = 4 ESB 5 . 6 =>    1 F 2 f 3 f 5 F
    entities   Empire State Building = ESB . =>                facility: Empire State Building; ...

A type has one letter, upper-case where an entity begins and lower-case inside of it. `tags` says
one for each word, `indexed` only those that are not O, behind the number of the word, and
`entities` lists what was found, in the words of the sentence (Wang et al. 2023, InstructUIE,
https://arxiv.org/abs/2304.08085). What a model writes is read as published conventions have it:

- `tags`: missing tags are O, those beyond the last word are ignored (what evaluation scripts do
  where a sentence was cut), and an unknown tag is O.
- `indexed`: a pair whose number or letter does not exist is ignored; of two for one word the
  first counts.
- `entities`: an entity is placed where its words stand in the sentence, behind the one listed
  before it if possible; one that stands nowhere, or has stood there already, is a false positive;
  an unknown type is ignored.
- An entity that begins with an inside tag begins there all the same, as in conlleval (Tjong Kim
  Sang and Buchholz 2000, https://aclanthology.org/W00-0726).

All of them but the last are counted as malformed.
"""

from __future__ import annotations

import abc
import re
import string
from collections.abc import Sequence
from typing import NamedTuple

from rljax.tasks.conll import OUTSIDE
from rljax.tasks.sources import DataError

END = "=>"
"""Stands behind the sentence; the answer follows."""
NOTHING = "none"
ITEMS = re.compile(r"; (?=\S+: )")
"""Between listed entities; one may hold a semicolon."""


class Parsed(NamedTuple):
    """What a completion says about a sentence of n words."""

    tags: tuple[str, ...]
    """n tags, IOB2 without errors."""
    unplaced: tuple[str, ...] = ()
    """Types of entities that are not in the sentence."""
    malformed: bool = False
    """Whether anything in it could not be understood."""


class Span(NamedTuple):
    """An entity: words start to end - 1."""

    kind: str
    start: int
    end: int


def find_spans(tags: Sequence[str]) -> list[Span]:
    """List the entities of IOB2 tags; I- without its beginning begins one, as in conlleval."""
    spans: list[Span] = []
    for place, tag in enumerate(tags):
        if tag == OUTSIDE:
            continue
        letter, _, kind = tag.partition("-")
        last = spans[-1] if spans else None
        if letter == "I" and last is not None and (last.kind, last.end) == (kind, place):
            spans[-1] = last._replace(end=place + 1)
        else:
            spans.append(Span(kind, place, place + 1))
    return spans


def span_tags(spans: Sequence[Span], length: int) -> tuple[str, ...]:
    """Write entities that do not overlap as `length` IOB2 tags."""
    tags = [OUTSIDE] * length
    for span in spans:
        tags[span.start : span.end] = [f"I-{span.kind}"] * (span.end - span.start)
        tags[span.start] = f"B-{span.kind}"
    return tuple(tags)


class Form(abc.ABC):
    """One way of writing a tagged sentence."""

    def __init__(self, types: Sequence[str]) -> None:
        self.types = tuple(types)

    def prompt(self, tokens: Sequence[str]) -> str:
        """Write what is asked."""
        return " ".join([*tokens, END])

    def tokens(self, prompt: str) -> tuple[str, ...]:
        """Return the words of a prompt that this form has written."""
        return tuple(prompt.split(" ")[:-1])

    @abc.abstractmethod
    def render(self, tokens: Sequence[str], tags: Sequence[str]) -> str:
        """Write the tags of a sentence."""

    @abc.abstractmethod
    def parse(self, text: str, tokens: Sequence[str]) -> Parsed:
        """Read what was written about a sentence."""


class Tags(Form):
    """A letter for each word."""

    def __init__(self, types: Sequence[str]) -> None:
        super().__init__(types)
        self.tags = _letters(types)
        self.letters = {tag: letter for letter, tag in self.tags.items()}

    def render(self, tokens: Sequence[str], tags: Sequence[str]) -> str:
        """Write a letter for each word."""
        del tokens
        return " ".join(self.letters[tag] for tag in tags)

    def parse(self, text: str, tokens: Sequence[str]) -> Parsed:
        """Read the letters from the first word on."""
        written = text.split()
        cut = written[: len(tokens)]
        found = [self.tags.get(letter, OUTSIDE) for letter in cut]
        found += [OUTSIDE] * (len(tokens) - len(cut))
        malformed = len(written) != len(tokens) or not set(cut) <= set(self.tags)
        return Parsed(_begun(found), malformed=malformed)


class Indexed(Tags):
    """The number and the letter of each word that is not O."""

    def prompt(self, tokens: Sequence[str]) -> str:
        """Write the number of each word behind it."""
        numbered = (f"{token} {number}" for number, token in enumerate(tokens, 1))
        return " ".join([*numbered, END])

    def tokens(self, prompt: str) -> tuple[str, ...]:
        """Return the words of a prompt that this form has written."""
        return tuple(prompt.split(" ")[:-1:2])

    def render(self, tokens: Sequence[str], tags: Sequence[str]) -> str:
        """Write the number and the letter of each word that is not O."""
        del tokens
        pairs = [f"{n} {self.letters[t]}" for n, t in enumerate(tags, 1) if t != OUTSIDE]
        return " ".join(pairs) or NOTHING

    def parse(self, text: str, tokens: Sequence[str]) -> Parsed:
        """Read pairs of number and letter."""
        written = text.split()
        if written == [NOTHING]:
            return Parsed((OUTSIDE,) * len(tokens))
        numbers = {str(number): number - 1 for number in range(1, len(tokens) + 1)}
        found: dict[int, str] = {}
        malformed = len(written) % 2 == 1 or not written
        for number, letter in zip(written[::2], written[1::2], strict=False):
            place, tag = numbers.get(number), self.tags.get(letter, OUTSIDE)
            if place is None or tag == OUTSIDE or place in found:
                malformed = True
            else:
                found[place] = tag
        return Parsed(
            _begun([found.get(place, OUTSIDE) for place in range(len(tokens))]),
            malformed=malformed,
        )


class Entities(Form):
    """The list of what was found, each with its type."""

    def render(self, tokens: Sequence[str], tags: Sequence[str]) -> str:
        """List the entities in the order in which they stand."""
        spans = find_spans(tags)
        return "; ".join(f"{s.kind}: {' '.join(tokens[s.start : s.end])}" for s in spans) or NOTHING

    def parse(self, text: str, tokens: Sequence[str]) -> Parsed:
        """Find the listed entities in the sentence."""
        length = len(tokens)
        lines = text.strip().splitlines()
        if not lines or lines[0].strip() == NOTHING:
            return Parsed((OUTSIDE,) * length, malformed=len(lines) != 1)
        placed: list[Span] = []
        unplaced, malformed, after = [], len(lines) > 1, 0
        for item in ITEMS.split(lines[0]):
            kind, _, mention = item.strip().partition(": ")
            words = tuple(mention.split())
            if kind not in self.types or not words:
                malformed = True
                continue
            span = _place(kind, words, tuple(tokens), after, placed)
            if span is None:
                unplaced.append(kind)
            else:
                placed.append(span)
                after = span.end
        malformed = malformed or bool(unplaced)
        return Parsed(span_tags(placed, length), tuple(unplaced), malformed)


FORMS: dict[str, type[Form]] = {"tags": Tags, "indexed": Indexed, "entities": Entities}


def _letters(types: Sequence[str]) -> dict[str, str]:
    """Give each type a letter, of its own name if possible: the tag by what stands for it."""
    taken = {OUTSIDE: OUTSIDE}
    for kind in types:
        wanted = [c for c in kind.upper() if c in string.ascii_uppercase]
        free = [c for c in (*wanted, *string.ascii_uppercase) if c not in taken and c != "O"]
        if not free:
            raise DataError(
                f"form: there are {len(types)} types of entities, more than letters; take "
                "form=entities"
            )
        taken[free[0]] = f"B-{kind}"
        taken[free[0].lower()] = f"I-{kind}"
    return taken


def _begun(tags: Sequence[str]) -> tuple[str, ...]:
    """Let every entity begin with B-."""
    return span_tags(find_spans(tags), len(tags))


def _place(
    kind: str, words: tuple[str, ...], tokens: tuple[str, ...], after: int, placed: list[Span]
) -> Span | None:
    """Find words that no entity holds yet, from `after` on, or else from the start."""
    free = [True] * len(tokens)
    for span in placed:
        free[span.start : span.end] = [False] * (span.end - span.start)
    starts = range(len(tokens) - len(words) + 1)
    for start in (*starts[after:], *starts[:after]):
        end = start + len(words)
        if tokens[start:end] == words and all(free[start:end]):
            return Span(kind, start, end)
    return None
