"""Find the environment that a flag names, with its settings.

    path/to/file.py:Class            package.module:Class
    gymnasium:ID                     textarena:ID            reasoning-gym:TASK

each optionally followed by `?key=value&key=value`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from rljax.environments.text import EnvironmentFailure, TextEnvironment
from rljax.specs import SpecError, load_module, split_spec, typed_settings

MakeEnvironment = Callable[[], TextEnvironment]
"""Makes one environment of many that are played side by side."""

ADAPTORS = {
    "gymnasium": "rljax.environments.gymnasium:make_gymnasium",
    "textarena": "rljax.environments.textarena:make_textarena",
    "reasoning-gym": "rljax.environments.reasoning:make_reasoning",
}
"""Prefix -> function(name, settings) -> MakeEnvironment; imported where the prefix is used."""
FORMS = (
    "an environment is 'path/to/file.py:Class', 'package.module:Class', 'gymnasium:ID', "
    "'textarena:ID' or 'reasoning-gym:TASK', each with settings behind it as '?key=value&key=value'"
)


def load_environment(spec: str) -> MakeEnvironment:
    """Return what makes the environments that `spec` names, after one has been made.

    Settings are arguments of the class, converted to the types that its signature names. Raises
    EnvironmentFailure, which names the spec: no such file, module, class, package or game; a
    setting that it does not take, or of another type; a class that cannot be made, or has no
    `reset` and `step`.
    """
    try:
        target, settings = split_spec(spec)
        make = _find(spec, target, settings)
    except SpecError as error:
        raise EnvironmentFailure(str(error)) from error
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


def _find(spec: str, target: str, settings: dict[str, str]) -> MakeEnvironment:
    """Find what an adaptor, a module or a file makes with these settings."""
    prefix, _, rest = target.partition(":")
    if prefix in ADAPTORS and rest:
        place, function = ADAPTORS[prefix].split(":")
        return getattr(importlib.import_module(place), function)(rest, settings)
    source, _, name = target.rpartition(":")
    if not source or not name:
        raise EnvironmentFailure(f"unknown environment {spec!r}: {FORMS}")
    module = load_module(source, what=f"environment {spec!r}")
    found = getattr(module, name, None)
    if found is None:
        things = vars(module).items()
        known = sorted(n for n, v in things if callable(v) and not n.startswith("_"))
        raise EnvironmentFailure(f"environment {spec!r}: {source} has no {name!r}; it has {known}")
    return _own_class(spec, found, settings)


def _own_class(spec: str, found: Any, settings: dict[str, str]) -> MakeEnvironment:
    """Bind settings to a class, or to a function that returns an environment."""
    if not callable(found):
        raise EnvironmentFailure(
            f"environment {spec!r}: it must be a class, it is a {type(found).__name__}"
        )
    arguments = typed_settings(f"environment {spec!r}", found, settings)
    return lambda: found(**arguments)
