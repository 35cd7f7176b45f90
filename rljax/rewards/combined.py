"""Judge completions by several rewards with weights: their scores, and the weighted sum.

n completions; B >= n rows of the arrays (an evaluation fills its last batch up).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rljax.rewards.loading import load_reward
from rljax.rewards.pool import RewardPool
from rljax.rewards.protocol import (
    Failure,
    Judgement,
    Reward,
    RewardError,
    TokenReward,
    accepted_columns,
    judge_scores,
    judge_texts,
)
from rljax.types import Completions, Prompts

DEFAULT_TIMEOUT_S = 60.0


def reward_names(specs: Sequence[str]) -> list[str]:
    """Name rewards for logs: 'sentiment', 'mine.score' of 'path/mine.py:score'; each name once."""
    names: list[str] = []
    for spec in specs:
        source, colon, function = spec.rpartition(":")
        stem = Path(source).stem if source.endswith(".py") else source
        name = f"{stem}.{function}" if colon else spec
        taken = [n for n in names if n == name or n.startswith(f"{name}_")]
        names.append(f"{name}_{len(taken) + 1}" if taken else name)
    return names


class WeightedRewards:
    """One or more rewards; the score of a completion is the weighted sum of theirs.

    Args:
      specs: what `load_reward` takes; text rewards and token rewards may stand side by side.
      weights: one for each; None: 1 for each.
      workers: processes for the text rewards (`RewardPool`); 0 calls them here, with whole batches.
      timeout_s: seconds for one completion in a worker.
      columns: names of the prompts' columns; a text reward gets those that it takes.

    Raises RewardError for a reward that cannot be loaded or does not take its arguments.
    """

    def __init__(
        self,
        specs: Sequence[str],
        *,
        weights: Sequence[float] | None = None,
        workers: int = 0,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        columns: Iterable[str] = (),
    ) -> None:
        self.names = reward_names(specs)
        self.rewards: list[Reward] = [load_reward(spec) for spec in specs]
        self.weights = tuple(weights) if weights is not None else (1.0,) * len(self.rewards)
        if len(self.weights) != len(self.rewards):
            raise ValueError(f"{len(self.rewards)} rewards, but {len(self.weights)} weights")
        known = tuple(columns)
        self._texts = {
            index: (reward, accepted_columns(reward, known))
            for index, reward in enumerate(self.rewards)
            if not isinstance(reward, TokenReward)
        }
        self._compiled = {
            index: jax.jit(reward.score)
            for index, reward in enumerate(self.rewards)
            if isinstance(reward, TokenReward)
        }
        if workers and not self._texts:
            raise RewardError(
                "no reward judges texts: token rewards are compiled and use no workers; leave out "
                "--task.reward-workers"
            )
        texts = [specs[index] for index in self._texts]
        self._pool = RewardPool(texts, workers=workers, timeout_s=timeout_s) if workers else None

    def judge(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        columns: Mapping[str, Sequence[Any]],
        batch: Prompts,
        made: Completions,
    ) -> Judgement:
        """Judge n completions.

        A completion that one of the rewards fails on has the score NaN; the other rewards' scores
        stay in `components`, which has every reward's own scores. The first n rows of `batch` and
        `made` are those of the texts. Raises RewardError for a reward that does not give one score
        for each.
        """
        parts = self._judge_texts(prompts, completions, columns)
        for index, score in self._compiled.items():
            found = np.asarray(score(batch, made))
            if found.shape != (made.tokens.shape[0],):
                raise RewardError(
                    f"the token reward {self.names[index]} returned scores of shape {found.shape} "
                    f"for {made.tokens.shape[0]} completions"
                )
            parts[index] = judge_scores(found[: len(completions)])
        return combine_judgements(self.names, [parts[i] for i in range(len(parts))], self.weights)

    def _judge_texts(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        columns: Mapping[str, Sequence[Any]],
    ) -> dict[int, Judgement]:
        """Judge by the text rewards, by their places among all."""
        if self._pool is None:
            return {
                index: judge_texts(reward, prompts, completions, {c: columns[c] for c in taken})
                for index, (reward, taken) in self._texts.items()
            }
        kept = [{c: columns[c] for c in taken} for _, taken in self._texts.values()]
        judged = self._pool.judge(prompts, completions, kept)
        return dict(zip(self._texts, judged, strict=True))

    def close(self) -> None:
        """End the worker processes, if there are any."""
        if self._pool is not None:
            self._pool.close()


def combine_judgements(
    names: Sequence[str], parts: Sequence[Judgement], weights: Sequence[float]
) -> Judgement:
    """Weight judgements of the same n completions into one: NaN wherever one of them is."""
    total = sum(w * part.scores.astype(np.float64) for w, part in zip(weights, parts, strict=True))
    scores = np.asarray(total, np.float32)
    reasons: dict[int, str] = {}
    for name, part in zip(names, parts, strict=True):
        for index, reason in part.failures:
            reasons.setdefault(index, f"{name}: {reason}" if len(parts) > 1 else reason)
    for index in np.flatnonzero(~np.isfinite(scores)).tolist():
        reasons.setdefault(index, "the weighted sum of the scores is beyond float32")
        scores[index] = np.nan
    failures = tuple(Failure(index, reasons[index]) for index in sorted(reasons))
    components = {name: part.scores for name, part in zip(names, parts, strict=True)}
    return Judgement(scores, failures, components)
