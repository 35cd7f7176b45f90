"""Make the runs of a sweep that are missing, in worker processes, and write what came out."""

from __future__ import annotations

import fcntl
import queue
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from rljax.errors import UserError
from rljax.sweeps.cells import LOG_FILE, SweepRuns
from rljax.sweeps.pool import Worker
from rljax.sweeps.show import Board
from rljax.sweeps.worker import Answer
from rljax.training.errors import RunInUse

_POLL_S = 0.5


class Failed(UserError):
    """Some runs of a sweep have failed; the others are made."""


class Runner:
    """Hands runs to workers until none is left.

    Args:
      runs: the sweep and its directory.
      command: what starts a worker.
      jobs: workers at a time.
      board: where it is shown.
      together: all cells, those together that one program makes.
    """

    def __init__(
        self,
        runs: SweepRuns,
        command: Sequence[str],
        jobs: int,
        board: Board,
        together: Sequence[tuple[str, ...]],
    ) -> None:
        self.runs, self.command, self.jobs, self.board = runs, list(command), jobs, board
        self.together = together
        self.failed: dict[str, str] = {}
        self.stopping = False
        self._workers: list[Worker] = []
        self._heard: queue.Queue[tuple[Worker, Any]] = queue.Queue()

    def make_all(self) -> None:
        """Make the missing stages, one after the other, then the missing cells.

        Raises Failed where a run has failed: a failed stage at once, cells at the end. Returns
        early after `stop`.
        """
        try:
            for name in self.runs.missing(self.runs.stages):
                self._make([(name,)], 1)
                self._raise_failures()
            self._make([group for group in self.together if self.runs.missing(group)], self.jobs)
        finally:
            for worker in self._workers:
                worker.close()
        self._raise_failures()

    def stop(self) -> None:
        """Start no further run, and ask those under way to save and end."""
        self.stopping = True
        for worker in list(self._workers):
            worker.stop()

    def _raise_failures(self) -> None:
        if not self.failed:
            return
        lines = [
            f"  {name}: {reason}\n    see {self.runs.path(name) / LOG_FILE}"
            for name, reason in self.failed.items()
        ]
        raise Failed(
            f"{len(self.failed)} runs failed:\n" + "\n".join(lines) + "\n"
            "The same command tries them again"
        )

    def _make(self, orders: Sequence[tuple[str, ...]], jobs: int) -> None:
        """Make some runs, with `jobs` workers at a time."""
        waiting = list(orders)
        while waiting or any(worker.order for worker in self._workers):
            if self.stopping:
                waiting = []
            self._hand_out(waiting, jobs)
            try:
                worker, answer = self._heard.get(timeout=_POLL_S)
            except queue.Empty:
                self.board.refresh()
                continue
            self._note(worker, answer)
            self.board.refresh()

    def _hand_out(self, waiting: list[tuple[str, ...]], jobs: int) -> None:
        while waiting and sum(worker.order is not None for worker in self._workers) < jobs:
            idle = next((worker for worker in self._workers if worker.order is None), None)
            if idle is None:
                idle = Worker(self.command, self._heard)
                self._workers.append(idle)
            order = waiting.pop(0)
            for name in self.runs.missing(order):
                self.board.begin(name)
            with suppress(BrokenPipeError):  # where it has ended already, that is heard next
                idle.start(order)

    def _note(self, worker: Worker, answer: Answer | None) -> None:
        """Take what a worker says; None: it has ended."""
        order = worker.order or ()
        worker.order = None
        if answer is None:
            self._workers.remove(worker)
            reason = "stopped" if self.stopping else worker.last_words
            answer = {"failed": dict.fromkeys(self.runs.missing(order), reason)}
        for name, seconds in answer.get("done", {}).items():
            self.board.end(name, seconds)
        for kind in ("stopped", "failed"):
            for name, reason in answer.get(kind, {}).items():
                self.board.fail(name, reason)
                if not self.stopping:
                    self.failed[name] = reason


@contextmanager
def locked(runs: SweepRuns) -> Iterator[None]:
    """Hold the sweep's directory. Raises RunInUse where another process has it."""
    runs.directory.mkdir(parents=True, exist_ok=True)
    file: TextIO
    with (runs.directory / ".lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunInUse(
                f"another process makes the runs of {runs.directory}: wait for it, or choose "
                "another --workdir"
            ) from None
        yield


@contextmanager
def stopping_on_signals(runner: Runner) -> Iterator[None]:
    """Let SIGTERM and Ctrl-C stop a sweep in good order; a second Ctrl-C ends it at once."""

    def handle(number: int, frame: Any) -> None:
        if runner.stopping and number == signal.SIGINT:
            raise KeyboardInterrupt
        # not in the handler itself: it may stand in the middle of the list that is changed
        threading.Thread(target=runner.stop, daemon=True).start()

    before = {n: signal.signal(n, handle) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
