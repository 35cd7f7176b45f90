"""Play episodes with a policy that is no language model: rules, retrieval, random actions.

A scripted policy sees the conversation so far and writes the next turn, as a model does; an
environment may offer some by name (`scripted`), which are what a learned policy has to beat, and
what demonstrations are made of. What an episode was worth beyond its rewards stands in
info["metrics"] of its last step: numbers by name.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from rljax.environments.text import (
    HELD_OUT_SEEDS,
    EnvironmentFailure,
    TextEnvironment,
    is_held_out,
    reset,
    step,
)
from rljax.reporting.statistics import Interval, bootstrap_mean

Message = Mapping[str, str]
"""{"role": "user" or "assistant", "content": ...}; the environment is the user."""
Scripted = Callable[[Sequence[Message], random.Random], str]
"""(the conversation so far, which ends with the environment's words; its own source of randomness)
-> the next turn."""
LONGEST = 1000
"""Turns after which an episode that does not end is an error."""


@runtime_checkable
class OffersScripted(Protocol):
    """An environment that comes with policies."""

    def scripted(self, noise: float) -> Mapping[str, Scripted]:
        """Make its policies by name; in a share `noise` of the turns they act at random."""
        ...


class Played(NamedTuple):
    """An episode that is over."""

    seed: int
    messages: tuple[Message, ...]
    rewards: tuple[float, ...]
    """One for each turn of the policy."""
    info: Mapping[str, Any]
    """What the last step said."""

    @property
    def score(self) -> float:
        """The sum of its rewards."""
        return sum(self.rewards)

    @property
    def said(self) -> tuple[str, ...]:
        """The policy's turns."""
        return tuple(m["content"] for m in self.messages if m["role"] == "assistant")


def play(environment: TextEnvironment, seed: int, policy: Scripted) -> Played:
    """Play one episode to its end; the same seed gives the same episode.

    Raises EnvironmentFailure where it does not end, and as `reset` and `step` do.
    """
    rng = random.Random(f"scripted {seed}")
    messages: list[Message] = [{"role": "user", "content": reset(environment, seed)}]
    rewards: list[float] = []
    while len(rewards) < LONGEST:
        text = policy(tuple(messages), rng).strip()
        made = step(environment, text)
        rewards.append(made.reward)
        messages.append({"role": "assistant", "content": text})
        if made.terminated or made.truncated:
            return Played(seed, tuple(messages), tuple(rewards), made.info)
        messages.append({"role": "user", "content": made.observation})
    raise EnvironmentFailure(
        f"the environment {type(environment).__name__}: the episode of seed {seed} has not ended "
        f"after {LONGEST} turns; end it (terminated or truncated)"
    )


def replay(environment: TextEnvironment, seed: int, said: Sequence[str]) -> Played:
    """Play turns that somebody has written, in order, for what the environment says of them.

    The conversation is cut off where they end. Raises ValueError for turns after the end, and where
    there is none.
    """
    if not said:
        raise ValueError(f"the episode of seed {seed} has no turn to play again")
    messages: list[Message] = [{"role": "user", "content": reset(environment, seed)}]
    rewards: list[float] = []
    over, info = False, {}
    for text in said:
        if over:
            raise ValueError(f"the episode of seed {seed} was over before {text!r}")
        made = step(environment, text)
        rewards.append(made.reward)
        over, info = made.terminated or made.truncated, made.info
        messages.append({"role": "assistant", "content": text})
        if not over:
            messages.append({"role": "user", "content": made.observation})
    return Played(seed, tuple(messages), tuple(rewards), info)


def summarize(played: Sequence[Played]) -> dict[str, Interval]:
    """Put 95% bootstrap intervals on the means of score, turns and metrics over episodes.

    A metric that an episode lacks is left out of that metric's mean.
    """
    columns: dict[str, list[float]] = {
        "score": [p.score for p in played],
        "turns": [float(len(p.rewards)) for p in played],
    }
    for p in played:
        for name, value in p.info.get("metrics", {}).items():
            columns.setdefault(name, []).append(float(value))
    return {name: bootstrap_mean(values) for name, values in columns.items()}


def find_scripted(environment: TextEnvironment, name: str, noise: float = 0.0) -> Scripted:
    """Return a policy that an environment offers.

    Raises EnvironmentFailure where it offers none of this name, or noise is not in [0, 1].
    """
    kind = type(environment).__name__
    if not 0 <= noise <= 1:
        raise EnvironmentFailure(f"noise is {noise}; it must be in [0, 1]")
    if not isinstance(environment, OffersScripted):
        raise EnvironmentFailure(
            f"the environment {kind} offers no policies: give it a method scripted(noise)"
        )
    known = environment.scripted(noise)
    if name not in known:
        raise EnvironmentFailure(
            f"the environment {kind} has no policy {name!r}; it has {sorted(known)}"
        )
    return known[name]


def seeds_of(split: str, count: int, first: int = 0) -> list[int]:
    """Return `count` seeds of a side, "train" or "held_out".

    Raises ValueError for another side, or where the held-out seeds do not suffice.
    """
    if split not in ("train", "held_out"):
        raise ValueError(f"split is {split!r}; it must be 'train' or 'held_out'")
    start = first + (0 if split == "held_out" else HELD_OUT_SEEDS)
    seeds = list(range(start, start + count))
    if split == "held_out" and seeds and not is_held_out(seeds[-1]):
        raise ValueError(f"there are {HELD_OUT_SEEDS} held-out seeds; {first} + {count} are more")
    return seeds
