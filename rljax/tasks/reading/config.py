"""How files are read: the flags that prompts, documents and preferences share."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from rljax.tasks.reading.errors import DataError
from rljax.tasks.reading.lines import check_encoding

Format = Literal["jsonl", "csv", "tsv", "parquet", "text", "conll"]
FIRST_AND_LAST = (0, -1)


@dataclass(frozen=True, kw_only=True)
class ReadingConfig:
    """How files are read."""

    FLAGS: ClassVar[str] = "--data."
    """What stands before the names of its flags, for messages."""

    format: Format | None = None
    """What the source's files are; None: their ending says (.jsonl, .ndjson, .csv, .tsv, .parquet,
    .txt, .conll, .iob, .bio, also with .gz behind it)."""
    encoding: str = "utf-8"
    """Of text files, as Python names it: utf-16, latin-1, gb18030, shift_jis ..."""
    skip_bad_lines: bool = False
    """Leave malformed lines out, and say how many there were; without it, and where more than half
    are bad, they are errors."""
    conll_columns: tuple[int, int] = FIRST_AND_LAST
    """Columns of the token and of its tag in CoNLL files, from 0; -1 is the last."""

    def __post_init__(self) -> None:
        check_encoding(self.encoding, self.flag("encoding"))
        if self.conll_columns[0] == self.conll_columns[1]:
            raise ValueError(
                f"{self.flag('conll_columns')} is {self.conll_columns}: token and tag need a "
                "column each"
            )

    def flag(self, field: str) -> str:
        """Spell the flag of a field, such as --data.skip-bad-lines; "" where there are none."""
        return self.FLAGS and self.FLAGS + field.replace("_", "-")

    def refuse(self, source: str, why: str, *fields: str) -> None:
        """Raise DataError for a field that was set, but says nothing about a source.

        fields: the names to look at; none: all that are of files.
        """
        defaults: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(ReadingConfig)}
        for name in fields or defaults:
            if getattr(self, name) != defaults[name]:
                raise DataError(
                    f"{self.flag(name)} says nothing about {source!r}, {why}: leave it out"
                )


class _NoFlags(ReadingConfig):
    """The defaults, where no flag changes them."""

    FLAGS: ClassVar[str] = ""


DEFAULT = _NoFlags()
"""UTF-8, the format that the ending says, and no bad line."""
