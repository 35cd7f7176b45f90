"""A run directory: whose it is, whether it goes on, and when it should stop.

DIR/config.json         the resolved config
DIR/checkpoints/        see checkpoint.py
DIR/metrics.jsonl, DIR/completions.jsonl, DIR/events.out.tfevents.*     see writer.py
DIR/.lock               held by the process that writes
"""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, TextIO, TypeVar

from rljax.training import processes
from rljax.training.config_json import config_from_json, config_to_json, differences
from rljax.training.errors import ConfigError, ConfigMismatch, RunInUse, UserError
from rljax.training.manifest import write_text_atomically

Config = TypeVar("Config")
CONFIG_FILE = "config.json"
_OURS = ("metrics.jsonl", "completions.jsonl", "checkpoints")
_Handler = Callable[[int, FrameType | None], Any] | int | None


class Run:
    """An open run directory.

    Attributes:
      directory: the run directory.
      checkpoint_dir: where its checkpoints go.
      resumed: whether it held a run of the same config before.
    """

    def __init__(self, directory: Path, lock: TextIO | None, resumed: bool) -> None:
        self.directory, self.resumed = directory, resumed
        self.checkpoint_dir = directory / "checkpoints"
        self._lock = lock
        self._signal: int | None = None
        self._handlers: dict[int, _Handler] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._handlers[number] = signal.signal(number, self._on_signal)

    @property
    def should_stop(self) -> bool:
        """Whether SIGTERM or SIGINT has come: finish this step, save, and leave the loop.

        Of several processes each has to ask, at the same step: all stop when one of them shall.
        """
        return processes.any_of(self._signal is not None)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self._signal = number
        again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
        text = f"\n{signal.Signals(number).name}: stopping after this step{again}\n"
        os.write(2, text.encode())  # print() may be interrupted by this very handler

    def close(self) -> None:
        """Give the directory and the signal handlers back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


def new_workdir(name: str, root: str | Path = "runs") -> Path:
    """Return `root/NAME-DATE-TIME`, with a number behind it where that is taken."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    path = Path(root) / f"{name}-{stamp}"
    number = 1
    while path.exists():
        number += 1
        path = Path(root) / f"{name}-{stamp}-{number}"
    return path


def open_run(
    workdir: str | Path | None,
    config: Any,
    ignore: tuple[str, ...] = ("workdir", "steps"),
    name: str = "run",
) -> Run:
    """Make a run directory, or open one that holds a run of the same config to go on with it.

    Of several processes the first one opens it, for all. From here on SIGTERM and SIGINT set
    `run.should_stop` instead of ending the process; a second SIGINT ends it.

    Args:
      workdir: the directory; None makes `runs/NAME-DATE-TIME`.
      config: dataclass tree, written to config.json.
      ignore: fields (or branches of fields) that may differ when a run goes on.
      name: of the experiment, for the directory's name.

    Raises:
      ConfigMismatch: the directory holds a run of another config; the message lists the fields.
      ConfigError: it holds files of a run without its config, or cannot be written.
      RunInUse: another process is writing to it.
    """
    opened: list[TextIO] = []

    def take() -> tuple[str, bool]:
        directory, lock, resumed = _open(workdir, config, ignore, name)
        opened.append(lock)
        return str(directory), resumed

    directory, resumed = processes.first_decides(take)
    return Run(Path(directory), opened[0] if opened else None, resumed)


def _open(
    workdir: str | Path | None, config: Any, ignore: tuple[str, ...], name: str
) -> tuple[Path, TextIO, bool]:
    """Lock a run directory and write its config; say whether it is resumed."""
    directory = Path(workdir) if workdir is not None else new_workdir(name)
    directory = directory.expanduser().absolute()
    text = json.dumps(config_to_json(config), indent=2, ensure_ascii=False) + "\n"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = _lock(directory)
    except OSError as error:
        raise ConfigError(
            f"the run directory {directory} cannot be written: {error}; choose another --workdir"
        ) from error
    try:
        resumed = _check(directory, config, ignore)
        write_text_atomically(directory / CONFIG_FILE, text)
    except BaseException:
        lock.close()
        raise
    return directory, lock, resumed


def _lock(directory: Path) -> TextIO:
    """Lock the directory; the kernel lets go of the lock when the process ends in any way."""
    file = (directory / ".lock").open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().strip() or "another process"
        file.close()
        raise RunInUse(
            f"{directory} is being written by {owner}: stop it, or choose another --workdir"
        ) from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file


def _check(directory: Path, config: Any, ignore: tuple[str, ...]) -> bool:
    """Return whether the directory holds a run of this config; raise where it holds another."""
    if not (directory / CONFIG_FILE).exists():
        there = [name for name in _OURS if (directory / name).exists()]
        if there:
            raise ConfigError(
                f"{directory} holds {', '.join(there)} but no {CONFIG_FILE}: it cannot be told "
                "whether it is the same run; choose another --workdir"
            )
        return False
    rows = differences(read_json(directory), config, ignore)
    if rows and not _has_results(directory):
        return False  # it failed before its first step: there is nothing to protect
    if rows:
        raise ConfigMismatch(
            f"{directory} holds a run of another config:\n{_table(rows)}\n"
            "Choose another --workdir, or give the flags of that run to go on with it"
        )
    return True


def _has_results(directory: Path) -> bool:
    """Say whether a run has got as far as a number or a checkpoint."""
    metrics, checkpoints = directory / "metrics.jsonl", directory / "checkpoints"
    return (metrics.exists() and metrics.stat().st_size > 0) or (
        checkpoints.is_dir() and any(checkpoints.iterdir())
    )


def read_json(directory: Path) -> Any:
    """Return the config of a run directory as JSON.

    Raises:
      UserError: it is no run directory, or its config cannot be read.
    """
    path = directory / CONFIG_FILE
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{directory} is no run directory: it has no {CONFIG_FILE}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def read_part(directory: str | Path, name: str, part_type: type[Config]) -> Config | None:
    """Return one field of a run's config, None where runs of its kind have no such field.

    For scripts that take what runs of several kinds trained: each has its own config.

    Raises:
      UserError: it is no run directory, or the field does not fit `part_type`.
    """
    path = Path(directory).expanduser()
    data = read_json(path)
    if not isinstance(data, dict) or name not in data:
        return None
    try:
        return config_from_json(part_type, data[name])
    except ConfigError as error:
        raise ConfigError(f"{path / CONFIG_FILE}, {name}: {error}") from error


def _table(rows: list[tuple[str, str, str]]) -> str:
    table = [("field", "there", "here"), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(2)]
    return "\n".join(f"  {a:<{widths[0]}}  {b:<{widths[1]}}  {c}".rstrip() for a, b, c in table)
