"""Play a turn in many environments, each step within a time limit."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence

from rljax.environments.text import EnvironmentFailure, Step, TextEnvironment, step
from rljax.rewards.protocol import describe_error

Outcome = Step | str
"""What came back of a step, or in words why nothing did."""


def step_all(
    environments: Sequence[TextEnvironment], texts: Sequence[str], timeout_s: float | None = None
) -> list[Outcome]:
    """Play one turn in each environment, one after another.

    What a step raises is its outcome, in words. With a time limit the steps run in a thread of
    their own; one that takes longer is left behind there, for nothing in Python can end it: its
    environment is not to be used again. The others go on in another thread.
    """
    pairs = list(zip(environments, texts, strict=True))
    if timeout_s is None:
        return [_attempt(*pair) for pair in pairs]
    outcomes: list[Outcome] = []
    while len(outcomes) < len(pairs):
        results: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        left = threading.Event()
        rest = pairs[len(outcomes) :]
        threading.Thread(target=_work, args=(rest, results, left), daemon=True).start()
        for _ in rest:
            try:
                outcomes.append(results.get(timeout=timeout_s))
            except queue.Empty:
                left.set()
                outcomes.append(f"the step took longer than {timeout_s:g} s")
                break
    return outcomes


def _work(
    pairs: Sequence[tuple[TextEnvironment, str]],
    results: queue.SimpleQueue[Outcome],
    left: threading.Event,
) -> None:
    for pair in pairs:
        if left.is_set():
            return
        results.put(_attempt(*pair))


def _attempt(environment: TextEnvironment, text: str) -> Outcome:
    """Return a step, or what it raised and where."""
    try:
        return step(environment, text)
    except EnvironmentFailure as error:
        return str(error)
    except (Exception, SystemExit) as error:
        return describe_error(error)
