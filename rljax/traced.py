"""Numbers of a config that may be traced: one program for many learning rates, clips, seeds.

A config's rules are checked on plain numbers, before anything is traced (`set_numbers`); in a trace
there is nothing to compare.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

import jax

Config = TypeVar("Config")


def is_zero(number: Any) -> bool:
    """Say whether a number switches something off; a traced one never does."""
    return not isinstance(number, jax.core.Tracer) and number == 0


def is_one(share: Any) -> bool:
    """Say whether a share takes all of something; a traced one never does."""
    return not isinstance(share, jax.core.Tracer) and share == 1


def check(config: Any) -> None:
    """Call config.validate(), unless one of its numbers is traced: they have been validated."""
    if not _traced(config):
        config.validate()


def _traced(value: Any) -> bool:
    if not dataclasses.is_dataclass(value):
        return isinstance(value, jax.core.Tracer)
    return any(_traced(getattr(value, field.name)) for field in dataclasses.fields(value))


def set_numbers(config: Config, numbers: Mapping[str, Any]) -> Config:
    """Return a copy of nested dataclasses with other values at dotted paths, {"ppo.gamma": 1.0}.

    Raises ValueError for a field that does not exist, and what the dataclasses raise.
    """
    for path, number in numbers.items():
        name, _, rest = path.partition(".")
        if name not in {field.name for field in dataclasses.fields(config)}:  # type: ignore[arg-type]
            raise ValueError(f"{type(config).__name__} has no field {name!r}")
        value = set_numbers(getattr(config, name), {rest: number}) if rest else number
        config = dataclasses.replace(config, **{name: value})  # type: ignore[type-var]
    return config


def set_traced(config: Config, numbers: Mapping[str, jax.Array]) -> Config:
    """Do as `set_numbers` with traced numbers: no rule is checked, also not at construction."""
    made = copy.copy(config)
    for path, number in numbers.items():
        name, _, rest = path.partition(".")
        value = set_traced(getattr(made, name), {rest: number}) if rest else number
        object.__setattr__(made, name, value)  # what is frozen calls its rules
    return made
