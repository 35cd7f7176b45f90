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
import typing
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
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

    Raises SpecError for a setting that it does not take, one that does not fit its type, and for
    what the constructor itself refuses (ValueError, TypeError).
    """
    parameters = inspect.signature(kind, eval_str=True).parameters
    given = {}
    for name, text in settings.items():
        if name not in parameters:
            near = difflib.get_close_matches(name, parameters, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise SpecError(f"{what} takes no setting {name!r}{hint}: it has {sorted(parameters)}")
        given[name] = _read(text, parameters[name].annotation, f"{what}: the setting {name}")
    try:
        return kind(**given)
    except (TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise SpecError(f"{what}: {error}") from error


def _read(text: str, hint: Any, what: str) -> Any:
    """Read a setting: a text stays one; other types are written as JSON writes them."""
    kinds = typing.get_args(hint) if _is_union(hint) else (hint,)
    if hint is inspect.Parameter.empty:
        kinds = (str,)
    if type(None) in kinds and text in ("None", "null"):
        return None
    if str in kinds:
        return text
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = {"True": True, "False": False}.get(text, text)
    if float in kinds and type(value) is int:
        return float(value)
    if typing.get_origin(kinds[0]) is tuple and isinstance(value, list):
        return tuple(value)
    if typing.get_origin(kinds[0]) is typing.Literal:
        if text not in typing.get_args(kinds[0]):
            raise SpecError(f"{what} is {text!r}; it must be one of {typing.get_args(kinds[0])}")
        return text
    if type(value) not in kinds:
        names = " or ".join(getattr(k, "__name__", str(k)) for k in kinds if k is not type(None))
        raise SpecError(f"{what} is {text!r}; it must be {names}")
    return value


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)
