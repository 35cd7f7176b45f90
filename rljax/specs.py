"""Find the class that a flag names, and give it its settings: `NAME?key=value&key=value`.

NAME is a short name of a table, `package.module:Class`, or `path/to/file.py:Class`.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import json
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Union, get_args, get_origin
from urllib.parse import parse_qsl

from rljax.errors import UserError


class SpecError(UserError, ValueError):
    """A flag that names something which is not there, or settings that do not fit it."""


def split_spec(spec: str) -> tuple[str, dict[str, str]]:
    """Split `NAME?key=value&key=value` into the name and the settings, as texts.

    Raises SpecError where what follows the question mark is no list of settings.
    """
    name, _, query = spec.partition("?")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise SpecError(
            f"{spec!r}: expected key=value&key=value after '?', got {query!r}"
        ) from None
    settings = dict(pairs)
    if len(settings) < len(pairs):
        raise SpecError(f"{spec!r}: a setting stands there twice")
    return name, settings


def load_module(source: str, *, what: str) -> ModuleType:
    """Import `package.module`, or a file `path/to/file.py` under a name of its own.

    what: how messages begin, such as "reward 'mine.py:score'". Raises SpecError, with the remedy,
    where there is none or it fails.
    """
    if source.endswith(".py"):
        return _load_file(Path(source), what)
    try:
        return importlib.import_module(source)
    except ModuleNotFoundError as error:
        raise SpecError(
            f"{what}: cannot import {source!r}: {error}; a file needs its .py"
        ) from error
    except Exception as error:
        raise SpecError(f"{what}: importing {source!r} failed: {error!r}") from error


def _load_file(path: Path, what: str) -> ModuleType:
    """Import a Python file, once, so that it shadows no module and no other file."""
    path = path.expanduser().resolve()
    if not path.is_file():
        raise SpecError(f"{what}: there is no file {path}")
    name = f"rljax_user_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    module_spec = importlib.util.spec_from_file_location(name, path)
    if module_spec is None or module_spec.loader is None:
        raise SpecError(f"{what}: {path} cannot be read as a Python module")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise SpecError(f"{what}: running {path} failed: {error!r}") from error
    return module


def load_class(name: str, base: type, known: Mapping[str, str], *, what: str) -> type:
    """Find a class of kind `base` by its short name in `known`, or by `module:Class`.

    Raises SpecError naming what there is.
    """
    source, colon, member = known.get(name, name).rpartition(":")
    if not colon or not source or not member:
        near = difflib.get_close_matches(name, known, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise SpecError(
            f"unknown {what} {name!r}{hint}: it is one of {sorted(known)}, "
            "'package.module:Class' or 'path/to/file.py:Class'"
        )
    module = load_module(source, what=f"{what} {name!r}")
    found = getattr(module, member, None)
    if not (isinstance(found, type) and issubclass(found, base)):
        there = sorted(
            n for n, v in vars(module).items() if isinstance(v, type) and issubclass(v, base)
        )
        raise SpecError(
            f"{what} {name!r}: {source} has no class {member!r} of the kind {base.__name__}; "
            f"it has {there}"
        )
    return found


def construct(kind: type, settings: Mapping[str, str], *, what: str) -> Any:
    """Call a class with settings given as texts, read as its constructor's annotations say.

    Raises SpecError as `typed_settings`, and for what the constructor refuses (ValueError,
    TypeError).
    """
    given = typed_settings(what, kind, settings)
    try:
        return kind(**given)
    except (TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise SpecError(f"{what}: {error}") from error


def typed_settings(what: str, function: Any, settings: Mapping[str, str]) -> dict[str, Any]:
    """Convert settings to the types of a function's arguments (of a class: its constructor's).

    what: how messages begin. Raises SpecError for one that it does not take, and for a value of
    another type.
    """
    parameters = inspect.signature(function, eval_str=True).parameters
    named = [
        n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    made = {}
    for name, text in settings.items():
        if name not in named and not open_ended:
            near = difflib.get_close_matches(name, named, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise SpecError(f"{what}: there is no setting {name!r}{hint}; it has {named}")
        annotation = parameters[name].annotation if name in named else Any
        kind: Any = Any if annotation is inspect.Parameter.empty else annotation
        fits, made[name] = _convert(text, kind)
        if not fits:
            raise SpecError(f"{what}: {name} is {text!r}; it must be {_show(kind)}")
    return made


def _show(kind: Any) -> str:
    """Spell a type as a message does."""
    if get_origin(kind) is Literal:
        return f"one of {get_args(kind)}"
    return str(kind) if get_args(kind) else getattr(kind, "__name__", str(kind))


def plain_value(text: str) -> Any:
    """Read a setting of unknown type: numbers, true, false, null and lists as JSON, else text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _convert(text: str, kind: Any) -> tuple[bool, Any]:
    """Read a text as a value of a type: does it fit, and the value."""
    origin, choices = get_origin(kind), get_args(kind)
    value = plain_value(text)
    if kind is Any:
        return True, value
    if origin in (Union, types.UnionType):
        found = [_convert(text, choice) for choice in sorted(choices, key=lambda c: c is str)]
        return next((pair for pair in found if pair[0]), (False, None))
    if origin is Literal:
        matching = [choice for choice in choices if text == str(choice)]
        return bool(matching), matching[0] if matching else None
    if kind is str:
        return True, text
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number, float(value) if number else None
    if kind in (tuple, list) or origin in (tuple, list):
        return isinstance(value, list), (origin or kind)(value) if isinstance(value, list) else None
    if kind in (int, bool, type(None)):
        return type(value) is kind, value
    return True, value
