"""Judge a policy on fixed prompts: what it writes, its scores, its KL from the reference.

B prompts of a batch, N of the evaluation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rljax.rewards.protocol import Judgement
from rljax.tasks.language import Report
from rljax.tasks.prompts import PromptSet, make_batch
from rljax.tasks.task import Task
from rljax.tasks.token_tables import ROWS, Table, make_tables
from rljax.types import Completions, Prompts

Act = Callable[[Prompts], Completions]
LogProbs = Callable[[Prompts, Completions], jax.Array]


def decode_completions(tokenizer: Any, completions: Completions) -> list[str]:
    """Turn completions [B, C] into B texts, without special tokens."""
    tokens, mask = np.asarray(completions.tokens), np.asarray(completions.mask)
    rows = [row[real].tolist() for row, real in zip(tokens, mask, strict=True)]
    return [tokenizer.decode(row, skip_special_tokens=True) for row in rows]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEvaluation:
    """What any policy wrote for N prompts, with one number each."""

    prompts: list[str]
    completions: list[str]
    scores: np.ndarray
    """[N] float32, as the task's reward gives them; NaN where it failed."""
    components: dict[str, np.ndarray]
    """[N] float32 each: the scores of every reward by itself, by name."""
    report: Report = Report({})
    """What the language task measures, where there is one."""

    @property
    def reward_means(self) -> dict[str, float]:
        """Each reward's mean over what it could judge: {"rewards/NAME": mean}."""
        return Judgement(self.scores, (), self.components).metrics()

    @property
    def failures(self) -> int:
        """How many completions have no score."""
        return int(np.sum(~np.isfinite(self.scores)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation(TextEvaluation):
    """What a language model wrote, with its tokens counted and its KL from the reference."""

    kl: np.ndarray
    """[N] float32: k1 estimate of KL(policy || reference), nats per completion."""
    lengths: np.ndarray
    """[N] int: tokens, EOS included."""
    tables: tuple[Table, ...] = ()
    """Numbers of each token, of the first completions."""


def evaluate_texts(
    texts: list[str], task: Task, prompts: PromptSet, indices: np.ndarray
) -> TextEvaluation:
    """Judge what was written for the prompts at `indices`, without tokens.

    Raises RewardError where a reward judges tokens, or fails on too many texts.
    """
    judgement = task.judge_texts(prompts, indices, texts)
    return TextEvaluation(
        prompts=[prompts.texts[int(i)] for i in indices],
        completions=texts,
        scores=judgement.scores,
        components=dict(judgement.components),
        report=task.report(prompts, indices, texts),
    )


def evaluate(
    act: Act,
    ref_log_probs: LogProbs,
    task: Task,
    prompts: PromptSet,
    indices: np.ndarray,
    *,
    tokenizer: Any,
    pad_id: int,
    batch_size: int,
    multiple: int,
) -> Evaluation:
    """Complete and judge the prompts at `indices`, in batches of one shape.

    The last batch is filled up with prompts whose results are dropped, so that nothing is compiled
    for it; a prompt's completion does not depend on its batch.
    """
    texts: list[str] = []
    judgements, kls, lengths = [], [], []
    tables: list[Table] = []
    for start in range(0, len(indices), batch_size):
        chosen = indices[start : start + batch_size]
        filled = np.resize(chosen, batch_size)
        width = -(-prompts.max_tokens // multiple) * multiple
        batch = make_batch(prompts, filled, pad_id=pad_id, multiple=multiple, length=width)
        made = act(batch)
        real = len(chosen)
        reference = ref_log_probs(batch, made)
        if not start:
            tables = make_tables(tokenizer, made, reference, min(ROWS, real))
        difference = np.asarray(made.log_probs) - np.asarray(reference)
        kls.append(np.sum(np.where(made.mask, difference, 0), axis=1)[:real])
        lengths.append(np.sum(made.mask, axis=1)[:real])
        written = decode_completions(tokenizer, made)[:real]
        judgements.append(task.judge(prompts, chosen, batch, made, written))
        texts.extend(written)
    return Evaluation(
        prompts=[prompts.texts[int(i)] for i in indices],
        completions=texts,
        scores=np.concatenate([judgement.scores for judgement in judgements]),
        components={
            name: np.concatenate([judgement.components[name] for judgement in judgements])
            for name in task.reward.names
        },
        kl=np.concatenate(kls),
        lengths=np.concatenate(lengths),
        tables=tuple(tables),
        report=task.report(prompts, indices, texts),
    )
