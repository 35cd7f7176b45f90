"""Rewards of a run in several processes: asked once, for all."""

from __future__ import annotations

from typing import Any

import numpy as np

from rljax.rewards.combined import WeightedRewards
from rljax.rewards.protocol import Failure, Judgement
from rljax.training.processes import first_decides


class FirstJudges(WeightedRewards):
    """Rewards that are asked in the first process alone: all go on with the same scores."""

    def __init__(self, rewards: WeightedRewards) -> None:
        self.rewards_of_first, self.names = rewards, rewards.names

    def judge(self, *arguments: Any) -> Judgement:
        """Judge as `WeightedRewards` does, in the first process; every process gets the answer."""

        def ask() -> Any:
            made = self.rewards_of_first.judge(*arguments)
            components = {name: scores.tolist() for name, scores in made.components.items()}
            return [made.scores.tolist(), [list(f) for f in made.failures], components]

        scores, failures, components = first_decides(ask)
        return Judgement(
            np.asarray(scores, np.float32),
            tuple(Failure(*failure) for failure in failures),
            {name: np.asarray(values, np.float32) for name, values in components.items()},
        )
