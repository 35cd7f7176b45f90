"""Say what a reward is, call it, and check the scores that come back.

A reward is either of two things:
- a **text reward**, a plain function on the host, `(prompts, completions, **columns) -> scores`:
  two lists of n strings and the other columns of the prompt file as lists of n, to n floats. A
  function without `**columns` gets only the columns it names.
- a **token reward**, a jittable function of arrays wrapped in `TokenReward`, which can be compiled
  into the training step.
"""

import inspect
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from rljax.errors import UserError
from rljax.types import Completions, Prompts

QUOTE_CHARS = 200
FLOAT32_MAX = float(np.finfo(np.float32).max)


class RewardError(UserError, ValueError):
    """A reward that cannot be loaded or called, or scores that cannot be used."""


class TextReward(Protocol):
    """Score completions on the host; higher is better."""

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], **columns: Sequence[Any]
    ) -> Sequence[float]:
        """Return one float for each completion, in order."""
        ...


class TokenReward(NamedTuple):
    """Score completions inside compiled code."""

    score: Callable[[Prompts, Completions], jax.Array]
    """(prompts, completions) -> scores [B] float32; pure and jittable."""


Reward = TextReward | TokenReward


def accepted_columns(reward: TextReward, columns: Iterable[str]) -> tuple[str, ...]:
    """Pick the columns that a text reward takes.

    Raises RewardError when it cannot be called with prompts, completions and those columns, or
    when a column has the name of one of its first two arguments.
    """
    name = getattr(reward, "__qualname__", repr(reward))
    try:
        signature = inspect.signature(reward)
    except (TypeError, ValueError):  # compiled callables do not tell; let the call decide
        return tuple(columns)
    parameters = list(signature.parameters.values())
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = [p.name for p in parameters[2:] if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    accepted = tuple(c for c in columns if takes_all or c in named)
    try:
        signature.bind([], [], **{c: [] for c in accepted})
    except TypeError as error:
        raise RewardError(
            f"the reward {name}{signature} does not fit: {error}. It is called as "
            f"reward(prompts, completions, **columns) with the columns {sorted(columns)}"
        ) from None
    return accepted


def score_texts(
    reward: TextReward,
    prompts: Sequence[str],
    completions: Sequence[str],
    columns: Mapping[str, Sequence[Any]] | None = None,
) -> np.ndarray:
    """Call a text reward and check what it returns: float32 [n].

    Raises RewardError as `accepted_columns` and `check_scores` do; an exception inside the reward
    itself comes through as it is.
    """
    columns = columns or {}
    accepted = accepted_columns(reward, columns)
    kept = {name: list(columns[name]) for name in accepted}
    return check_scores(reward(list(prompts), list(completions), **kept), prompts, completions)


def check_scores(scores: Any, prompts: Sequence[str], completions: Sequence[str]) -> np.ndarray:
    """Turn what a reward returned into float32 [n], or say what is wrong with it.

    Numbers of any kind are taken, bools too; NaN, infinity, None, strings, nested lists and a wrong
    count raise RewardError, with the index, the prompt and the completion.
    """
    if isinstance(scores, str | bytes | Mapping) or not isinstance(scores, Iterable):
        raise RewardError(f"a reward must return a list of numbers, got {type(scores).__name__}")
    scores = list(scores)
    if len(scores) != len(completions):
        raise RewardError(
            f"the reward returned {len(scores)} scores for {len(completions)} completions"
        )
    checked = np.empty(len(scores), np.float32)
    for index, score in enumerate(scores):
        scalar = score.item() if getattr(score, "ndim", None) == 0 else score
        if not isinstance(scalar, numbers.Real):
            problem = f"is not a number: {scalar!r} ({type(scalar).__name__})"
        elif not abs(float(scalar)) <= FLOAT32_MAX:
            problem = f"is {scalar!r}, not a finite float32"
        else:
            checked[index] = float(scalar)
            continue
        raise RewardError(
            f"score {index} of {len(scores)} {problem}\n"
            f"  prompt: {_quote(prompts[index])}\n  completion: {_quote(completions[index])}"
        )
    return checked


def _quote(text: str) -> str:
    """Show a text on one line, cut to a readable length."""
    return repr(text if len(text) <= QUOTE_CHARS else text[:QUOTE_CHARS] + "...")
