"""What a sweep is: a base config, arms that change it, seeds, metrics and claims.

A file in configs/ablations/ holds `cpu = Sweep(...)` and, of the paper's size, `full = Sweep(...)`:

    cpu = Sweep(
        name="kl_coefficient",
        base=GRPOExperiment(...),
        arms=grid(**{"grpo.kl.coef": [0.0, 0.03, 0.3]}),
        seeds=(0, 1, 2, 3, 4),
        metrics={"score": last("eval/scores"), "KL": last("eval/kl")},
        claims=(Claim("a larger coefficient lowers the KL", "KL", "coef=0.3", "<", "coef=0"),),
    )
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rljax.sweeps.claims import Claim as Claim
from rljax.sweeps.claims import Table as Table
from rljax.sweeps.overrides import field_paths, fill, has_field, override
from rljax.sweeps.readers import Reader
from rljax.sweeps.readers import at as at
from rljax.sweeps.readers import first_step_where as first_step_where
from rljax.sweeps.readers import last as last
from rljax.sweeps.readers import less_kl as less_kl
from rljax.sweeps.readers import maximum as maximum
from rljax.sweeps.readers import mean_of_last as mean_of_last
from rljax.training.errors import ConfigError
from rljax.training.flags import find_config, run_file, validate

BASE = "base"
"""Key of an arm whose value replaces the base config, for arms of another algorithm."""
STAGES = "stages"
"""`{stages}` in a string of a config is the folder that holds the stages' run directories."""
_NAME = re.compile(r"[A-Za-z0-9+_][A-Za-z0-9+_.,=-]*")
Arm = Mapping[str, Any]
Program = Callable[[Any, Path], None]


@dataclasses.dataclass(frozen=True)
class StageSpec:
    """A run that all cells build on, such as the pretraining of their model; made once."""

    config: Any
    """An experiment's config."""
    smoke: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Overrides that make it tiny."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a sweep."""

    arm: str
    seed: int
    config: Any
    """Resolved; `{stages}` still stands in it."""

    @property
    def name(self) -> str:
        """Its run directory under cells/."""
        return f"{self.arm}/seed{self.seed}"


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Arms of an experiment with their seeds, what is measured, and what is claimed beforehand."""

    name: str
    base: Any
    """An experiment's config, of rljax.experiment; with `program` any frozen dataclass."""
    arms: Mapping[str, Arm]
    """{arm: {dotted path: value}}, see `grid`, `zipped` and `chain`. Key "base" replaces the base,
    before the arm's other overrides."""
    seeds: tuple[int, ...]
    """Each is the `seed` of a run of every arm."""
    metrics: Mapping[str, Reader]
    """{name: what is read out of a run's record}."""
    claims: tuple[Claim, ...] = ()
    program: str | Program | None = None
    """For cells that measure rather than train: fn(config, run_dir), or "FILE.py:function"; it
    writes metrics.jsonl into run_dir, with `MetricsWriter`. None: the script of the config."""
    stages: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """{name: StageSpec or a config}, trained in this order before the cells, each into
    `{stages}/NAME`."""
    smoke: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Overrides that make each cell tiny; a path that an arm's config lacks is left out there."""

    def __post_init__(self) -> None:
        """Check what needs no config. Raises ConfigError."""
        for kind, names in (("name", [self.name]), ("arm", self.arms), ("stage", self.stages)):
            for name in names:
                if not _NAME.fullmatch(name):
                    raise ConfigError(
                        f"sweep {self.name!r}: {kind} {name!r} names a folder: letters, digits and "
                        "+ _ . , = - only"
                    )
        for field in ("arms", "seeds", "metrics"):
            if not getattr(self, field):
                raise ConfigError(f"sweep {self.name}: it has no {field}")
        if len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ConfigError(f"sweep {self.name}: seeds {self.seeds} repeat, or one is below 0")
        for name, reader in self.metrics.items():
            if not callable(reader):
                raise ConfigError(
                    f"sweep {self.name}: metric {name!r} is {reader!r}, not a reader such as "
                    'last("eval/scores")'
                )
        self._check_claims()

    def _check_claims(self) -> None:
        for claim in self.claims:
            for known, name in [
                (self.metrics, claim.metric),
                *((self.arms, arm) for arm in claim.arms),
            ]:
                if name not in known:
                    near = difflib.get_close_matches(name, list(known), 1)
                    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
                    raise ConfigError(
                        f"sweep {self.name}, claim {claim.text!r}: there is no {name!r}; {hint}"
                    )

    def arm_config(self, arm: str) -> Any:
        """Return the config of an arm, without a seed. Raises ConfigError naming the arm."""
        changes = dict(self.arms[arm])
        base = changes.pop(BASE, self.base)
        if not dataclasses.is_dataclass(base) or isinstance(base, type):
            raise ConfigError(f"sweep {self.name}, arm {arm}: its base is {base!r}, no config")
        try:
            return override(base, changes)
        except ConfigError as error:
            raise ConfigError(f"sweep {self.name}, arm {arm}: {error}") from error

    def cells(self) -> tuple[Cell, ...]:
        """Resolve and check every run, arms first. Raises ConfigError naming arm and field."""
        made = []
        for arm in self.arms:
            config = self.arm_config(arm)
            for seed in self.seeds:
                try:
                    own = override(config, {"seed": seed})
                    validate(own)
                except ConfigError as error:
                    raise ConfigError(f"sweep {self.name}, arm {arm}: {error}") from error
                made.append(Cell(arm, seed, own))
        return tuple(made)

    def stage_configs(self) -> dict[str, Any]:
        """Return the checked config of each stage. Raises ConfigError naming the stage."""
        made = {}
        for name, stage in self.stages.items():
            config = stage.config if isinstance(stage, StageSpec) else stage
            if not dataclasses.is_dataclass(config) or isinstance(config, type):
                raise ConfigError(f"sweep {self.name}, stage {name}: {config!r} is no config")
            try:
                validate(config)
            except ConfigError as error:
                raise ConfigError(f"sweep {self.name}, stage {name}: {error}") from error
            made[name] = config
        return made

    def tiny(self) -> Sweep:
        """Return the sweep with one seed and the overrides of `smoke`, to see whether it runs.

        Raises ConfigError for a path of `smoke` that no arm has, or a value that does not fit.
        """
        configs = {arm: self.arm_config(arm) for arm in self.arms}
        for path in self.smoke:
            if not any(has_field(config, path) for config in configs.values()):
                known = sorted(
                    {path for config in configs.values() for path in field_paths(config)}
                )
                near = difflib.get_close_matches(path, known, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise ConfigError(f"sweep {self.name}, smoke: no arm has a field {path}{hint}")
        arms: dict[str, Arm] = {}
        for arm, config in configs.items():
            fitting = {path: v for path, v in self.smoke.items() if has_field(config, path)}
            arms[arm] = {BASE: config, **fitting}
        stages = {
            name: StageSpec(override(stage.config, stage.smoke))
            if isinstance(stage, StageSpec)
            else stage
            for name, stage in self.stages.items()
        }
        return dataclasses.replace(self, arms=arms, seeds=self.seeds[:1], stages=stages)

    def chosen(self, arms: Sequence[str] = (), seeds: Sequence[int] = ()) -> Sweep:
        """Return the sweep with some of its arms and with other seeds; empty: all there are.

        Claims about arms that are left out go too. Raises ConfigError for an arm there is not.
        """
        for arm in arms:
            if arm not in self.arms:
                near = difflib.get_close_matches(arm, list(self.arms), 1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(self.arms)}"
                raise ConfigError(f"sweep {self.name} has no arm {arm!r}; {hint}")
        kept = {arm: changes for arm, changes in self.arms.items() if not arms or arm in arms}
        whole = len(kept) == len(self.arms)
        claims = tuple(
            claim
            for claim in self.claims
            if whole or (claim.arms and all(arm in kept for arm in claim.arms) and _plain(claim))
        )
        return dataclasses.replace(self, arms=kept, claims=claims, seeds=tuple(seeds) or self.seeds)


def _plain(claim: Claim) -> bool:
    """Say whether a claim reads no more of the table than the arms that it names."""
    return not callable(claim.left) and not callable(claim.right)


def place(config: Any, directory: Path) -> Any:
    """Put the folder of a sweep's stages where `{stages}` stands in a config."""
    return fill(config, {STAGES: str(directory / STAGES)})


def label(value: Any) -> str:
    """Spell a value as part of an arm's name."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    text = re.sub(r"[^A-Za-z0-9+_.-]+", "_", text)
    return text.strip("_") or "none"


def _labels(values: Mapping[str, Any] | Sequence[Any], path: str) -> list[tuple[str, Any]]:
    """Return (label, value) of an axis: its own labels, or the field's name and the value."""
    if isinstance(values, Mapping):
        return list(values.items())
    if isinstance(values, str) or not isinstance(values, Sequence) or not values:
        raise ConfigError(f"axis {path}: {values!r} is no list of values")
    return [(f"{path.rpartition('.')[2]}={label(value)}", value) for value in values]


def grid(**axes: Mapping[str, Any] | Sequence[Any]) -> dict[str, Arm]:
    """Make an arm of every combination: `grid(**{"grpo.kl.coef": [0.0, 0.1], "steps": [20]})`.

    An axis is a list of values, or a dict {label: value}. Arms are called by what changes:
    "coef=0.1,steps=20". Raises ConfigError for an empty axis, or names that are not different.
    """
    listed = {path: _labels(values, path) for path, values in axes.items()}
    return _arms(list(listed), itertools.product(*listed.values()))


def zipped(**axes: Mapping[str, Any] | Sequence[Any]) -> dict[str, Arm]:
    """Make an arm of the first values of all axes, one of the second ones, and so on.

    Named as in `grid`. Raises ConfigError for axes of different length.
    """
    listed = {path: _labels(values, path) for path, values in axes.items()}
    lengths = {path: len(values) for path, values in listed.items()}
    if len(set(lengths.values())) != 1:
        raise ConfigError(f"zipped axes must be of one length, got {lengths}")
    return _arms(list(listed), zip(*listed.values(), strict=True))


def _arms(paths: list[str], rows: Any) -> dict[str, Arm]:
    made: dict[str, Arm] = {}
    for row in rows:
        name = ",".join(part for part, _ in row)
        if name in made:
            raise ConfigError(f"two arms are called {name}: give the values labels, as a dict")
        made[name] = {path: value for path, (_, value) in zip(paths, row, strict=True)}
    return made


def chain(steps: Mapping[str, Arm]) -> dict[str, Arm]:
    """Make arms that each add to the last: `chain({"grpo": {}, "+clip_higher": {...}, ...})`."""
    made: dict[str, Arm] = {}
    so_far: dict[str, Any] = {}
    for name, changes in steps.items():
        so_far = {**so_far, **changes}
        made[name] = so_far
    return made


def load_sweep(path: str, size: str = "cpu") -> Sweep:
    """Run a sweep file and return the sweep of a size in it.

    Raises:
      ConfigError: no such file, with the nearest names; it does not run, with the line; it has no
        sweep of that size.
    """
    file = find_config(path)
    module = run_file(file)
    sizes = {name: value for name, value in vars(module).items() if isinstance(value, Sweep)}
    if size not in sizes:
        there = ", ".join(sizes) or "none"
        raise ConfigError(f"{file} holds no sweep {size!r} (`{size} = Sweep(...)`); sizes: {there}")
    return sizes[size]
