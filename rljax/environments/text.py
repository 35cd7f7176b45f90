"""What a text environment is: gymnasium's interface, with text in and text out.

An environment is a class with two methods; it needs no base class and no package:

    class Capitals:
        def reset(self, *, seed):
            self.answer = ...
            return "What is the capital of France?", {}
        def step(self, text):
            right = self.answer in text
            return "Right." if right else "Wrong, again!", float(right), right, False, {}

The state is the text so far, an action is an utterance. A task of one turn is an environment whose
first step terminates; its last observation is read by nobody.
"""

from __future__ import annotations

import math
import numbers
from typing import Any, NamedTuple, Protocol, runtime_checkable

from rljax.errors import UserError

HELD_OUT_SEEDS = 1_000_000
"""Seeds below this are those of held-out episodes, seeds from here on those of training: an
environment that reads records tells by its seed which part of them to read (`is_held_out`)."""


class EnvironmentFailure(UserError):
    """An environment that cannot be found, made or played."""


@runtime_checkable
class TextEnvironment(Protocol):
    """An episode in text, as gymnasium.Env has it (https://gymnasium.farama.org/api/env/)."""

    def reset(self, *, seed: int) -> tuple[str, dict[str, Any]]:
        """Begin the episode of a seed: the first observation, and whatever else is known of it.

        The same seed gives the same episode, whatever was played before.
        """
        ...

    def step(self, text: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Answer what the policy said: (observation, reward, terminated, truncated, info).

        text: without special tokens and the white space around it. terminated: the task has ended;
        truncated: it was cut off, by a limit of turns say.
        """
        ...


class Step(NamedTuple):
    """What came back of a turn."""

    observation: str
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]


def is_held_out(seed: int) -> bool:
    """Say whether an episode is one to judge by, which is never trained on."""
    return seed < HELD_OUT_SEEDS


def reset(environment: TextEnvironment, seed: int) -> str:
    """Begin an episode, and check what comes back: the first observation.

    Raises EnvironmentFailure, naming class and seed, where it raises or returns no text.
    """
    name = type(environment).__name__
    try:
        made = environment.reset(seed=seed)
    except Exception as error:
        raise EnvironmentFailure(
            f"the environment {name}: reset(seed={seed}) failed: {error!r}"
        ) from error
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], str)):
        raise EnvironmentFailure(
            f"the environment {name}: reset(seed={seed}) must return (observation, info) with a "
            f"text to begin with, it returned {made!r:.200}"
        )
    if not made[0].strip():
        raise EnvironmentFailure(
            f"the environment {name}: reset(seed={seed}) gave an empty observation: there is "
            "nothing to answer"
        )
    return made[0]


def step(environment: TextEnvironment, text: str) -> Step:
    """Play a turn, and check what comes back.

    Raises EnvironmentFailure where the result is no step; what the environment raises goes through.
    """
    name = type(environment).__name__
    made = environment.step(text)
    if not (isinstance(made, tuple) and len(made) == 5 and isinstance(made[0], str)):
        raise EnvironmentFailure(
            f"the environment {name}: step(text) must return (observation text, reward, "
            f"terminated, truncated, info), it returned {made!r:.200}"
        )
    observation, reward, terminated, truncated, info = made
    if not isinstance(reward, numbers.Real) or not math.isfinite(float(reward)):
        raise EnvironmentFailure(
            f"the environment {name}: the reward of a step must be a finite number, it is "
            f"{reward!r}"
        )
    if not isinstance(info, dict):
        raise EnvironmentFailure(
            f"the environment {name}: the info of a step must be a dict, it is {info!r:.100}"
        )
    return Step(observation, float(reward), bool(terminated), bool(truncated), info)
