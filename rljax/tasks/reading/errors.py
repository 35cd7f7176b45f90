"""What is said of data that cannot be read, and the counting of lines that are left out."""

from __future__ import annotations

from rljax.errors import UserError


class DataError(UserError, ValueError):
    """Data that is missing, malformed or empty; the message names the file and the line."""


class BadLines:
    """Raise for the first malformed line, or count them and keep the first.

    Args:
      skip: count instead of raising.
    """

    def __init__(self, *, skip: bool = False) -> None:
        self.skip = skip
        self.count = 0
        self.first = ""

    def report(self, problem: str) -> None:
        """Take note of a line, sentence or row that is left out.

        problem: "FILE:LINE: what was expected, what was found". Raises DataError unless `skip`.
        """
        if not self.skip:
            raise DataError(problem)
        self.count += 1
        self.first = self.first or problem

    def finish(self, source: str, good: int) -> str:
        """Say how many were left out beside `good` ones that were read; "" for none.

        Raises DataError where more than half are bad: then it is the wrong file, format or flag.
        """
        if not self.count:
            return ""
        if self.count > good:
            raise DataError(
                f"{source}: {self.count} of {self.count + good} lines are bad, which is more than "
                f"half, too many to leave out; the first: {self.first}"
            )
        lines = "line" if self.count == 1 else "lines"
        return f"{self.count} bad {lines} left out of {source}, the first: {self.first}"
