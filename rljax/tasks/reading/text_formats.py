"""Read JSONL, CSV, TSV and plain text: (file:line, fields) of each record."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rljax.tasks.reading.config import ReadingConfig
from rljax.tasks.reading.errors import BadLines, DataError
from rljax.tasks.reading.lines import read_lines

Entry = tuple[str, dict[str, Any]]
"""Where a record stands, for messages, and its fields."""


def _lines(path: Path, reading: ReadingConfig, bad: BadLines) -> Iterator[tuple[int, str]]:
    flag = reading.flag("encoding")
    return read_lines(path, encoding=reading.encoding, bad=bad, flag=flag)


# ----------------------------------------------------------------------------------- Lines alone


def read_text(path: Path, reading: ReadingConfig, bad: BadLines, field: str) -> Iterator[Entry]:
    """Yield each line of a text file as the field `field`; blank lines are skipped."""
    for number, line in _lines(path, reading, bad):
        if line.strip():
            yield f"{path}:{number}", {field: line.strip()}


# ----------------------------------------------------------------------------------------- JSONL


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of JSON's pairs; ValueError where a name stands twice."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {twice!r} stands there twice")
    return fields


def read_jsonl(path: Path, reading: ReadingConfig, bad: BadLines) -> Iterator[Entry]:
    """Yield the JSON object of each line; blank lines are skipped.

    What is no JSON, no object, or an object with a name twice, is reported to `bad`.
    """
    for number, line in _lines(path, reading, bad):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            record = json.loads(line, object_pairs_hook=_object)
        except json.JSONDecodeError as error:
            problem = f"{error.msg} at column {error.colno}"
            bad.report(f"{where}: expected one JSON object a line: {problem}")
            continue
        except (ValueError, RecursionError) as error:
            bad.report(f"{where}: expected one JSON object a line: {error}")
            continue
        if isinstance(record, dict):
            yield where, record
        else:
            bad.report(f"{where}: expected a JSON object, got a {type(record).__name__}")


# ----------------------------------------------------------------------------------- CSV and TSV


class _Feed:
    """Hand lines to the CSV reader, and remember which ones a record is made of."""

    def __init__(self, lines: Iterator[tuple[int, str]]) -> None:
        self.lines = lines
        self.first: int | None = None
        """Number of the first line of the record that is being read."""
        self.last = 0
        self.torn = False
        """Whether a line within the record could not be read."""
        self.ended = False

    def start(self) -> None:
        self.first, self.torn = None, False

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        entry = next(self.lines, None)
        if entry is None:
            self.ended = True
            raise StopIteration
        number, line = entry
        self.torn = self.torn or (self.first is not None and number != self.last + 1)
        self.first, self.last = self.first or number, number
        return line


def read_delimited(
    path: Path, reading: ReadingConfig, bad: BadLines, delimiter: str
) -> Iterator[Entry]:
    """Yield the rows below a header line, as RFC 4180 has them; fields are texts.

    Rows with too many or too few fields, or with quotes in the wrong place, are reported to `bad`.
    Raises DataError for a header that names a column twice, or that is of another delimiter, and
    for a quote that is never closed.
    """
    feed = _Feed(_lines(path, reading, bad))
    reader = csv.reader(feed, delimiter=delimiter, strict=True)
    header: list[str] | None = None
    before = csv.field_size_limit(sys.maxsize)  # 131,072 characters, which documents may exceed
    try:
        while True:
            feed.start()
            row = _next_row(path, reader, feed, bad)
            if row is None:
                return
            where = f"{path}:{feed.first}"
            if feed.torn or not row:
                continue
            if header is None:
                header = _check_header(where, row, delimiter)
            elif len(row) == len(header):
                yield where, dict(zip(header, row, strict=True))
            else:
                bad.report(f"{where}: expected {len(header)} fields {header}, got {len(row)}")
    finally:
        csv.field_size_limit(before)


def _next_row(path: Path, reader: Any, feed: _Feed, bad: BadLines) -> list[str] | None:
    """Return the next row, [] for one that was reported, None at the end of the file."""
    try:
        return next(reader, None)
    except csv.Error as error:
        if feed.ended:  # all the rest of the file has been swallowed
            raise DataError(
                f"{path}:{feed.first}: not valid CSV: a quote opens in the row that begins here "
                "and never closes"
            ) from None
        bad.report(f"{path}:{feed.first}: not valid CSV: {error}")
        return []


def _check_header(where: str, header: list[str], delimiter: str) -> list[str]:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"{where}: the header names {twice} more than once: {header}")
    others = [mark for mark in ",;\t|" if mark != delimiter and mark in header[0]]
    if len(header) == 1 and others:
        raise DataError(
            f"{where}: expected names separated by {delimiter!r}, but the header is {header[0]!r}, "
            f"which looks separated by {others[0]!r}: .csv has commas, .tsv has TABs "
            "(or name the format by its flag)"
        )
    return header
