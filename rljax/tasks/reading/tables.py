"""Read parquet files, and data sets of the Hugging Face hub, as (place, fields) of each row."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rljax.tasks.reading.errors import DataError
from rljax.tasks.reading.text_formats import Entry

INSTALL = "pip install 'rljax[data]'"


def _package(name: str, what: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        package = name.partition(".")[0]
        raise DataError(f"{what} needs the package {package}: {INSTALL}") from None


def read_parquet(path: Path) -> Iterator[Entry]:
    """Yield the rows of a parquet file, from 1.

    Numbers that stand for the names of labels (`ClassLabel`, as the datasets library writes it
    into the file) become the names. Raises DataError where pyarrow is missing, and for a file that
    is no parquet or is damaged.
    """
    arrow = _package("pyarrow", str(path))
    parquet = _package("pyarrow.parquet", str(path))
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
            if twice:
                raise DataError(f"{path}: has more than one column {twice}: {schema.names}")
            labels = _label_names(schema.metadata or {})
            for batch in file.iter_batches():
                for fields in batch.to_pylist():
                    number += 1
                    yield f"{path}:row {number}", _named(fields, labels)
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as parquet: {error}") from None


def _label_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """Find the names of labels in what the datasets library writes beside a table."""
    written = metadata.get(b"huggingface")
    features = json.loads(written).get("info", {}).get("features", {}) if written else {}
    return {
        name: kind["names"]
        for name, kind in features.items()
        if isinstance(kind, dict) and kind.get("_type") == "ClassLabel"
    }


def _named(fields: dict[str, Any], labels: Mapping[str, list[str]]) -> dict[str, Any]:
    """Replace the numbers of labels by their names; -1 and other numbers without one stay."""
    for name, names in labels.items():
        value = fields.get(name)
        if isinstance(value, int) and 0 <= value < len(names):
            fields[name] = names[value]
    return fields


def read_hub(name: str, config: str | None, split: str) -> Iterator[Entry]:
    """Yield the rows of one split of a data set that the datasets library loads by its name.

    Labels are their names, as in `read_parquet`. No code of the data set is run. Raises DataError
    where the library is missing, where the hub cannot be reached, and for an unknown name, config
    or split.
    """
    source = f"hf:{name}"
    datasets = _package("datasets", source)
    try:
        loaded = datasets.load_dataset(name, config, split=split)
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{source}: cannot load the split {split!r}"
            f"{f' of {config!r}' if config else ''}: {reason}; without a network, give a directory "
            "with its parquet or .jsonl files"
        ) from error
    labels = {
        column: list(kind.names)
        for column, kind in loaded.features.items()
        if isinstance(kind, datasets.ClassLabel)
    }
    for number, fields in enumerate(loaded, start=1):
        yield f"{source}:{split} {number}", _named(dict(fields), labels)
