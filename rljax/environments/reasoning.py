"""Problems of reasoning-gym as episodes of one turn: a question, an answer, its score.

Every seed is a problem of its own. As prompts with an answer the same problems are
`--task.prompts reasoning-gym:TASK` (rljax.tasks.reasoning).
"""

from __future__ import annotations

import importlib
from typing import Any

from rljax.environments.loading import MakeEnvironment
from rljax.environments.text import EnvironmentFailure
from rljax.specs import plain_value

OWN = ("seed", "size")
"""Settings that belong to the episodes: the seed of each chooses its problem."""


class Reasoning:
    """One problem; its score is the package's, in [0, 1]."""

    def __init__(self, package: Any, task: str, settings: dict[str, Any]) -> None:
        self._package, self._task, self._settings = package, task, settings
        self._problems: Any = None
        self._problem: Any = None

    def reset(self, *, seed: int) -> tuple[str, dict[str, Any]]:
        """Ask the problem of a seed."""
        self._problems = self._package.create_dataset(
            self._task, seed=seed, size=1, **self._settings
        )
        self._problem = self._problems[0]
        return " ".join(self._problem["question"].split()), {}

    def step(self, text: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Judge the first line of an answer."""
        answer = text.split("\n", 1)[0].strip()
        score = float(self._problems.score_answer(answer, self._problem))
        right = str(self._problem["answer"])
        return f"The answer is {right}.", score, True, False, {"answer": right}


def make_reasoning(name: str, settings: dict[str, str]) -> MakeEnvironment:
    """Return what makes problems of the task `name`.

    Raises EnvironmentFailure without the package, for a task that is not known, and for a setting
    that it does not take, `seed` and `size` among them.
    """
    where = f"environment 'reasoning-gym:{name}'"
    try:
        package = importlib.import_module("reasoning_gym")
    except ModuleNotFoundError:
        raise EnvironmentFailure(
            f"{where} needs the package reasoning-gym: pip install 'rljax[reasoning]'"
        ) from None
    for key in OWN:
        if key in settings:
            raise EnvironmentFailure(
                f"{where}: every episode has a seed of its own, and is one problem: leave out "
                f"{key!r}"
            )
    arguments = {key: plain_value(value) for key, value in settings.items()}
    made = Reasoning(package, name, arguments)
    try:
        made.reset(seed=0)
    except (TypeError, ValueError, AssertionError) as error:
        raise EnvironmentFailure(f"{where}: {error}") from None
    return lambda: Reasoning(package, name, arguments)
