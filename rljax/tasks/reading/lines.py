"""Read the lines of a text file: decoded, checked, numbered; compressed by gzip or not."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from rljax.tasks.reading.errors import BadLines, DataError

GZIP = ".gz"
UNDECODED = re.compile("[\udc80-\udcff]")
"""What stands for a byte that could not be decoded (PEP 383)."""
# The longer marks first: that of UTF-32 begins with that of UTF-16.
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def check_encoding(name: str, flag: str) -> None:
    """Raise ValueError unless Python knows a text encoding of that name; flag: for the message."""
    try:
        "".encode(name)
    except (LookupError, ValueError):
        raise ValueError(
            f"{flag} is {name!r}, which is no text encoding; such are utf-8, utf-16, latin-1, "
            "cp1252, gb18030, big5, shift_jis, euc_kr"
        ) from None


@contextmanager
def open_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading bytes, unpacked where its name ends in .gz.

    Raises DataError where it cannot be opened or unpacked.
    """
    try:
        with path.open("rb") as raw:
            if path.suffix.lower() != GZIP:
                yield raw
                return
            with gzip.GzipFile(fileobj=raw) as unpacked:
                yield cast(IO[bytes], unpacked)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be unpacked as gzip: {error}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def read_lines(
    path: Path, *, encoding: str = "utf-8", bad: BadLines, flag: str = ""
) -> Iterator[tuple[int, str]]:
    """Yield (number, line) of a text file, from 1, the line's end included.

    Lines end in LF, CR LF or CR. A byte order mark of UTF-8 is taken off. flag: the flag that
    names the encoding, for messages. Lines with bytes that are not of the encoding, or with a NUL,
    are reported to `bad`. Raises DataError where the whole file cannot be read as text.
    """
    codec = codecs.lookup(encoding).name
    remedy = f"name its encoding with {flag}, such as" if flag else "save it as UTF-8: it may be"
    with open_file(path) as raw:
        if codec == "utf-8":
            codec = "utf-8-sig"
            _check_mark(raw, path, remedy)
        # Bytes that cannot be decoded become marks in their line, which is then refused alone.
        text = io.TextIOWrapper(raw, encoding=codec, errors="surrogateescape", newline="")
        number = 0
        try:
            for number, line in enumerate(text, start=1):
                problem = _problem(line, encoding, remedy)
                if problem:
                    bad.report(f"{path}:{number}: {problem}")
                else:
                    yield number, line
        except UnicodeError as error:
            raise DataError(
                f"{path}:{number + 1}: not {encoding}: {error}; {remedy} utf-8 or latin-1"
            ) from None


def _check_mark(raw: IO[bytes], path: Path, remedy: str) -> None:
    """Raise DataError where a file that should be UTF-8 begins with another's byte order mark."""
    head = raw.read(4)
    raw.seek(0)
    for mark, name in BYTE_ORDER_MARKS:
        if head.startswith(mark):
            raise DataError(
                f"{path}: not UTF-8: it begins with the byte order mark of {name.upper()}; "
                f"{remedy} {name}"
            )


def _problem(line: str, encoding: str, remedy: str) -> str:
    """Say why a line is no text; "" where it is."""
    # A plain search is many times as fast as an expression, and nearly all lines are ASCII.
    found = None if line.isascii() else UNDECODED.search(line)
    if found:
        place = len(line[: found.start()].encode(encoding, "surrogateescape")) + 1
        return (
            f"not {encoding.upper()}: byte 0x{ord(found[0]) - 0xDC00:02x}, the {place}. of the "
            f"line; {remedy} latin-1 or gb18030"
        )
    if "\0" in line:
        return (
            f"holds a NUL (character {line.index(chr(0)) + 1} of the line), which no text has: is "
            f"it another kind of file? If it is text, {remedy} utf-16"
        )
    return ""
