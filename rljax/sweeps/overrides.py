"""Other values at dotted paths of a config, of the types that its dataclasses declare."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from rljax.training.config_json import config_to_json, typed_value
from rljax.training.errors import ConfigError

Config = TypeVar("Config")


def override(config: Config, changes: Mapping[str, Any]) -> Config:
    """Return a config with other values at dotted paths, `{"grpo.kl.coef": 0.03}`.

    A whole number stands for a float; a list for a tuple; an enum may be given by its name, and a
    dataclass as the dict of its fields.

    Raises:
      ConfigError: a path that does not exist, with the nearest one; a value of another type; what
        the dataclasses refuse.
    """
    return _set(config, dict(changes), "")


def _set(config: Any, changes: dict[str, Any], where: str) -> Any:
    """Change the fields of one dataclass together, so that rules between them see the result."""
    values: dict[str, Any] = {}
    deeper: dict[str, dict[str, Any]] = {}
    for path, value in changes.items():
        name, _, rest = path.partition(".")
        whole = f"{where}{path}"
        if not dataclasses.is_dataclass(config) or isinstance(config, type):
            raise ConfigError(f"{whole}: {where[:-1]} is {config!r}, which has no fields")
        if name not in {field.name for field in dataclasses.fields(config) if field.init}:
            kind, hint = type(config).__name__, _hint(config, name)
            raise ConfigError(f"{whole}: {kind} has no field {name!r}{hint}")
        if rest:
            deeper.setdefault(name, {})[rest] = value
        else:
            values[name] = _typed(typing.get_type_hints(type(config))[name], value, whole)
    for name, inner in deeper.items():
        start = values.get(name, getattr(config, name))
        values[name] = _set(start, inner, f"{where}{name}.")
    try:
        return dataclasses.replace(config, **values)
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        given = ", ".join(f"{where}{path} = {value!r}" for path, value in changes.items())
        raise ConfigError(f"{given}: {error}") from error


def _hint(config: Any, name: str) -> str:
    """Name the nearest fields, of this dataclass or of those in it."""
    names = [field.name for field in dataclasses.fields(config)]
    near = difflib.get_close_matches(name, names, 1)
    deeper = [path for path in field_paths(config) if path.rpartition(".")[2] == name]
    found = near or deeper[:2]
    return f"; did you mean {' or '.join(found)}?" if found else f"; it has {', '.join(names)}"


def field_paths(config: Any) -> list[str]:
    """List the dotted paths of all fields of a config, those of branches included."""
    paths = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        paths.append(field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            paths += [f"{field.name}.{path}" for path in field_paths(value)]
    return paths


def has_field(config: Any, path: str) -> bool:
    """Say whether a config has a field at a dotted path."""
    for name in path.split("."):
        if not dataclasses.is_dataclass(config):
            return False
        if name not in {field.name for field in dataclasses.fields(config)}:
            return False
        config = getattr(config, name)
    return True


def _typed(kind: Any, value: Any, path: str) -> Any:
    """Return a value as a field of type `kind` holds it, or raise ConfigError."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        allowed = typing.get_args(kind) or (kind,)
        if not any(isinstance(option, type) and isinstance(value, option) for option in allowed):
            name = getattr(kind, "__name__", kind)
            raise ConfigError(f"{path} is a {type(value).__name__}, not {name}")
        return value
    return typed_value(kind, config_to_json(value), path)


def fill(value: Any, names: Mapping[str, str]) -> Any:
    """Replace `{name}` in every string of a config by what `names` has for it."""
    if isinstance(value, str):
        for name, text in names.items():
            value = value.replace(f"{{{name}}}", text)
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        old = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        new = {name: fill(item, names) for name, item in old.items()}
        changed = {name: item for name, item in new.items() if item is not old[name]}
        return dataclasses.replace(value, **changed) if changed else value
    if type(value) in (tuple, list):
        made = type(value)(fill(item, names) for item in value)
        return value if made == value else made
    if type(value) is dict:
        filled = {key: fill(item, names) for key, item in value.items()}
        return value if filled == value else filled
    return value
