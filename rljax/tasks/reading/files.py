"""Find the files that a source names: one, those of a directory, or those of one split of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl

from rljax.tasks.reading.config import Format, ReadingConfig
from rljax.tasks.reading.errors import DataError
from rljax.tasks.reading.lines import GZIP

ENDINGS: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".txt": "text",
    ".conll": "conll",
    ".iob": "conll",
    ".bio": "conll",
}
FORMATS = "a .jsonl, .csv, .tsv, .parquet, .txt or .conll file"
HUB = "hf:"
SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}
"""Words in the names of files that say of which split they are."""


class Hub(NamedTuple):
    """A data set of the hub."""

    name: str
    config: str | None
    split: str


class Files(NamedTuple):
    """Files of one format."""

    paths: list[Path]
    format: Format


def find_source(source: str, reading: ReadingConfig, expected: str) -> Files | Hub:
    """Find what a source names: `FILE`, `DIRECTORY[?split=S]`, or `hf:NAME[/CONFIG][?split=S]`.

    A name of the hub is `OWNER/NAME` or `NAME`; `hf:OWNER/NAME/CONFIG` and `?config=CONFIG` name
    its config. `hf:` with a directory reads that. expected: what sources there are, for the
    message. Raises DataError where there is none, or one of an unknown kind.
    """
    hub = source.startswith(HUB)
    name = source.removeprefix(HUB)
    settings: dict[str, str] = {}
    path = Path(name).expanduser()
    if not path.exists():  # a name may have a question mark
        name, settings = _split_settings(source, name, hub)
        path = Path(name).expanduser()
    if name and path.is_dir():
        return _directory(path, settings.get("split"), reading, hub)
    if hub:
        reading.refuse(source, "which is no file", "format", "encoding", "conll_columns")
        return _hub(source, name, settings)
    if not path.is_file():
        raise DataError(f"no {expected}")
    if settings:
        raise DataError(f"{source!r}: settings are for a directory or hf:NAME; {path} is a file")
    return Files([path], _format(path, reading))


def _split_settings(source: str, name: str, hub: bool) -> tuple[str, dict[str, str]]:
    name, _, query = name.partition("?")
    settings = dict(parse_qsl(query, keep_blank_values=True))
    known = {"split", "config"} if hub else {"split"}
    if (query and not settings) or set(settings) - known or not all(settings.values()):
        raise DataError(
            f"{source!r}: expected {' and '.join(f'{k}=NAME' for k in sorted(known))} after '?', "
            f"got {query!r}"
        )
    return name, settings


def _hub(source: str, name: str, settings: dict[str, str]) -> Hub:
    parts = name.split("/")
    config = settings.get("config")
    if not all(parts) or len(parts) > 3 or (len(parts) == 3 and config):
        raise DataError(f"{source!r}: expected hf:NAME, hf:OWNER/NAME or hf:OWNER/NAME/CONFIG")
    if len(parts) == 3:
        config = parts.pop()
    return Hub("/".join(parts), config, settings.get("split", "train"))


def _format(path: Path, reading: ReadingConfig) -> Format:
    """Tell a file's format by the flag or its ending, and check that other flags fit it."""
    name = path.name.lower()
    ending = Path(name.removesuffix(GZIP)).suffix
    kind = reading.format or ENDINGS.get(ending)
    if kind is None:
        flag = reading.flag("format") and f", or {reading.flag('format')}"
        hint = "; write one object a line, as .jsonl" if ending == ".json" else ""
        raise DataError(f"{path}: cannot read {ending!r} files; expected {FORMATS}{flag}{hint}")
    if kind == "parquet":
        reading.refuse(str(path), "a parquet file", "encoding")
        if name.endswith(GZIP):
            raise DataError(f"{path}: parquet is compressed in itself: unpack the .gz")
    if kind != "conll":
        reading.refuse(str(path), f"a file of {kind}", "conll_columns")
    return kind


def split_of(path: Path) -> str | None:
    """Tell the split from the words of a path, such as data/train-00000-of-00002.parquet."""
    words = re.split(r"[^a-z]+", path.as_posix().lower())
    return next((SPLITS[word] for word in words if word in SPLITS), None)


def _directory(path: Path, split: str | None, reading: ReadingConfig, hub: bool) -> Files:
    """Find the files of a directory, or those of one split; all must be of one format."""
    files = [
        file
        for file in sorted(path.rglob("*"))
        if file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
        and (Path(file.name.lower().removesuffix(GZIP)).suffix in ENDINGS)
    ]
    if not files:
        raise DataError(f"{path}: the directory holds no file to read; expected {FORMATS}")
    of_split = {file: split_of(file.relative_to(path)) for file in files}
    there = sorted({s for s in of_split.values() if s is not None})
    if split is None and hub and "train" in there:
        split = "train"
    if split is None and len(there) > 1:
        raise DataError(
            f"{path}: holds files of the splits {there}: say which, as in {path}?split={there[0]}"
        )
    if split is not None:
        wanted = SPLITS.get(split, split)
        files = [file for file in files if of_split[file] == wanted]
        if not files:
            raise DataError(f"{path}: no file is of the split {split!r}; there are {there}")
    formats = {_format(file, reading): file for file in files}
    if len(formats) > 1:
        names = [str(file.relative_to(path)) for file in formats.values()]
        raise DataError(
            f"{path}: holds files of several formats, such as {names}: leave those of one"
        )
    return Files(files, next(iter(formats)))
