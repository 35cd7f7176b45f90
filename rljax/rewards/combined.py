"""Judge completions by several rewards with weights: their scores, and the weighted sum.

n completions; B >= n rows of the arrays (an evaluation fills its last batch up).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.rewards.loading import TASK, load_reward
from rljax.rewards.pool import RewardPool
from rljax.rewards.protocol import (
    Failure,
    Judgement,
    Reward,
    RewardError,
    TokenReward,
    TokenTexts,
    accepted_columns,
    judge_scores,
    judge_texts,
)
from rljax.rewards.tokens import make_vocabulary
from rljax.types import Completions, Prompts

DEFAULT_TIMEOUT_S = 60.0
TokenScore = Callable[[Prompts, Completions, Mapping[str, TokenTexts]], jax.Array]


def reward_names(specs: Sequence[str]) -> list[str]:
    """Name rewards for logs: 'sentiment', 'mine.score' of 'path/mine.py:score'; each name once."""
    names: list[str] = []
    for spec in specs:
        spec = TASK if spec.startswith(f"{TASK}:") else spec
        source, colon, function = spec.rpartition(":")
        stem = Path(source).stem if source.endswith(".py") else source
        name = f"{stem}.{function}" if colon else spec
        numbered = re.compile(rf"{re.escape(name)}(_\d+)?")
        taken = [n for n in names if numbered.fullmatch(n)]
        names.append(f"{name}_{len(taken) + 1}" if taken else name)
    return names


class WeightedRewards:
    """One or more rewards; the score of a completion is the weighted sum of theirs.

    Args:
      specs: what `load_reward` takes; text rewards and token rewards may stand side by side.
      weights: one for each; None: 1 for each.
      workers: processes for the text rewards (`RewardPool`); 0 calls them here, with whole batches.
      timeout_s: seconds for one completion in a worker.
      columns: names of the prompts' columns; a reward gets those that it takes.
      tokenizer: of the policy, for token rewards that ask what tokens spell.

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
        tokenizer: Any = None,
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
        self._on_tokens = {
            index: self._bind(index, reward, known, tokenizer)
            for index, reward in enumerate(self.rewards)
            if isinstance(reward, TokenReward)
        }
        self._compiled = {index: jax.jit(score) for index, score in self._on_tokens.items()}
        if workers and not self._texts:
            raise RewardError(
                "no reward judges texts: token rewards are compiled and use no workers; leave out "
                "--task.reward-workers"
            )
        texts = [specs[index] for index in self._texts]
        self._pool = RewardPool(texts, workers=workers, timeout_s=timeout_s) if workers else None

    @property
    def token_columns(self) -> tuple[str, ...]:
        """Columns of the prompts that token rewards take, as tokens."""
        rewards = (reward for reward in self.rewards if isinstance(reward, TokenReward))
        return tuple(dict.fromkeys(name for reward in rewards for name in reward.columns))

    def _bind(
        self, index: int, reward: TokenReward, known: Sequence[str], tokenizer: Any
    ) -> TokenScore:
        """Make score(prompts, completions, token columns) -> [B] float32 of a token reward."""
        name = self.names[index]
        for column in reward.columns:
            if column not in known:
                raise RewardError(
                    f"the token reward {name} takes the column {column!r}; the prompts have "
                    f"{sorted(known)}"
                )
        vocabulary = make_vocabulary(tokenizer) if reward.reads_vocabulary else None

        def score(
            batch: Prompts, made: Completions, columns: Mapping[str, TokenTexts]
        ) -> jax.Array:
            given: dict[str, Any] = {column: columns[column] for column in reward.columns}
            if vocabulary is not None:
                given["vocabulary"] = vocabulary
            found = jnp.asarray(reward.score(batch, made, **given))
            if found.shape != (made.tokens.shape[0],):
                raise RewardError(
                    f"the token reward {name} returned scores of shape {found.shape} "
                    f"for {made.tokens.shape[0]} completions"
                )
            return found.astype(jnp.float32)

        return score

    def judge_tokens(
        self, batch: Prompts, made: Completions, columns: Mapping[str, TokenTexts]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Judge completions inside compiled code: the weighted sum [B], and each reward's scores.

        What `judge` says of the same completions, but that the sum is one of float32. All rewards
        are token rewards (`require_token_rewards`).
        """
        parts = [score(batch, made, columns) for score in self._on_tokens.values()]
        total = sum((w * part for w, part in zip(self.weights, parts, strict=True)), jnp.float32(0))
        return (
            jnp.where(jnp.isfinite(total), total, jnp.nan),
            {
                name: jnp.where(jnp.isfinite(part), part, jnp.nan)
                for name, part in zip(self.names, parts, strict=True)
            },
        )

    def judge(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        columns: Mapping[str, Sequence[Any]],
        batch: Prompts,
        made: Completions,
        token_columns: Mapping[str, TokenTexts] = MappingProxyType({}),
    ) -> Judgement:
        """Judge n completions.

        A completion that one of the rewards fails on has the score NaN; the other rewards' scores
        stay in `components`, which has every reward's own scores. The first n rows of `batch`,
        `made` and `token_columns` are those of the texts. Raises RewardError for a reward that does
        not give one score for each.
        """
        parts = self._judge_texts(prompts, completions, columns)
        for index, score in self._compiled.items():
            found = np.asarray(score(batch, made, token_columns))
            parts[index] = judge_scores(found[: len(completions)])
        return combine_judgements(self.names, [parts[i] for i in range(len(parts))], self.weights)

    def judge_texts(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        columns: Mapping[str, Sequence[Any]],
    ) -> Judgement:
        """Judge n completions that are texts alone, as `judge` does.

        Raises RewardError where one of the rewards judges tokens.
        """
        if self._on_tokens:
            names = [self.names[index] for index in self._on_tokens]
            raise RewardError(
                f"the rewards {names} judge tokens, but a policy may write text alone: take a text "
                "reward, such as exact_match for exact_match_tokens"
            )
        parts = self._judge_texts(prompts, completions, columns)
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


def require_token_rewards(specs: Sequence[str]) -> None:
    """Raise RewardError, with the remedy, where a reward judges texts or cannot be loaded."""
    for name in specs:
        if not isinstance(load_reward(name), TokenReward):
            raise RewardError(
                f"the reward {name} judges texts on the host and cannot be compiled into a "
                "training step: take a token reward (exact_match_tokens, partial_match_tokens, or "
                "a function of your own marked @rljax.rewards.token_reward), or leave out "
                "--fused-steps"
            )


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
