"""What a search may change: fields of a config, with a range or choices each.

optimizer.learning_rate=log(1e-5,1e-3)      a float, uniform in its logarithm
ppo.gae_lambda=uniform(0.9,1.0)             a float
grpo.num_epochs=int(1,4)                    a whole number; logint(1,64) in its logarithm
grpo.kl.coef=choice(0,0.01,0.1)             one of these; text with a comma in "quotes"
"""

from __future__ import annotations

import csv
import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from rljax.sweeps.overrides import override
from rljax.training.config_json import flatten_config
from rljax.training.errors import ConfigError
from rljax.training.flags import validate

Kind = Literal["log", "uniform", "int", "logint", "choice"]
Value = float | int | str | bool | None
KINDS: tuple[Kind, ...] = ("log", "uniform", "int", "logint", "choice")
FORM = "NAME=log(low,high), uniform(low,high), int(low,high), logint(low,high) or choice(a,b,...)"
_ENTRY = re.compile(r"\s*([\w.-]+)\s*=\s*(\w+)\((.*)\)\s*", re.DOTALL)
_NAMED: dict[str, Value] = {"None": None, "True": True, "False": False}
_COMBINATIONS = 512  # of ends that are tried where fields depend on each other


class Suggests(Protocol):
    """What an axis asks of an Optuna trial."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Draw a float."""
        ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """Draw a whole number."""
        ...

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Draw one of several."""
        ...


@dataclasses.dataclass(frozen=True)
class Axis:
    """One field and what it may be."""

    path: str
    """Dotted, as in the config: "grpo.kl.coef"."""
    kind: Kind
    values: tuple[Value, ...]
    """Low and high, both included; or the choices."""

    def suggest(self, trial: Suggests) -> Value:
        """Let a trial choose."""
        if self.kind == "choice":
            chosen: Value = trial.suggest_categorical(self.path, list(self.values))
            return chosen
        low, high = self.values
        log = self.kind in ("log", "logint")
        if self.kind in ("int", "logint"):
            return trial.suggest_int(self.path, int(low), int(high), log=log)  # type: ignore[arg-type]
        return trial.suggest_float(self.path, float(low), float(high), log=log)  # type: ignore[arg-type]

    def text(self) -> str:
        """Spell the axis as it was given."""
        return f"{self.path}={self.kind}({','.join(map(str, self.values))})"


def parse_axis(entry: str) -> Axis:
    """Read one entry of a space. Raises ConfigError with the form that is wanted."""
    found = _ENTRY.fullmatch(entry)
    if found is None:
        raise ConfigError(f"--space {entry!r} is not of the form {FORM}")
    path, kind, inside = found.groups()
    known = next((name for name in KINDS if name == kind), None)
    if known is None:
        raise ConfigError(f"--space {entry!r}: there is no {kind!r}; take {FORM}")
    items = next(csv.reader([inside], skipinitialspace=True), [])
    values = tuple(_read(item.strip()) for item in items)
    _check_values(entry, known, values)
    return Axis(path.replace("-", "_"), known, values)


def _read(text: str) -> Value:
    if text in _NAMED:
        return _NAMED[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _check_values(entry: str, kind: Kind, values: tuple[Value, ...]) -> None:
    if kind == "choice":
        if len(values) < 2 or len(set(map(repr, values))) < len(values):
            raise ConfigError(f"--space {entry!r}: a choice needs two different values or more")
        return
    wanted: tuple[type, ...] = (int,) if kind in ("int", "logint") else (int, float)
    numbers = [v for v in values if isinstance(v, wanted) and not isinstance(v, bool)]
    if len(values) != 2 or len(numbers) != 2:
        what = "whole numbers" if wanted == (int,) else "numbers"
        raise ConfigError(f"--space {entry!r}: {kind} needs two {what}, low and high")
    low, high = numbers
    if not low < high:  # type: ignore[operator]
        raise ConfigError(f"--space {entry!r}: low must be below high")
    if kind in ("log", "logint") and not low > 0:  # type: ignore[operator]
        raise ConfigError(f"--space {entry!r}: a logarithm needs a low end above 0")


def parse_space(entries: Sequence[str], config: Any) -> tuple[Axis, ...]:
    """Read a space and check every end and choice against a config.

    Raises:
      ConfigError: no entries, a field twice, one that the config lacks (with the nearest name), a
        value of another type, or one that the config refuses whatever the other axes are.
    """
    axes = tuple(map(parse_axis, entries))
    if not axes:
        raise ConfigError(f"give at least one --space {FORM}")
    paths = [axis.path for axis in axes]
    for axis in axes:
        if paths.count(axis.path) > 1:
            raise ConfigError(f"--space {axis.path} is given twice")
        if axis.path in ("seed", "workdir"):
            raise ConfigError(f"--space {axis.path}: the search sets it itself (see --seeds)")
        for value in axis.values:
            _require_type(config, axis, value)
    for axis in axes:
        for value in axis.values:
            _require_possible(config, axis, value, [a for a in axes if a is not axis])
    return axes


def _require_type(config: Any, axis: Axis, value: Value) -> None:
    """Raise ConfigError where a value is of another type than its field; its size comes later."""
    try:
        override(config, {axis.path: value})
        if axis.kind in ("log", "uniform"):
            override(config, {axis.path: float(value) * 0.999})  # type: ignore[arg-type]
    except ConfigError as error:
        number = axis.kind in ("log", "uniform") and isinstance(
            flatten_config(config).get(axis.path), int
        )
        hint = "; a whole number needs int or logint" if number else ""
        raise ConfigError(f"--space {axis.text()}: {error}{hint}") from error


def _require_possible(config: Any, axis: Axis, value: Value, others: Sequence[Axis]) -> None:
    """Raise ConfigError where no ends of the other axes go with a value."""
    first: ConfigError | None = None
    combinations = itertools.product(*(other.values for other in others))
    alone: list[dict[str, Value]] = [{}]
    paths = [other.path for other in others]
    more = (dict(zip(paths, chosen, strict=True)) for chosen in combinations)
    for chosen in itertools.islice(itertools.chain(alone, more), _COMBINATIONS):
        try:
            validate(override(config, {**chosen, axis.path: value}))
            return
        except ConfigError as error:
            first = first or error
    raise ConfigError(f"--space {axis.text()}, at {value!r}: {first}") from first


def apply(config: Any, values: Mapping[str, Value]) -> Any:
    """Return a config with the values of a trial. Raises ConfigError for what cannot be."""
    made = override(config, values)
    validate(made)
    return made


def as_flags(values: Mapping[str, Any]) -> list[str]:
    """Spell values as the flags of a training script: ["--grpo.kl.coef", "0.01", ...]."""
    flags = []
    for path, value in values.items():
        name = path.replace("_", "-")
        if isinstance(value, bool):
            head, _, last = name.rpartition(".")
            flags.append(f"--{head}{'.' * bool(head)}{'' if value else 'no-'}{last}")
        else:
            flags += [f"--{name}", str(value)]
    return flags
