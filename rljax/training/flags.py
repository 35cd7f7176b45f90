"""Command lines of the experiment scripts: a config file, and one flag for each of its fields.

    python experiments/ppo.py --config configs/ppo_sentiment.py:smoke --ppo.clip-eps 0.1

A config file is Python with a module-level `config`, a frozen dataclass, and if it likes
`variants`, a dict of further ones by name. The chosen object gives the defaults; flags change them.
A run's config.json is one too: `--config runs/mine/config.json` starts from what that run had.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import tyro

import rljax
from rljax.training.config_json import config_from_json
from rljax.training.errors import ConfigError, UserError

Config = TypeVar("Config")


@contextmanager
def plain_errors() -> Iterator[None]:
    """Print what a user can put right without a traceback and exit: with 2 for configs, else 1."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2 if isinstance(error, ConfigError) else 1) from error


def parse_config(
    default: str,
    argv: Sequence[str] | None,
    config_type: type[Config],
    description: str = "",
) -> Config:
    """Return the config that a command line asks for; print what is wrong and exit with 2.

    Args:
      default: the config file (and variant) where `--config` is not given,
        e.g. "configs/ppo_sentiment.py".
      argv: the arguments after the script's name; None takes them from `sys.argv`.
      config_type: the dataclass that the config file's `config` must be.
      description: first lines of `--help`.

    Raises:
      SystemExit: code 2 for a wrong command line or config, 0 after `--help`.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    with plain_errors():
        chosen, rest = _take_config_flag(arguments, default)
        path, variant = split_variant(chosen)
        file = _read_file(find_config(path, (".py", ".json")), config_type)
        config = _choose(file, variant, config_type)
    text = (
        f"{description}\n\n--config FILE[:variant] chooses the defaults shown below; they are "
        f"those of {chosen} (variants of this file: {', '.join(file.variants) or 'none'}). "
        f"Without it: {default}."
    )
    try:
        parsed = tyro.cli(type(config), default=config, args=rest, description=text.strip())
    except BrokenPipeError:  # `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    with plain_errors():
        validate(parsed)
    return parsed


DRY_RUN = "--dry-run"


def parse_training(
    default: str,
    argv: Sequence[str] | None,
    config_type: type[Config],
    description: str = "",
) -> tuple[Config, bool]:
    """Return the config of a training script's command line, and whether it has --dry-run.

    Arguments and errors: as `parse_config`.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    rest = [argument for argument in arguments if argument != DRY_RUN]
    more = (
        f"{DRY_RUN} makes no run: it prints the resolved config, parameters, memory, longest "
        "prompt or row, what the reward gives, whether completions can end and the time of a step, "
        "and exits with 1 where something has to be put right."
    )
    config = parse_config(default, rest, config_type, f"{description.rstrip()}\n\n{more}")
    return config, len(rest) < len(arguments)


def _take_config_flag(arguments: list[str], default: str) -> tuple[str, list[str]]:
    """Return the value of `--config` and the other arguments."""
    chosen, rest = [], []
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        if argument == "--config":
            position += 1
            if position == len(arguments) or arguments[position].startswith("-"):
                raise ConfigError("--config lacks its value: --config FILE[:variant]")
            chosen.append(arguments[position])
        elif argument.startswith("--config="):
            chosen.append(argument.removeprefix("--config="))
        else:
            rest.append(argument)
        position += 1
    if len(chosen) > 1:
        raise ConfigError(f"--config is given more than once: {', '.join(chosen)}")
    return (chosen[0] if chosen else default), rest


def split_variant(chosen: str) -> tuple[str, str | None]:
    """Split "FILE:variant" into its parts; the variant is None where there is none."""
    path, colon, variant = chosen.rpartition(":")
    return (path, variant) if colon and "/" not in variant else (chosen, None)


def repository_root() -> Path:
    """Return the folder that holds the rljax package: of a checkout, where configs/ stands."""
    return Path(rljax.__file__).resolve().parents[1]


def find_config(path: str, kinds: tuple[str, ...] = (".py",)) -> Path:
    """Return the config file, looked for here and then from the repository's root.

    kinds: how its name may end. Raises ConfigError where it is nowhere, with the nearest names, or
    of another kind.
    """
    candidates = [Path(path).expanduser()]
    if not candidates[0].is_absolute():
        candidates.append(repository_root() / path)
    for candidate in candidates:
        if candidate.is_file():
            if candidate.suffix not in kinds:
                also = " or a run's config.json" if ".json" in kinds else ""
                raise ConfigError(f"config file {candidate} is not a Python file (.py){also}")
            return candidate.resolve()
    folder = next((c.parent for c in candidates if c.parent.is_dir()), None)
    there = [file.name for file in folder.glob("*.py")] if folder else []
    near = difflib.get_close_matches(Path(path).name, there, cutoff=0.5)
    looked = " and ".join(str(candidate.absolute()) for candidate in candidates)
    hint = f"; did you mean {folder / near[0]}?" if folder and near else ""
    raise ConfigError(f"there is no config file {path} (looked at {looked}){hint}")


@dataclasses.dataclass(frozen=True)
class ConfigFile:
    """What a config file says."""

    path: Path
    config: Any
    variants: dict[str, Any]


def _read_file(path: Path, config_type: type[Config]) -> ConfigFile:
    """Return what a config file of either kind says; JSON is a run's config, of this type."""
    if path.suffix != ".json":
        return load_file(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return ConfigFile(path, config_from_json(config_type, data), {})
    except ConfigError as error:
        raise ConfigError(f"{path} is not of a {config_type.__name__}: {error}") from error
    except ValueError as error:
        raise ConfigError(f"config file {path} is not JSON: {error}") from error


def load_file(path: Path) -> ConfigFile:
    """Run a config file and return its `config` and `variants`.

    Raises:
      ConfigError: it does not run (with the line), or lacks `config`.
    """
    return _read_module(path, run_file(path))


def run_file(path: Path) -> ModuleType:
    """Run a Python file under configs/ and return it as a module.

    Raises:
      ConfigError: it does not run, with the line.
    """
    name = f"rljax_config_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses of the file look their annotations up here
    root = str(repository_root())
    sys.path.append(root)  # a config may import another one: `from configs import ...`
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(_describe_failure(path, error)) from error
    finally:
        sys.path.remove(root)
    return module


def _describe_failure(path: Path, error: Exception) -> str:
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"config file {path}, line {error.lineno}: {error.msg}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    line = f", line {frames[-1].lineno}" if frames else ""
    return f"config file {path}{line}: {type(error).__name__}: {error}"


def _read_module(path: Path, module: ModuleType) -> ConfigFile:
    if not hasattr(module, "config"):
        raise ConfigError(f"config file {path} does not define `config`")
    variants = getattr(module, "variants", {})
    if not isinstance(variants, dict):
        raise ConfigError(f"config file {path}: `variants` is no dict of configs by name")
    return ConfigFile(path, module.config, variants)


def load_config(chosen: str, config_type: type[Config]) -> Config:
    """Return the config of "FILE[:variant]".

    Raises:
      ConfigError: no such file or variant, or a config of another type.
    """
    path, variant = split_variant(chosen)
    return _choose(load_file(find_config(path)), variant, config_type)


def _choose(file: ConfigFile, variant: str | None, config_type: type[Config]) -> Config:
    config, name = file.config, "config"
    if variant is not None:
        if variant not in file.variants:
            known = ", ".join(file.variants) or "none"
            near = difflib.get_close_matches(variant, list(file.variants), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"{file.path} has no variant {variant!r}; variants: {known}{hint}")
        config, name = file.variants[variant], f"variants[{variant!r}]"
    if not isinstance(config, config_type):
        raise ConfigError(
            f"`{name}` of {file.path} is a {type(config).__name__}; "
            f"this script takes a {config_type.__name__}"
        )
    return config


def validate(config: Any, where: str = "") -> None:
    """Call `validate()` of a config and of every dataclass in it, the inner ones first.

    Raises:
      ConfigError: with the message of the ValueError that one of them raised.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            validate(value, f"{where}.{field.name}" if where else field.name)
    check = getattr(config, "validate", None)
    if check is None:
        return
    try:
        check()
    except ValueError as error:
        raise ConfigError(f"{where}: {error}" if where else str(error)) from error
