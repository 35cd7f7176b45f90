"""Worker processes that make the runs of a sweep, and what is heard from them."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any


class Worker:
    """One process that makes runs: one at a time, or several as one program."""

    def __init__(self, command: Sequence[str], heard: queue.Queue[tuple[Worker, Any]]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._heard = heard
        self.order: tuple[str, ...] | None = None
        """The runs that it is making."""
        self._errors: list[str] = []
        threading.Thread(target=self._read_errors, daemon=True).start()
        threading.Thread(target=self._listen, daemon=True).start()

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._errors = [*self._errors[-20:], line]

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._heard.put((self, json.loads(line)))
        self._process.wait()
        self._heard.put((self, None))

    def start(self, order: tuple[str, ...]) -> None:
        """Ask for runs."""
        assert self._process.stdin is not None
        self.order = order
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    @property
    def last_words(self) -> str:
        """How the process ended, and what it said before its first run."""
        said = "".join(self._errors).strip()
        return f"its process ended with code {self._process.poll()}" + (
            f":\n{said}" if said else ""
        )

    def stop(self) -> None:
        """Ask it to save and end its runs."""
        if self._process.poll() is None:
            self._process.terminate()

    def close(self, patience_s: float = 10.0) -> None:
        """Let it end: at once where it makes runs."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def worker_command(script: str, arguments: Sequence[str]) -> list[str]:
    """Return the command of a worker: the sweep's own, asked to serve."""
    return [sys.executable, script, *arguments, "--part", "worker"]
