"""Read a source whole: find its files, take them apart, check every record, count what is bad."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

from rljax.tasks.conll import read_conll
from rljax.tasks.reading.config import ReadingConfig
from rljax.tasks.reading.errors import BadLines, DataError
from rljax.tasks.reading.files import Files, Hub, find_source
from rljax.tasks.reading.tables import read_hub, read_parquet
from rljax.tasks.reading.text_formats import Entry, read_delimited, read_jsonl, read_text

Item = TypeVar("Item")
DELIMITERS = {"csv": ",", "tsv": "\t"}


class Untyped(dict[str, Any]):
    """Fields of a format that knows texts only (CSV, TSV): numbers are yet to be read."""


class Read(NamedTuple):
    """What a source holds."""

    items: list[Any]
    note: str
    """How many lines were left out, and the first of them; "" for none."""


def read_checked(
    source: str,
    reading: ReadingConfig,
    check: Callable[[str, dict[str, Any]], Item],
    *,
    expected: str,
    text_field: str = "text",
) -> Read:
    """Read all records of a source, each turned by `check` into an item.

    Args:
      source: FILE, DIRECTORY[?split=NAME] or hf:NAME, as `find_source` takes it.
      reading: how files are read.
      check: (place, fields) -> item; it raises DataError for what it cannot take.
      expected: what a source may be, for the message where there is none.
      text_field: the field that a line of plain text becomes. Of CoNLL, a sentence's tokens become
        `prompt` and its tags `answer` and `completion`, each joined by blanks.

    Raises:
      DataError: naming file and line. With `skip_bad_lines` only for what is wrong with a whole
        file, and where more than half of the records are bad.
    """
    bad = BadLines(skip=reading.skip_bad_lines)
    items: list[Item] = []
    for where, fields in _entries(find_source(source, reading, expected), reading, bad, text_field):
        try:
            items.append(check(where, fields))
        except DataError as error:
            bad.report(str(error))
    return Read(items, bad.finish(source, len(items)))


def _entries(
    found: Files | Hub, reading: ReadingConfig, bad: BadLines, text_field: str
) -> Iterator[Entry]:
    if isinstance(found, Hub):
        yield from read_hub(*found)
        return
    for path in found.paths:
        if found.format == "jsonl":
            yield from read_jsonl(path, reading, bad)
        elif found.format == "parquet":
            yield from read_parquet(path)
        elif found.format == "text":
            yield from read_text(path, reading, bad, text_field)
        elif found.format == "conll":
            token, tag = reading.conll_columns
            for sentence in read_conll(
                path,
                encoding=reading.encoding,
                token_column=token,
                tag_column=tag,
                bad=bad,
                flag=reading.flag("encoding"),
            ):
                words, tags = " ".join(sentence.tokens), " ".join(sentence.tags)
                yield sentence.where, {"prompt": words, "answer": tags, "completion": tags}
        else:
            for where, fields in read_delimited(path, reading, bad, DELIMITERS[found.format]):
                yield where, Untyped(fields)
