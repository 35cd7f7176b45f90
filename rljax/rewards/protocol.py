"""Say what a reward is, call it, and check the scores that come back.

A score that cannot be had (the reward raises, or gives no finite number) costs that completion
only: it is NaN, with the reason beside it, and every update gives such a completion no weight.

A reward is either of two things:
- a **text reward**, a plain function on the host, `(prompts, completions, **columns) -> scores`:
  two lists of n strings and the other columns of the prompt file as lists of n, to n floats. A
  function without `**columns` gets only the columns it names.
- a **token reward**, a jittable function of arrays marked `@token_reward`, which can be compiled
  into the training step; `rewards.tokens` has examples.
"""

from __future__ import annotations

import functools
import inspect
import numbers
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from rljax.errors import UserError

if TYPE_CHECKING:  # worker processes read this file, and have no use for JAX
    import jax

QUOTE_CHARS = 200
FLOAT32_MAX = float(np.finfo(np.float32).max)
VOCABULARY = "vocabulary"


class RewardError(UserError, ValueError):
    """A reward that cannot be loaded or called, or scores that cannot be used."""


class TextReward(Protocol):
    """Score completions on the host; higher is better."""

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], **columns: Sequence[Any]
    ) -> Sequence[float]:
        """Return one float for each completion, in order."""
        ...


class TokenTexts(NamedTuple):
    """Texts as tokens, right-padded; NumPy arrays on the host, JAX arrays in compiled code."""

    tokens: Any
    """[B, A] int32."""
    mask: Any
    """[B, A] bool, true on real tokens."""


class Vocabulary(NamedTuple):
    """What the tokens of a tokenizer spell, as tables [V] that compiled code can look up."""

    silent: Any
    """bool: a text does not show it (EOS, padding and the other special tokens)."""
    blank: Any
    """bool: nothing but white space."""
    line_end: Any
    """bool: a line ends in it."""
    folded: Any
    """int32: the first token that is the same but for upper and lower case."""


class TokenReward(NamedTuple):
    """Score completions inside compiled code; `token_reward` makes one of a function."""

    score: Callable[..., jax.Array]
    """(prompts, completions, **columns) -> scores [B] float32; pure and jittable."""
    columns: tuple[str, ...] = ()
    """Columns of the prompt file that it takes, each as TokenTexts."""
    reads_vocabulary: bool = False
    """Whether it takes the tokenizer's tables as `vocabulary`."""


Reward = TextReward | TokenReward


def token_reward(function: Callable[..., jax.Array]) -> TokenReward:
    """Mark a pure function (prompts, completions, *columns) -> scores [B] as a token reward.

    Raises RewardError unless it takes two arguments or more, all of them by name.
    """
    parameters = list(inspect.signature(function).parameters.values())
    open_ended = any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)
    if len(parameters) < 2 or open_ended:
        raise RewardError(
            f"the token reward {function.__name__} must take prompts, completions, and then the "
            "columns that it reads, each by its name"
        )
    names = [p.name for p in parameters[2:]]
    columns = tuple(name for name in names if name != VOCABULARY)
    return TokenReward(function, columns, VOCABULARY in names)


class Failure(NamedTuple):
    """A completion without a score."""

    row: int
    """Which of the batch."""
    reason: str
    """What went wrong, in words."""


class Judgement(NamedTuple):
    """What a batch of n completions is worth."""

    scores: np.ndarray
    """[n] float32; NaN where the reward failed."""
    failures: tuple[Failure, ...]
    """One for each NaN, in order."""
    components: Mapping[str, np.ndarray] = MappingProxyType({})
    """The scores [n] of each of several rewards, by name, before they are weighted."""

    @property
    def judged(self) -> np.ndarray:
        """The scores of the completions that have one."""
        return self.scores[np.isfinite(self.scores)]

    def metrics(self) -> dict[str, float]:
        """Average each reward's own scores, failures left out: {"rewards/NAME": mean}."""
        return {
            f"rewards/{name}": float(np.mean(scores[np.isfinite(scores)]))
            for name, scores in self.components.items()
            if np.isfinite(scores).any()
        }


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


def read_score(value: Any) -> float:
    """Turn one score into a float that float32 can hold; raise RewardError for anything else.

    Numbers of any kind are taken, bools too; NaN, infinity, None, strings and lists are not.
    """
    scalar = value.item() if getattr(value, "ndim", None) == 0 else value
    if not isinstance(scalar, numbers.Real):
        raise RewardError(f"the score is not a number: {scalar!r} ({type(scalar).__name__})")
    if not abs(float(scalar)) <= FLOAT32_MAX:
        raise RewardError(f"the score is {scalar!r}, not a finite float32")
    return float(scalar)


def list_scores(scores: Any, count: int) -> list[Any]:
    """Make a list of what a reward returned; raise RewardError unless it holds `count` scores."""
    if isinstance(scores, str | bytes | Mapping) or not isinstance(scores, Iterable):
        raise RewardError(f"a reward must return a list of numbers, got {type(scores).__name__}")
    listed = list(scores)
    if len(listed) != count:
        raise RewardError(f"the reward returned {len(listed)} scores for {count} completions")
    return listed


def judge_scores(scores: Iterable[Any]) -> Judgement:
    """Check scores [n] one by one: what is no finite number becomes NaN and a failure."""
    return collect([_outcome(functools.partial(read_score, score)) for score in scores])


def collect(outcomes: Sequence[tuple[float, str]]) -> Judgement:
    """Make a judgement of n pairs (score, reason why there is none, or '')."""
    scores = np.asarray([score for score, _ in outcomes], np.float32)
    failures = (Failure(i, reason) for i, (_, reason) in enumerate(outcomes) if reason)
    return Judgement(scores, tuple(failures))


def score_one(
    reward: TextReward, prompt: str, completion: str, columns: Mapping[str, Any]
) -> tuple[float, str]:
    """Call a text reward with lists of one: (score, "") or (NaN, what went wrong)."""
    lists = {name: [value] for name, value in columns.items()}
    return _outcome(lambda: read_score(list_scores(reward([prompt], [completion], **lists), 1)[0]))


def _outcome(get: Callable[[], float]) -> tuple[float, str]:
    """Return the score that `get` gives; what it raises is the reason why there is none."""
    try:
        return get(), ""
    except RewardError as error:
        return float("nan"), str(error)
    except (Exception, SystemExit) as error:
        return float("nan"), describe_error(error)


def describe_error(error: BaseException) -> str:
    """Say what a reward, or another piece of a user's code, raised, and on which line."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


def judge_texts(
    reward: TextReward,
    prompts: Sequence[str],
    completions: Sequence[str],
    columns: Mapping[str, Sequence[Any]] | None = None,
) -> Judgement:
    """Call a text reward with the whole batch of n, and check what it returns.

    Where the call raises, each completion is judged by a call of its own, so that only those that
    raise again fail. Raises RewardError as `accepted_columns` does, and for a result that is not a
    list of n: nobody knows which score is whose.
    """
    columns = columns or {}
    kept = {name: list(columns[name]) for name in accepted_columns(reward, columns)}
    try:
        scores: Any = reward(list(prompts), list(completions), **kept)
        if isinstance(scores, Iterator):
            scores = list(scores)  # a generator raises here
    except (Exception, SystemExit):
        rows = [{name: values[i] for name, values in kept.items()} for i in range(len(prompts))]
        return collect(
            [score_one(reward, *item) for item in zip(prompts, completions, rows, strict=True)]
        )
    return judge_scores(list_scores(scores, len(completions)))


def show_failure(judgement: Judgement, prompts: Sequence[str], completions: Sequence[str]) -> str:
    """Show the first completion that failed, over three lines."""
    row, reason = judgement.failures[0]
    return (
        f"  prompt: {quote(prompts[row])}\n  completion: {quote(completions[row])}\n"
        f"  reason: {reason}"
    )


def quote(text: str) -> str:
    """Show a text on one line, cut to a readable length."""
    return repr(text if len(text) <= QUOTE_CHARS else text[:QUOTE_CHARS] + "...")
