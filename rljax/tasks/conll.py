"""Read sentences with a tag for each token: CoNLL files, in IOB1, IOB2, BIOES, BILOU or BMES.

A line is a token with its columns, separated by TABs or blanks; an empty line, or one of blanks or
TABs alone, ends a sentence. Lines of `-DOCSTART-` are skipped. CoNLL-2003 (Tjong Kim Sang and De
Meulder 2003, https://aclanthology.org/W03-0419) has four columns: word, part of speech, chunk,
entity; files of two columns are as common. The first is the token and the last the tag, unless
they are named.

Tags are "O", or a letter, "-" and a type, such as "B-PER". Whatever the scheme, IOB2 comes out:
B on the first token of an entity, I on those after it. In IOB1 (Ramshaw and Marcus 1995,
https://aclanthology.org/W95-0107) B stands only between two entities of one type that touch; in
BIOES an entity ends in E, or is one token S (L and U in BILOU, M inside in BMES).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from rljax.tasks.reading.errors import BadLines, DataError
from rljax.tasks.reading.fields import Labels
from rljax.tasks.reading.lines import check_encoding, read_lines

Scheme = Literal["iob1", "iob2", "bioes"]
DOCUMENT_START = "-DOCSTART-"
OUTSIDE = "O"
END = "the end"
TAG = re.compile(r"([BIELSUM])-(\S+)")
LETTERS = {"L": "E", "U": "S", "M": "I"}
"""Of BILOU and BMES, as BIOES has them."""
FOLLOWERS = {"": "OBS", "O": "OBS", "E": "OBS", "S": "OBS", "B": "IE", "I": "IE"}
"""What may follow a letter in BIOES: "" is the start of a sentence."""
SHOWN = 5


class Sentence(NamedTuple):
    """A sentence with a tag for each token."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]
    """IOB2: "O", "B-TYPE" or "I-TYPE", one for each token."""
    where: str
    """file:line of its first token."""


class _Raw(NamedTuple):
    """A sentence as the file has it, with the number of each token's line."""

    tokens: list[str]
    tags: list[str]
    lines: list[int]


def read_conll(
    path: str | Path,
    *,
    encoding: str = "utf-8",
    token_column: int = 0,
    tag_column: int = -1,
    scheme: Scheme | None = None,
    types: Sequence[str] | None = None,
    bad: BadLines | None = None,
    flag: str = "",
) -> list[Sentence]:
    """Read the sentences of a CoNLL file, their tags as IOB2.

    Args:
      path: the file; one that ends in .gz is unpacked.
      encoding: of its bytes. flag: the flag that names it, for messages.
      token_column, tag_column: which columns these are, from 0; negative ones count from the last.
      scheme: of the tags; None: found from the tags.
      types: the entity types that there may be; None: any.
      bad: counts malformed lines and sentences, which are left out; None: the first one raises.

    Raises:
      DataError: for a file that cannot be read or holds no sentence, and, unless `bad` counts
        them, with the line: another number of columns than in the first line, a tag that is none
        or of an unknown type, and tags that may not follow one another.
    """
    path = Path(path).expanduser()
    check_encoding(encoding, flag or "encoding")
    bad = bad or BadLines()
    labels = None if types is None else Labels(types, "entity type")
    raw = list(_sentences(path, encoding, (token_column, tag_column), bad, flag))
    if scheme is None:
        scheme = find_scheme([sentence.tags for sentence in raw])
    found = []
    for sentence in raw:
        problems = list(_tag_problems(sentence, scheme, labels))
        if problems:
            shown = "; ".join(f"line {line}: {problem}" for line, problem in problems[:SHOWN])
            more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
            bad.report(f"{path}:{problems[0][0]}: bad tags ({scheme.upper()}): {shown}{more}")
        else:
            tags = to_iob2(sentence.tags, scheme)
            found.append(Sentence(tuple(sentence.tokens), tags, f"{path}:{sentence.lines[0]}"))
    if not found and not bad.count:
        raise DataError(f"{path}: holds no sentence at all; expected a token and its tag a line")
    return found


# ----------------------------------------------------------------------------------------- Lines


def _sentences(
    path: Path, encoding: str, columns: tuple[int, int], bad: BadLines, flag: str
) -> Iterator[_Raw]:
    """Yield the sentences of a file; of those with a malformed line, only the report."""
    width: int | None = None
    sentence = _Raw([], [], [])
    broken, last = False, 0
    for number, line in read_lines(path, encoding=encoding, bad=bad, flag=flag):
        broken = broken or number > last + 1  # a line in between could not be read
        last = number
        line = line.rstrip("\r\n")
        if not line.strip() or line.startswith(DOCUMENT_START):
            if sentence.tokens and not broken:
                yield sentence
            sentence, broken = _Raw([], [], []), False
            continue
        # Other kinds of blank, such as U+00A0, may be part of a token.
        parts = line.split("\t") if "\t" in line.strip() else re.split(" +", line.strip(" \t"))
        width = width or _check_width(path, number, parts, columns)
        problem = _columns_problem(parts, width, columns)
        if problem:
            bad.report(f"{path}:{number}: {problem}")
            broken = True
            continue
        sentence.tokens.append(parts[columns[0]].strip())
        sentence.tags.append(parts[columns[1]].strip())
        sentence.lines.append(number)
    if sentence.tokens and not broken:
        yield sentence


def _check_width(path: Path, number: int, parts: list[str], columns: tuple[int, int]) -> int:
    """Return the number of columns, which the first line tells, or say what is missing there."""
    width = len(parts)
    if width < 2:
        raise DataError(
            f"{path}:{number}: expected a token and its tag, separated by blanks or a TAB, got "
            f"{' '.join(parts)!r}"
        )
    for column in columns:
        if not -width <= column < width:
            raise DataError(
                f"{path}:{number}: there is no column {column}: the file has {width}, 0 to "
                f"{width - 1}"
            )
    if columns[0] % width == columns[1] % width:
        raise DataError(
            f"{path}:{number}: token and tag are the same column, {columns[0]} and {columns[1]} of "
            f"{width}"
        )
    return width


def _columns_problem(parts: list[str], width: int, columns: tuple[int, int]) -> str:
    if len(parts) != width:
        return f"expected {width} columns as in the first line, got {len(parts)}: {parts}"
    if not parts[columns[0]].strip():
        return f"expected a token in column {columns[0] % width}, got an empty one: {parts}"
    return ""


# ------------------------------------------------------------------------------------------ Tags


def split_tag(tag: str) -> tuple[str, str] | None:
    """Split "B-PER" into the letter that BIOES has for it and the type; None for no tag.

    "O" is ("O", "").
    """
    if tag == OUTSIDE:
        return OUTSIDE, ""
    match = TAG.fullmatch(tag)
    return (LETTERS.get(match[1], match[1]), match[2]) if match else None


def find_scheme(sentences: Sequence[Sequence[str]]) -> Scheme:
    """Tell the scheme from the tags of many sentences.

    BIOES has letters of its own. Between IOB1 and IOB2 the beginnings of entities tell, which no
    entity of the same type touches: I in IOB1, B in IOB2; the more frequent one decides.
    """
    inside = begun = 0
    for tags in sentences:
        before = (OUTSIDE, "")
        for tag in tags:
            parts = split_tag(tag) or (OUTSIDE, "")
            if parts[0] in "ES":
                return "bioes"
            if parts[0] != OUTSIDE and parts[1] != before[1]:
                inside += parts[0] == "I"
                begun += parts[0] == "B"
            before = parts
    return "iob1" if inside > begun else "iob2"


def _tag_problems(
    sentence: _Raw, scheme: Scheme, types: Labels | None
) -> Iterator[tuple[int, str]]:
    """Yield (line, what is wrong) of a sentence's tags."""
    before, letter, kind = "the start", "", ""
    for tag, line in zip([*sentence.tags, END], [*sentence.lines, sentence.lines[-1]], strict=True):
        parts = (OUTSIDE, "") if tag == END else split_tag(tag)
        if parts is None:
            yield line, f"expected O or a tag such as B-PER, got {tag!r}"
            parts = (OUTSIDE, "")
        elif types is not None and parts[1] and types.problem(parts[1]):
            yield line, f"{tag!r}: {types.problem(parts[1])}"
        elif not _may_follow(letter, kind, *parts, scheme):
            yield line, f"{tag} may not follow {before}"
        before, (letter, kind) = tag, parts


def _may_follow(letter: str, kind: str, new: str, new_kind: str, scheme: Scheme) -> bool:
    """Say whether a tag may stand behind another, both split; "" is the start of a sentence."""
    if scheme == "bioes":
        return new in FOLLOWERS[letter] and (new not in "IE" or new_kind == kind)
    if scheme == "iob1":
        return new in "OI" or (new == "B" and new_kind == kind and letter in "BI")
    return new in "OB" or (new == "I" and new_kind == kind and letter in "BI")


def to_iob2(tags: Sequence[str], scheme: Scheme) -> tuple[str, ...]:
    """Rewrite tags without errors in IOB2."""
    made, kind = [], ""
    for tag in tags:
        letter, new_kind = split_tag(tag) or (OUTSIDE, "")
        begins = letter in "BS" or (scheme == "iob1" and new_kind != kind)
        made.append(OUTSIDE if letter == OUTSIDE else f"{'B' if begins else 'I'}-{new_kind}")
        kind = new_kind
    return tuple(made)
