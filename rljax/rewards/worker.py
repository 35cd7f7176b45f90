"""Judge completions in a process of its own: the child's side of `rljax.rewards.pool`.

It is started as a new program, never forked (the parent's JAX has threads), reads neither the
parent's script nor JAX, and talks through one socket: it gets the rewards' specs, answers with ""
or with what is wrong with them, and then answers each Job with (score, reason).
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from rljax.rewards.loading import load_reward
from rljax.rewards.protocol import RewardError, TokenReward, score_one

START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[3]); "
    "from rljax.rewards.worker import main; main(int(sys.argv[1]), int(sys.argv[2]))"
)
"""What the new Python runs; its arguments are two file descriptors and the parent's sys.path."""


class Job(NamedTuple):
    """One completion to be judged by one reward."""

    reward: int
    """Which of the specs."""
    prompt: str
    completion: str
    columns: dict[str, Any]
    """The prompt's own values of the columns that the reward takes."""


def main(descriptor: int, lifeline: int) -> None:
    """Serve jobs from the socket `descriptor` until the parent closes it or dies."""
    die_with_parent(lifeline)
    connection: Connection = Connection(descriptor)
    rewards = []
    try:
        for spec in connection.recv():
            reward = load_reward(spec)
            if isinstance(reward, TokenReward):
                raise RewardError(f"reward {spec!r} is a TokenReward, which scores no texts")
            rewards.append(reward)
    except RewardError as error:
        connection.send(str(error))
        return
    connection.send("")
    while True:
        try:
            job: Job = connection.recv()
        except EOFError:
            return
        score = score_one(rewards[job.reward], job.prompt, job.completion, job.columns)
        connection.send(score)


def die_with_parent(lifeline: int) -> None:
    """Have the kernel end this process when the other end of its own pipe `lifeline` is closed.

    SIGIO's default action needs no Python: it also ends a reward that never gives up the
    interpreter's lock, as a regular expression without end does.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:  # the parent died before the signal was asked for
        os._exit(1)
