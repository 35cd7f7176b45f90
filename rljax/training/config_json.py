"""Trees of frozen dataclasses to JSON and back, so that a run directory knows its config."""

from __future__ import annotations

import dataclasses
import enum
import math
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from rljax.training.errors import ConfigError

Config = TypeVar("Config")


def config_to_json(config: Any) -> Any:
    """Return a config as what JSON can hold.

    Dataclasses become objects, tuples lists, enums their names, paths strings, and infinite or
    NaN floats strings.

    Raises:
      ConfigError: naming the field whose value has no place in JSON.
    """
    return _to_json(config, "")


def _to_json(value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _to_json(getattr(value, field.name), _join(where, field.name))
            for field in dataclasses.fields(value)
        }
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [_to_json(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _to_json(item, _join(where, key)) for key, item in value.items()}
    raise ConfigError(f"{where or 'config'} is a {type(value).__name__}, which JSON cannot hold")


def config_from_json(config_type: type[Config], data: Any) -> Config:
    """Return the config that `config_to_json` turned into `data`.

    Fields that `data` lacks take their defaults (the run is older than the field).

    Raises:
      ConfigError: naming the field that is unknown, lacks a value, or does not fit its type.
    """
    return _from_json(config_type, data, "")


def typed_value(kind: Any, data: Any, where: str) -> Any:
    """Return what JSON holds of one field, as a value of the field's type.

    where: the field's path, for messages. Raises ConfigError where it does not fit.
    """
    return _from_json(kind, data, where)


def _from_json(kind: Any, data: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return data
    if origin is typing.Annotated:
        return _from_json(arguments[0], data, where)
    if origin in (typing.Union, types.UnionType):
        return _from_union(arguments, data, where)
    if origin is typing.Literal:
        if data in arguments:
            return data
    elif dataclasses.is_dataclass(kind):
        if isinstance(data, dict):
            return _from_object(kind, data, where)
    elif kind in (tuple, list) or origin in (tuple, list):
        if isinstance(data, list):
            return (origin or kind)(_items(arguments, data, where))
    elif kind is dict or origin is dict:
        if isinstance(data, dict):
            item = arguments[1] if arguments else Any
            return {key: _from_json(item, one, _join(where, key)) for key, one in data.items()}
    else:
        return _from_scalar(kind, data, where)
    raise _misfit(kind, data, where)


def _from_object(kind: Any, data: dict[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    for name in data:
        if name not in fields:
            raise ConfigError(f"{_join(where, name)} is not a field of {kind.__name__}")
    values = {
        name: _from_json(hints[name], data[name], _join(where, name))
        for name in fields
        if name in data
    }
    for name, field in fields.items():
        default = field.default is dataclasses.MISSING
        if name not in values and default and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{_join(where, name)} has no value")
    return kind(**values)


def _from_union(arguments: tuple[Any, ...], data: Any, where: str) -> Any:
    if data is None and type(None) in arguments:
        return None
    reasons = []
    for argument in arguments:
        if argument is type(None):
            continue
        try:
            return _from_json(argument, data, where)
        except ConfigError as error:
            reasons.append(str(error))
    raise ConfigError("; ".join(reasons))


def _items(arguments: tuple[Any, ...], data: list[Any], where: str) -> list[Any]:
    if not arguments:
        kinds = [Any] * len(data)
    elif len(arguments) == 1 or arguments[1] is Ellipsis:
        kinds = [arguments[0]] * len(data)
    elif len(arguments) == len(data):
        kinds = list(arguments)
    else:
        raise ConfigError(f"{where} has {len(data)} items, not {len(arguments)}")
    return [
        _from_json(kind, item, f"{where}[{index}]")
        for index, (kind, item) in enumerate(zip(kinds, data, strict=True))
    ]


def _from_scalar(kind: Any, data: Any, where: str) -> Any:
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        if data in kind.__members__:
            return kind[data]
    elif isinstance(kind, type) and issubclass(kind, Path):
        if isinstance(data, str):
            return kind(data)
    elif kind is float:
        if isinstance(data, int | float) and not isinstance(data, bool):
            return float(data)
        if data in ("inf", "-inf", "nan"):
            return float(data)
    elif kind is type(None):
        if data is None:
            return None
    elif kind in (bool, int, str) and type(data) is kind:
        return data
    raise _misfit(kind, data, where)


def _misfit(kind: Any, data: Any, where: str) -> ConfigError:
    name = getattr(kind, "__name__", None) if not typing.get_args(kind) else None
    return ConfigError(f"{where or 'config'} is {data!r}, not {name or kind}")


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def flatten_config(config: Any) -> dict[str, Any]:
    """Return {"ppo.clip_eps": 0.2, ...} of a config or of its JSON form."""
    flat: dict[str, Any] = {}

    def walk(value: Any, where: str) -> None:
        if isinstance(value, dict) and (value or not where):
            for name, item in value.items():
                walk(item, _join(where, name))
        else:
            flat[where] = value

    walk(config_to_json(config), "")
    return flat


def differences(
    before: Any, after: Any, ignore: tuple[str, ...] = ()
) -> list[tuple[str, str, str]]:
    """Return (field, before, after) of all fields in which two configs differ.

    Args:
      before, after: configs, or their JSON form.
      ignore: fields left out, e.g. "steps", or whole branches, e.g. "logging".
    """
    old, new = flatten_config(before), flatten_config(after)
    rows = []
    for name in dict.fromkeys([*new, *old]):
        ignored = any(name == field or name.startswith(f"{field}.") for field in ignore)
        missing = name not in old or name not in new
        if not ignored and (missing or old[name] != new[name]):
            texts = [repr(flat[name]) if name in flat else "(no such field)" for flat in (old, new)]
            rows.append((name, texts[0], texts[1]))
    return rows
