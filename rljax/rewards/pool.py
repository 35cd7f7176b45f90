"""Judge completions in worker processes, so that no completion can stop a run.

Each worker is a new program (`rljax.rewards.worker`) that loads the rewards once and lives as long
as the run. A reward gets lists, as ever, but lists of **one** completion: only so does a time-out
or a crash belong to one completion, and nothing is judged twice. A reward that wants the whole
batch in one call (a classifier, a comparison within the batch) belongs in the training process:
`judge_texts`, which is what `--task.reward-workers 0` means.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import wait
from typing import Any

from rljax.rewards.protocol import Judgement, RewardError, collect
from rljax.rewards.worker import START, Job

START_TIMEOUT_S = 120.0
"""Loading the rewards may take this long: a user's file may import much."""
DEATH_S = 5.0
"""A process whose socket has closed is gone within this time."""


class Worker:
    """One process, and what it is doing."""

    def __init__(self, specs: Sequence[str]) -> None:
        """Start it; it is ready once it has answered the specs."""
        self.job: int | None = None
        """Number of the job that it has; None while it loads the rewards, and when it is idle."""
        self.ready = False
        self.deadline = time.monotonic() + START_TIMEOUT_S
        self.connection, theirs = Pipe()
        lifeline, self._held = os.pipe()  # nothing is written: it only closes, when this one dies
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                START,
                str(theirs.fileno()),
                str(lifeline),
                json.dumps(sys.path),
            ],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), lifeline),
            # A reward that uses JAX gets the CPU: the accelerator is the policy's.
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
            start_new_session=True,  # Ctrl-C is the parent's, and a kill reaches its children too
        )
        theirs.close()
        os.close(lifeline)
        self._send(tuple(specs))

    def give(self, number: int, job: Job, timeout_s: float) -> None:
        """Send a job to an idle worker."""
        self.job, self.deadline = number, time.monotonic() + timeout_s
        self._send(job)

    def _send(self, message: Any) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it is dead: reading will say so
            self.connection.send(message)

    def end(self, grace_s: float = 0.0) -> str:
        """Kill the process and its children; say how it ended, if it had by itself in `grace_s`."""
        try:
            code = self.process.wait(grace_s)
            end = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        except subprocess.TimeoutExpired:
            end = "killed"
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.connection.close()
        os.close(self._held)
        return end


class RewardPool:
    """Text rewards that run in worker processes.

    Args:
      specs: the rewards, as `load_reward` takes them.
      workers: processes, at least 1; each loads all rewards.
      timeout_s: seconds that one reward may take for one completion.

    The processes start here, and end with `close`, with the interpreter, or with a parent that is
    killed. Raises RewardError when they cannot load the rewards.
    """

    def __init__(self, specs: Sequence[str], *, workers: int, timeout_s: float) -> None:
        if workers < 1 or timeout_s <= 0:
            raise ValueError(f"need a worker and a positive time-out: {workers=} {timeout_s=}")
        self.specs, self.timeout_s = tuple(specs), timeout_s
        self._workers: list[Worker] = []
        self._finalizer = weakref.finalize(self, _stop, self._workers)
        try:
            for _ in range(workers):
                self._workers.append(Worker(self.specs))
            while not all(worker.ready for worker in self._workers):
                self._advance(deque(), [], [])
        except BaseException:
            self.close()
            raise

    def judge(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        columns: Sequence[Mapping[str, Sequence[Any]]],
    ) -> list[Judgement]:
        """Judge n completions by each reward; columns: for each reward those it takes, lists of n.

        A completion whose reward raises, takes longer than `timeout_s`, ends its process or gives
        no finite number has the score NaN. Raises RewardError when a worker that ended cannot be
        started again.
        """
        jobs = [
            Job(reward, prompts[i], completions[i], {name: c[i] for name, c in taken.items()})
            for reward, taken in enumerate(columns)
            for i in range(len(completions))
        ]
        outcomes: list[tuple[float, str] | None] = [None] * len(jobs)
        queue = deque(range(len(jobs)))
        try:
            while queue or any(worker.job is not None for worker in self._workers):
                self._advance(queue, jobs, outcomes)
        finally:
            for worker in [w for w in self._workers if w.job is not None]:
                self._replace(worker)  # an interrupted batch: its answer belongs to no later one
        done = [outcome for outcome in outcomes if outcome is not None]
        size = len(completions)
        return [collect(done[size * r : size * (r + 1)]) for r in range(len(columns))]

    def _advance(
        self, queue: deque[int], jobs: list[Job], outcomes: list[tuple[float, str] | None]
    ) -> None:
        """Give jobs to idle workers, and wait until one answers, dies, or is out of time."""
        for worker in list(self._workers):
            if queue and worker.ready and worker.job is None:
                if worker.connection.poll():  # nothing was asked: it died since the last batch
                    self._replace(worker)
                    continue
                number = queue.popleft()
                worker.give(number, jobs[number], self.timeout_s)
        busy = [worker for worker in self._workers if worker.job is not None or not worker.ready]
        nearest = min(worker.deadline for worker in busy)
        heard = wait([w.connection for w in busy], max(nearest - time.monotonic(), 0))
        for worker in busy:
            if worker.connection in heard:
                self._read(worker, outcomes)
            elif time.monotonic() >= worker.deadline:
                self._lose(worker, outcomes, timed_out=True)

    def _read(self, worker: Worker, outcomes: list[tuple[float, str] | None]) -> None:
        """Take a worker's answer."""
        try:
            answer = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            self._lose(worker, outcomes, timed_out=False)
            return
        if worker.ready:
            assert worker.job is not None
            outcomes[worker.job] = answer
            worker.job = None
        elif answer:
            raise RewardError(f"a reward worker cannot start: {answer}")
        else:
            worker.ready = True

    def _lose(
        self, worker: Worker, outcomes: list[tuple[float, str] | None], *, timed_out: bool
    ) -> None:
        """Put another worker in the place of one that hangs or is dead; its job has failed."""
        end = self._replace(worker, 0.0 if timed_out else DEATH_S)
        if not worker.ready:
            problem = f"not ready after {START_TIMEOUT_S:g} seconds" if timed_out else end
            raise RewardError(
                f"a reward worker could not load {list(self.specs)}: {problem}; see above for "
                "what it printed"
            )
        assert worker.job is not None
        reason = f"no score after {self.timeout_s:g} seconds (--task.reward-timeout-s)"
        reason = reason if timed_out else f"the reward ended its process: {end}"
        outcomes[worker.job] = float("nan"), reason

    def _replace(self, worker: Worker, grace_s: float = 0.0) -> str:
        """End a worker and start another in its place; say how it ended."""
        end = worker.end(grace_s)
        self._workers[self._workers.index(worker)] = Worker(self.specs)
        return end

    def close(self) -> None:
        """End the processes; the pool cannot be used afterwards."""
        self._finalizer()


def _stop(workers: list[Worker]) -> None:
    """End all processes and forget them."""
    for worker in workers:
        worker.end()
    workers.clear()
