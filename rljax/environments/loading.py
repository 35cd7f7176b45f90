"""Find the environment that a flag names, with its settings.

    path/to/file.py:Class            package.module:Class
    gymnasium:ID                     textarena:ID            reasoning-gym:TASK

each optionally followed by `?key=value&key=value`.
"""

from __future__ import annotations

import importlib
import inspect
import json
import types
from collections.abc import Callable
from typing import Any, Literal, Union, get_args, get_origin
from urllib.parse import parse_qsl

from rljax.environments.text import EnvironmentFailure, TextEnvironment
from rljax.plugins import Plugin

MakeEnvironment = Callable[[], TextEnvironment]
"""Makes one environment of many that are played side by side."""

ADAPTORS = {
    "gymnasium": "rljax.environments.gymnasium:make_gymnasium",
    "textarena": "rljax.environments.textarena:make_textarena",
    "reasoning-gym": "rljax.environments.reasoning:make_reasoning",
}
"""Prefix -> function(name, settings) -> MakeEnvironment; imported where the prefix is used."""
ENVIRONMENT = Plugin(
    "environment",
    "an environment is 'path/to/file.py:Class', 'package.module:Class', 'gymnasium:ID', "
    "'textarena:ID' or 'reasoning-gym:TASK', each with settings behind it as "
    "'?key=value&key=value'",
    EnvironmentFailure,
)


def load_environment(spec: str) -> MakeEnvironment:
    """Return what makes the environments that `spec` names, after one has been made.

    Settings are arguments of the class, converted to the types that its signature names. Raises
    EnvironmentFailure, which names the spec: no such file, module, class, package or game; a
    setting that it does not take, or of another type; a class that cannot be made, or has no
    `reset` and `step`.
    """
    target, _, query = spec.partition("?")
    settings = read_settings(spec, query)
    source, name = ENVIRONMENT.split(target)
    if source in ADAPTORS:
        module, function = ADAPTORS[source].split(":")
        make = getattr(importlib.import_module(module), function)(name, settings)
    else:
        make = _own_class(spec, ENVIRONMENT.load(spec, source, name), settings)
    try:
        first = make()
    except EnvironmentFailure:
        raise
    except Exception as error:
        raise EnvironmentFailure(f"environment {spec!r}: making it failed: {error!r}") from error
    missing = [part for part in ("reset", "step") if not callable(getattr(first, part, None))]
    if missing:
        raise EnvironmentFailure(
            f"environment {spec!r}: {type(first).__name__} has no {' and no '.join(missing)}; it "
            "needs reset(*, seed) and step(text)"
        )
    return make


def read_settings(spec: str, query: str) -> dict[str, str]:
    """Split `key=value&key=value`; raise EnvironmentFailure for anything else."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        pairs = None
    if pairs is None or len(dict(pairs)) < len(pairs):
        raise EnvironmentFailure(
            f"environment {spec!r}: its settings must be key=value&key=value, each key once; they "
            f"are {query!r}"
        )
    return dict(pairs)


def plain_value(text: str) -> Any:
    """Read a setting of unknown type: numbers, true, false, null and lists as JSON, else text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _own_class(spec: str, found: Any, settings: dict[str, str]) -> MakeEnvironment:
    """Bind settings to a class, or to a function that returns an environment."""
    if not callable(found):
        raise EnvironmentFailure(
            f"environment {spec!r}: it must be a class, it is a {type(found).__name__}"
        )
    arguments = typed_settings(f"environment {spec!r}", found, settings)
    return lambda: found(**arguments)


def typed_settings(where: str, function: Any, settings: dict[str, str]) -> dict[str, Any]:
    """Convert settings to the types of a function's arguments (of a class: its constructor's).

    Raises EnvironmentFailure for one that it does not take, and for a value of another type.
    """
    parameters = inspect.signature(function, eval_str=True).parameters
    named = [
        n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    made = {}
    for name, text in settings.items():
        if name not in named and not open_ended:
            raise EnvironmentFailure(f"{where}: there is no setting {name!r}; it has {named}")
        kind = parameters[name].annotation if name in parameters else Any
        fits, made[name] = _convert(text, kind)
        if not fits:
            shown = getattr(kind, "__name__", str(kind)) if not get_args(kind) else str(kind)
            raise EnvironmentFailure(f"{where}: {name} is {text!r}; it must be {shown}")
    return made


def _convert(text: str, kind: Any) -> tuple[bool, Any]:
    """Read a text as a value of a type: does it fit, and the value."""
    origin, choices = get_origin(kind), get_args(kind)
    value = plain_value(text)
    if kind is Any or kind is inspect.Parameter.empty:
        return True, value
    if origin in (Union, types.UnionType):
        found = [_convert(text, choice) for choice in choices]
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
