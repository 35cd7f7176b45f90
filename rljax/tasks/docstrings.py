"""Read docstrings from Python source: a first line that sums up, and the text that it sums up.

Files are parsed, never imported. The standard library of the Python that runs this is the data; its
docstrings differ a little between versions.
"""

from __future__ import annotations

import ast
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from rljax.tasks.sources import DataError

STDLIB = "stdlib"
WHAT = "the task summarisation"
SKIPPED = {"test", "tests", "idle_test", "__pycache__", "site-packages", "lib2to3", "idlelib"}
"""Folders that are not read: tests, what is installed, and programs that are no library."""
MIN_SUMMARY_WORDS, MAX_SUMMARY_WORDS = 3, 20
MIN_BODY_WORDS = 12
_SIGNATURE = re.compile(r"->|\w\(.*\)$|^[\w.]+\(|^[A-Z_]+$|^usage:", re.IGNORECASE)
_RULE = re.compile(r"^[-=~*#+|_ ]{3,}$")


class Docstring(NamedTuple):
    """The docstring of a module, class or function, in two parts."""

    summary: str
    body: str
    module: str
    """The top-level module: what the split goes by."""
    where: str


def read_docstrings(source: str, *, max_chars: int) -> list[Docstring]:
    """Read the docstrings that have a summary line, a blank line and a text, in a fixed order.

    source: "stdlib", or a folder of Python files. The text is cut after the last sentence (or word)
    within max_chars. Left out: summaries of fewer than 3 or more than 20 words, or that are a
    signature; texts of fewer than 12 words; and of equal summaries or texts all but the first.
    Raises DataError for a folder that is not there and for a file that is no Python.
    """
    found: list[Docstring] = []
    seen: set[str] = set()
    for module, path in _files(source):
        for line, text in _texts(path):
            parts = split_docstring(text, max_chars)
            if parts is None:
                continue
            keys = {_spelled(part) for part in parts}
            if not keys & seen:
                found.append(Docstring(*parts, module, f"{path}:{line}"))
            seen |= keys
    return found


def split_docstring(text: str, max_chars: int) -> tuple[str, str] | None:
    """Split a cleaned docstring into summary and body; None where it has not this form."""
    first, _, rest = text.strip().partition("\n")
    if not rest.startswith("\n"):  # the first line goes on, or nothing follows
        return None
    summary = " ".join(first.split())
    words = len(summary.split())
    if not MIN_SUMMARY_WORDS <= words <= MAX_SUMMARY_WORDS or _SIGNATURE.search(summary):
        return None
    body = _cut(" ".join(_prose(rest)), max_chars)
    if len(body.split()) < MIN_BODY_WORDS:
        return None
    return summary, body


def _prose(text: str) -> Iterator[str]:
    """Yield the words of a text up to its first doctest, without lines of marks."""
    for line in text.splitlines():
        if line.lstrip().startswith(">>>"):
            return
        if not _RULE.match(line.strip()):
            yield from line.split()


def _cut(text: str, max_chars: int) -> str:
    """Cut a text after the last sentence that fits, or the last word where no sentence does."""
    if len(text) <= max_chars:
        return text
    head = text[: max_chars + 1]
    ends = [match.end() for match in re.finditer(r"[.!?:](?=\s)", head)]
    if ends and ends[-1] >= max_chars // 2:
        return head[: ends[-1]]
    return head[:max_chars].rpartition(" ")[0]


def _spelled(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def _texts(path: Path) -> list[tuple[int, str]]:
    """Return the docstrings of a file, each with its line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old escapes in the strings of others
            tree = ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise DataError(f"{path}:{line}: not Python that can be parsed: {error}") from None
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    texts = []
    for node in ast.walk(tree):
        if isinstance(node, kinds):
            text = ast.get_docstring(node)
            if text:
                texts.append((node.body[0].lineno, text))
    return sorted(texts)


def _files(source: str) -> Iterable[tuple[str, Path]]:
    """Find (top-level module, file), sorted by the path below the root."""
    if source == STDLIB:
        root = Path(sysconfig.get_paths()["stdlib"])
        wanted = sys.stdlib_module_names
    else:
        root = Path(source).expanduser()
        if not root.is_dir():
            raise DataError(
                f"{WHAT}: source is {source!r}; it must be 'stdlib' or a folder of Python files"
            )
        wanted = None
    below = sorted(path.relative_to(root) for path in root.rglob("*.py"))
    for path in below:
        module = path.parts[0].removesuffix(".py")
        if (wanted is None or module in wanted) and not SKIPPED & set(path.parts):
            yield module, root / path
