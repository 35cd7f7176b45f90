"""Check the fields of a record: the text that must be there, the label that must be known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from rljax.tasks.reading.errors import DataError


def nearest(name: str, names: Iterable[str]) -> str:
    """Return " (did you mean 'text'?)" where one of the names is like `name`, else ""."""
    known = {str(other).strip().lower(): str(other) for other in names}
    near = difflib.get_close_matches(name.strip().lower(), known, 1)
    return f" (did you mean {known[near[0]]!r}?)" if near else ""


def require_field(where: str, fields: Mapping[str, Any], name: str, flag: str = "") -> Any:
    """Return a field's value; DataError, naming those that are there, where it is missing.

    flag: the flag that names the field, for the message.
    """
    if name in fields:
        return fields[name]
    named = f" (the flag {flag} names it)" if flag else ""
    there = sorted(str(other) for other in fields)
    raise DataError(
        f"{where}: expected a field {name!r}{named}, found {there}{nearest(name, there)}"
    )


def require_text(
    where: str, fields: Mapping[str, Any], name: str, flag: str = "", *, blank: bool = False
) -> str:
    """Return a field that must be a text that is not empty.

    blank: white space alone will do. Raises DataError for another type, an empty text, and one
    that no encoding can write.
    """
    value = require_field(where, fields, name, flag)
    if not isinstance(value, str) or not (value if blank else value.strip()):
        kind = "" if isinstance(value, str) else f" ({type(value).__name__})"
        raise DataError(
            f"{where}: expected a text in {name!r} that is not empty, got {value!r}{kind}"
        )
    if not value.isascii():
        check_writable(where, value, name)
    return value


def check_writable(where: str, text: str, name: str) -> None:
    """Raise DataError for half of a surrogate pair, which JSON's escapes can spell."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: {name!r} holds {text[error.start]!r}, half of a surrogate pair: no text"
        ) from None


class Labels:
    """The labels that there may be; any other is an error that names them.

    Args:
      allowed: the labels.
      what: what they are called in messages, such as "label" or "entity type".
    """

    def __init__(self, allowed: Iterable[str], what: str = "label") -> None:
        self.allowed = tuple(dict.fromkeys(allowed))
        self.what = what
        if not self.allowed:
            raise ValueError(f"at least one {what} must be allowed")

    def problem(self, value: Any) -> str:
        """Say what is wrong with a label, and which ones are allowed; "" for one that is."""
        if isinstance(value, str) and value in self.allowed:
            return ""
        hint = nearest(value, self.allowed) if isinstance(value, str) else ""
        return f"unknown {self.what} {value!r}{hint}; allowed are {list(self.allowed)}"

    def check(self, where: str, value: Any) -> str:
        """Return a label that is allowed.

        Raises DataError naming the place, the label, and those that are allowed.
        """
        problem = self.problem(value)
        if problem:
            raise DataError(f"{where}: {problem}")
        return value
