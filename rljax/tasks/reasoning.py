"""Problems with one right answer from reasoning-gym, as prompts with an `answer` column.

A source is `reasoning-gym:NAME?key=value&key=value`, several joined by "+":

    reasoning-gym:chain_sum?min_terms=2&max_terms=2+products?max_digits=1&size=500

The keys are those of the package's task; `size` (1000) and `seed` (0) too. Every task gives the
same problems for the same keys on any machine.
"""

from __future__ import annotations

import importlib
from typing import Any
from urllib.parse import parse_qsl

from rljax.specs import plain_value
from rljax.tasks.sources import DataError, Row

PREFIX = "reasoning-gym:"
SIZE = 1000


def read_reasoning_gym(source: str) -> list[Row]:
    """Generate the problems that `source` names: the question, its answer, its task.

    Raises DataError where the package is missing, or a task or one of its keys is unknown.
    """
    try:
        package = importlib.import_module("reasoning_gym")
    except ModuleNotFoundError:
        raise DataError(
            f"the prompts {source!r} need the package reasoning-gym: pip install 'rljax[reasoning]'"
        ) from None
    rows: list[Row] = []
    for part in source.removeprefix(PREFIX).split("+"):
        name, _, query = part.partition("?")
        try:
            problems = package.create_dataset(name, **_settings(query))
        except (TypeError, ValueError, AssertionError) as error:
            raise DataError(f"{PREFIX}{part}: {error}") from None
        rows += [
            Row(
                " ".join(problem["question"].split()),
                {"answer": str(problem["answer"]), "task": name},
                f"{part}:{index}",
            )
            for index, problem in enumerate(problems)
        ]
    return rows


def _settings(query: str) -> dict[str, Any]:
    """Read `key=value&...`, values as `plain_value` reads them."""
    given = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    return {"size": SIZE, "seed": 0} | {key: plain_value(value) for key, value in given}
