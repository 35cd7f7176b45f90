"""Make runs of a sweep, in this process: one after the other, or as another process asks for them.

The runs of one process share its interpreter, its devices, and what is compiled already.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from rljax.errors import UserError
from rljax.reporting.runs import read_run
from rljax.specs import SpecError, load_module
from rljax.sweeps.board import write_fields, write_summary
from rljax.sweeps.cells import LOG_FILE, SweepRuns, Task
from rljax.sweeps.spec import Program, Sweep
from rljax.training.errors import ConfigError
from rljax.training.run import open_run

Answer = dict[str, dict[str, Any]]
"""What became of runs: "done" {name: seconds}, "stopped" and "failed" {name: why}."""
Launch = Callable[[Task, Path], None]
"""Run the script of a task's config; the file holds that config. Raises UserError."""


class Stopped(UserError):
    """A run was asked to stop before its end, and has saved what it had."""


def make_run(runs: SweepRuns, name: str, launch: Launch) -> float:
    """Make a stage or a cell, or go on with it; return the seconds it took.

    Raises UserError, and Stopped, as its script or program does.
    """
    started = time.monotonic()
    task, directory = runs.task(name), runs.path(name)
    file = runs.write_config(name)
    write_fields(runs, name)
    if task.trains:
        launch(task, file)
        require_whole(task, directory)
    else:
        program = find_program(runs.sweep)
        with open_run(directory, task.config, ignore=("workdir",)):
            program(task.config, directory)
    seconds = time.monotonic() - started
    complete(runs, name, seconds)
    return seconds


def complete(runs: SweepRuns, name: str, seconds: float) -> None:
    """Write what a sweep keeps of a run that has come to its end; mark it as whole last."""
    if name in runs.cells:
        write_summary(runs, name)
    runs.mark_done(name, seconds)


def require_whole(task: Task, directory: Path) -> None:
    """Raise Stopped where a training run has not come to its last step."""
    steps = read_run(directory).last_step
    if steps < task.config.steps:
        raise Stopped(f"{task.name} was stopped at step {steps} of {task.config.steps}")


def find_program(sweep: Sweep) -> Program:
    """Return the function that makes the cells of a sweep that measures.

    Raises ConfigError where there is none.
    """
    if callable(sweep.program):
        return sweep.program
    path, colon, name = str(sweep.program).rpartition(":")
    if not colon:
        raise ConfigError(f"program {sweep.program!r} is not of the form FILE.py:function")
    try:
        function = getattr(load_module(path, what=f"program {sweep.program!r}"), name, None)
    except SpecError as error:
        raise ConfigError(str(error)) from error
    if not callable(function):
        raise ConfigError(f"program {sweep.program!r}: {path} has no function {name!r}")
    made: Program = function
    return made


def serve(runs: SweepRuns, make: Callable[[Sequence[str]], Answer]) -> None:
    """Make runs for another process: it sends their names, a list of JSON a line, to stdin.

    Each line is answered by one of JSON, see `Answer`. What a run prints goes to its log. When
    stdin ends the process that asked is gone, and this one ends at once, in the middle of a run if
    need be: that run goes on where it was saved last.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    orders: queue.Queue[str | None] = queue.Queue()
    busy = threading.Event()
    threading.Thread(target=_listen, args=(orders, busy), daemon=True).start()
    while (line := orders.get()) is not None:
        busy.set()
        answer = _answer(runs, json.loads(line), make)
        busy.clear()
        try:
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
        except BrokenPipeError:
            return


def _listen(orders: queue.Queue[str | None], busy: threading.Event) -> None:
    for line in sys.stdin:
        orders.put(line)
    if busy.is_set():
        os._exit(3)
    orders.put(None)


def _answer(
    runs: SweepRuns, names: Sequence[str], make: Callable[[Sequence[str]], Answer]
) -> Answer:
    """Make runs; what they print goes to the log of the first one that is missing."""
    missing = runs.missing(names)
    path = runs.path(missing[0])
    path.mkdir(parents=True, exist_ok=True)
    with (path / LOG_FILE).open("a", encoding="utf-8") as log:
        _redirect(log)
        try:
            answer = make(names)
        except Stopped as error:
            answer = {"stopped": dict.fromkeys(missing, str(error))}
        except UserError as error:
            answer = {"failed": dict.fromkeys(missing, str(error))}
        except (
            Exception
        ) as error:  # the sweep goes on with its other runs, and says this one failed
            traceback.print_exc()
            text = f"{type(error).__name__}: {error}"
            answer = {"failed": dict.fromkeys(missing, text)}
        for name, reason in answer.get("failed", {}).items():
            print(f"error: {name}: {reason}", file=sys.stderr)
        sys.stderr.flush()
    return answer


def _redirect(log: TextIO) -> None:
    """Send what this process prints, its libraries included, to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
