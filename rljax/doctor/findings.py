"""What a dry run finds: lines as it goes, and at the end a verdict."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from rljax.errors import UserError
from rljax.training.config_json import flatten_config
from rljax.training.progress import format_duration

WIDTH = 12


class Problem(NamedTuple):
    """Something that has to be put right before a run."""

    what: str
    remedy: str

    def text(self) -> str:
        """Return both as one sentence or two."""
        return f"{self.what}: {self.remedy}" if self.remedy else self.what


class Findings:
    """Collects what a dry run finds, and prints it as it is found."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._started = time.perf_counter()

    def say(self, title: str, text: str) -> None:
        """Print a line, or several, under a title."""
        first, *rest = text.splitlines() or [""]
        print(f"{title:<{WIDTH}}{first}")
        for line in rest:
            print(f"{'':<{WIDTH}}{line}", flush=True)

    def config(self, config: Any) -> None:
        """Print every field of the resolved config."""
        flat = flatten_config(config)
        width = max(map(len, flat))
        for name, value in flat.items():
            print(f"  {name:<{width}}  {value!r}")

    def wrong(self, what: str, remedy: str = "") -> None:
        """Note what stands in a run's way, and what would help."""
        self.problems.append(Problem(what, remedy))

    @contextmanager
    def catching(self) -> Iterator[None]:
        """Note a UserError, whose message has the remedy, instead of letting it through."""
        try:
            yield
        except UserError as error:
            self.wrong(str(error))

    def verdict(self) -> None:
        """Print the verdict; exit with 1 unless it is "ready"."""
        print(f"dry run took {format_duration(time.perf_counter() - self._started)}; no run made")
        if not self.problems:
            print("verdict: ready", flush=True)
            return
        print(f"verdict: not ready, {len(self.problems)} to put right", flush=True)
        for number, problem in enumerate(self.problems, start=1):
            print(f"  {number}. {problem.text()}", flush=True)
        raise SystemExit(1)
