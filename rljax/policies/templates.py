"""Answer by rule: a function of one's own, or a template filled from what was asked."""

from __future__ import annotations

import dataclasses
import re
import string
from collections.abc import Callable, Sequence

from rljax.tasks.language import Example


@dataclasses.dataclass(frozen=True)
class Template:
    """Write `text` with its fields filled from the observation.

    The fields are {observation}, {first_line}, {last_line}, {first_word}, {last_word}, and the
    named groups of `pattern`: text="Hello {name}!", pattern="my name is (?P<name>[a-z]*)". Raises
    ValueError for a pattern that is none, and for a field that there is not.
    """

    text: str
    """What is written; braces of its own are doubled."""
    pattern: str | None = None
    """A regular expression, searched for in the observation without regard to case."""
    otherwise: str = ""
    """What is written where the pattern is not found; needs `pattern`."""

    def __post_init__(self) -> None:
        try:
            groups = set(re.compile(self.pattern or "").groupindex)
            fields = {name for _, name, _, _ in string.Formatter().parse(self.text) if name}
        except (re.error, ValueError) as error:
            raise ValueError(f"the template {self.text!r} or its pattern: {error}") from None
        if self.otherwise and self.pattern is None:
            raise ValueError("otherwise is for a pattern that is not found: give a pattern, too")
        known = set(_fields("")) | groups
        if fields - known:
            raise ValueError(f"no fields {sorted(fields - known)}; there are {sorted(known)}")

    def fit(self, train: Sequence[Example]) -> Template:
        """Return the template: it learns nothing from examples."""
        del train
        return self

    def act(self, observations: Sequence[str]) -> list[str]:
        """Fill the template for each observation."""
        return [self._fill(observation) for observation in observations]

    def _fill(self, observation: str) -> str:
        fields = _fields(observation)
        if self.pattern is not None:
            found = re.search(self.pattern, observation, re.IGNORECASE)
            if found is None:
                return self.otherwise
            fields |= {name: text or "" for name, text in found.groupdict().items()}
        return self.text.format(**fields)


def _fields(observation: str) -> dict[str, str]:
    lines, words = observation.strip().splitlines() or [""], observation.split() or [""]
    return {
        "observation": observation,
        "first_line": lines[0],
        "last_line": lines[-1],
        "first_word": words[0],
        "last_word": words[-1],
    }


@dataclasses.dataclass(frozen=True)
class FunctionPolicy:
    """A rule written as a function of the list of observations."""

    function: Callable[[Sequence[str]], Sequence[str]]

    def act(self, observations: Sequence[str]) -> list[str]:
        """Return what the function makes of the observations."""
        made = self.function(list(observations))
        return list(made) if isinstance(made, tuple) else made  # type: ignore[return-value]
