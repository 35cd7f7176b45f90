"""Rules of configs, with messages that name the flag, its value and what it must be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def require(config: Any, rules: Mapping[str, tuple[bool, str]], prefix: str = "") -> None:
    """Raise ValueError for the first field whose rule, (does it hold, in words), does not hold."""
    for name, (good, rule) in rules.items():
        if not good:
            raise ValueError(f"{prefix}{name} is {getattr(config, name)}; it must be {rule}")


def require_positive(config: Any, names: Iterable[str], prefix: str = "") -> None:
    """Raise ValueError for the first of these fields that is below 1."""
    rules = {name: (getattr(config, name) >= 1, "at least 1") for name in names}
    require(config, rules, prefix)


def require_whole_parts(config: Any, prefix: str = "") -> None:
    """Raise ValueError unless gradient_accumulation divides batch_size."""
    if config.batch_size % config.gradient_accumulation:
        raise ValueError(
            f"{prefix}batch_size {config.batch_size} is not a multiple of gradient_accumulation "
            f"{config.gradient_accumulation}"
        )
