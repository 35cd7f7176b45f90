"""Play episodes side by side: the policy writes a turn, the environments answer, until all end.

B episodes, P prompt slots, C slots of a conversation after its first observation, W tokens of a
turn at most.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from rljax.environments import MakeEnvironment, TextEnvironment, reset
from rljax.environments.config import EnvironmentConfig
from rljax.environments.play import Outcome, step_all
from rljax.errors import UserError
from rljax.reporting.statistics import distinct_n
from rljax.rollout.buckets import bucket_widths
from rljax.rollout.turns import Talk, Talking, Turn
from rljax.tasks.conversation import Speaker
from rljax.tasks.language import Report
from rljax.tasks.prompts import pad_prompts
from rljax.types import Completions, Prompts

READ_WIDTHS = 3
"""Widths in which observations are read: the longest, a half, a quarter; each is one program."""
End = Literal["", "terminated", "truncated", "turns", "room", "failed"]
"""Why an episode is over: the task has ended, or the environment cut it off; it had its turns; the
next observation and turn have no room; a step failed."""


class Exchange(NamedTuple):
    """A turn and what came back."""

    said: str
    reward: float
    answer: str


@dataclasses.dataclass
class Episode:
    """What was said in an episode."""

    seed: int
    first: str
    """The first observation."""
    exchanges: list[Exchange] = dataclasses.field(default_factory=list)
    end: End = ""
    reason: str = ""
    """Of one that failed: what went wrong."""
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    """What the environment's last step said in info["metrics"]."""

    @property
    def score(self) -> float:
        """The sum of its rewards; NaN where it failed."""
        failed = self.end == "failed"
        return float("nan") if failed else sum(exchange.reward for exchange in self.exchanges)

    @property
    def cut_off(self) -> bool:
        """Whether it ended without the task having ended."""
        return self.end in ("truncated", "turns", "room")

    def text(self) -> str:
        """Write the conversation after the first observation, a paragraph for each turn."""
        lines = []
        for said, reward, answer in self.exchanges:
            lines += [f"> {said}", f"[{reward:+g}] {answer}".rstrip()]
        return "\n".join(lines)


class Played(NamedTuple):
    """A batch of episodes."""

    prompts: Prompts
    """The first observations."""
    made: Completions
    """Each conversation after its first observation."""
    turn_rewards: np.ndarray
    """[B, C] float32: the reward of each turn on its last own token."""
    episodes: list[Episode]
    seconds: float
    """That the environments took."""

    @property
    def scores(self) -> np.ndarray:
        """[B] float32: the sum of each episode's rewards; NaN where it failed."""
        return np.asarray([episode.score for episode in self.episodes], np.float32)


class Pool:
    """Environments of one kind, made when they are first needed and used again."""

    def __init__(self, make: MakeEnvironment) -> None:
        self._make, self._made = make, list[TextEnvironment]()

    def take(self, count: int) -> list[TextEnvironment]:
        """Return so many environments; each has to be reset."""
        while len(self._made) < count:
            self._made.append(self._make())
        return self._made[:count]

    def drop(self, environment: TextEnvironment) -> None:
        """Use an environment no more: a step in it failed, or has not come back."""
        self._made = [kept for kept in self._made if kept is not environment]


@dataclasses.dataclass(frozen=True)
class Table:
    """Where episodes are played: all that does not change from one batch to the next."""

    pool: Pool
    config: EnvironmentConfig
    speaker: Speaker
    decode: Callable[[list[int]], str]
    """Token ids -> text, without special tokens."""
    pad_token_id: int
    slots: int
    """C."""
    context: int
    """Of the model, in tokens."""
    prompt_multiple: int

    def play(
        self,
        talking: Talking,
        prepared: Any,
        seeds: Sequence[int],
        samples: Sequence[int],
        key: jax.Array,
    ) -> Played:
        """Play one episode for each seed.

        talking: the compiled functions. prepared: the policy, as `talking.prepare` gives it.
        samples [B]: which of its seed's episodes each is. Raises UserError for a first observation
        that does not fit.
        """
        started = time.perf_counter()
        environments = self.pool.take(len(seeds))
        episodes = [
            Episode(seed, reset(environment, seed))
            for environment, seed in zip(environments, seeds, strict=True)
        ]
        seconds = time.perf_counter() - started
        prompts = self._prompts(episodes, samples)
        state: Talk = talking.start(prepared, prompts, key)
        rewards = np.zeros((len(seeds), self.slots), np.float32)
        used = np.zeros(len(seeds), np.int32)
        for number in range(1, self.config.max_turns + 1):
            live = np.asarray([not episode.end for episode in episodes])
            state, turn = talking.write(prepared, state, live)
            said = jax.device_get(turn)
            used += said.counts
            started = time.perf_counter()
            self._step(environments, episodes, said, used, rewards)
            seconds += time.perf_counter() - started
            answers = self._answers(episodes, said, used, last=number == self.config.max_turns)
            if not answers:
                break
            state = talking.read(prepared, state, *self._padded(answers, len(seeds)))
            for row, tokens in answers.items():
                used[row] += len(tokens)
        return Played(prompts, state.made, rewards, episodes, seconds)

    def _prompts(self, episodes: Sequence[Episode], samples: Sequence[int]) -> Prompts:
        """Encode and pad the first observations."""
        room = self.context - self.slots
        encoded = [self.speaker.first(episode.first) for episode in episodes]
        for tokens, episode in zip(encoded, episodes, strict=True):
            if len(tokens) > room:
                raise UserError(
                    f"the first observation of seed {episode.seed} has {len(tokens)} tokens, but "
                    f"the model's context of {self.context} leaves {room} beside "
                    f"sampling.max_new_tokens {self.slots}: lower it, or shorten the observation"
                )
        multiple = self.prompt_multiple
        width = min(-(-max(map(len, encoded)) // multiple) * multiple, room)
        padded, mask = pad_prompts(encoded, pad_id=self.pad_token_id, length=width)
        ids = np.asarray([episode.seed for episode in episodes], np.int32)
        return Prompts(padded, mask, ids, np.asarray(samples, np.int32))

    def _step(
        self,
        environments: Sequence[TextEnvironment],
        episodes: Sequence[Episode],
        said: Turn,
        used: np.ndarray,
        rewards: np.ndarray,
    ) -> None:
        """Let the environments answer a turn; write down what comes back."""
        rows = [row for row, episode in enumerate(episodes) if not episode.end]
        texts = [self.decode(said.tokens[row][: said.counts[row]].tolist()).strip() for row in rows]
        playing = [environments[row] for row in rows]
        outcomes = step_all(playing, texts, self.config.step_timeout_s)
        for row, text, outcome in zip(rows, texts, outcomes, strict=True):
            _write_down(episodes[row], text, outcome)
            if episodes[row].end == "failed":
                self.pool.drop(environments[row])
            else:
                rewards[row, used[row] - 1] = episodes[row].exchanges[-1].reward

    def _answers(
        self, episodes: Sequence[Episode], said: Turn, used: np.ndarray, *, last: bool
    ) -> dict[int, list[int]]:
        """Encode the answers to episodes that go on, by row; end those that may not."""
        answers = {}
        for row, episode in enumerate(episodes):
            if episode.end:
                continue
            if last:
                episode.end = "turns"
                continue
            final = int(said.tokens[row][said.counts[row] - 1])
            tokens = self.speaker.answer(episode.exchanges[-1].answer, final)
            room = self.slots - int(used[row]) - self.config.max_turn_tokens
            if len(tokens) > min(room, self.config.max_observation_tokens):
                episode.end = "room"
                continue
            answers[row] = tokens
        return answers

    def _padded(
        self, answers: dict[int, list[int]], batch: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pad answers to one of a few widths: tokens [B, O], counts [B], live [B]."""
        widths = bucket_widths(self.config.max_observation_tokens, READ_WIDTHS)
        longest = max(map(len, answers.values()))
        width = next(width for width in widths if width >= longest)
        tokens = np.full((batch, width), self.pad_token_id, np.int32)
        counts, live = np.zeros(batch, np.int32), np.zeros(batch, bool)
        for row, answer in answers.items():
            tokens[row, : len(answer)] = answer
            counts[row], live[row] = len(answer), True
        return tokens, counts, live


def _write_down(episode: Episode, text: str, outcome: Outcome) -> None:
    """Add a turn to an episode, and end it where the environment says so."""
    if isinstance(outcome, str):
        episode.exchanges.append(Exchange(text, 0.0, ""))
        episode.end, episode.reason = "failed", outcome
        return
    episode.exchanges.append(Exchange(text, outcome.reward, outcome.observation))
    episode.metrics = {n: float(v) for n, v in outcome.info.get("metrics", {}).items()}
    if outcome.terminated:
        episode.end = "terminated"
    elif outcome.truncated:
        episode.end = "truncated"


def episode_report(episodes: Sequence[Episode]) -> Report:
    """Average what environments measured over episodes that did not fail, and describe these.

    distinct_1 and distinct_2 are of all that the policy said. A metric that an episode lacks is
    left out of that metric's mean.
    """
    whole = [episode for episode in episodes if episode.end != "failed"]
    columns: dict[str, list[float]] = {}
    for episode in whole:
        for name, value in episode.metrics.items():
            columns.setdefault(name, []).append(value)
    means = {name: float(np.mean(values)) for name, values in columns.items() if values}
    said = [exchange.said for episode in whole for exchange in episode.exchanges]
    variety = {f"distinct_{n}": distinct_n(said, n) for n in (1, 2)}
    return Report(means | variety | episode_metrics(episodes))


def require_alike(episodes: Sequence[Episode], group: int) -> None:
    """Raise UserError unless every `group` episodes in turn begin alike, as one seed's must."""
    for row, episode in enumerate(episodes):
        first = episodes[row - row % group]
        if episode.first != first.first:
            raise UserError(
                f"seed {episode.seed} began with {first.first!r:.100} once and with "
                f"{episode.first!r:.100} then: reset(seed) must give the same episode every time, "
                "or what is compared within a group differs in more than what the policy said"
            )


def episode_metrics(episodes: Sequence[Episode]) -> dict[str, float]:
    """Describe a batch: turns, return and truncation of its episodes, failed ones left out."""
    good = [episode for episode in episodes if episode.end != "failed"]
    metrics = {"episode/failures": float(len(episodes) - len(good))}
    if not good:
        return metrics
    return metrics | {
        "episode/turns": float(np.mean([len(episode.exchanges) for episode in good])),
        "episode/return": float(np.mean([episode.score for episode in good])),
        "episode/truncated_fraction": float(np.mean([episode.cut_off for episode in good])),
    }


def require_scores(episodes: Sequence[Episode], allowed: float) -> None:
    """Raise UserError, showing one, where more than a share of the episodes failed."""
    failed = [episode for episode in episodes if episode.end == "failed"]
    if len(failed) > allowed * len(episodes):
        shown = failed[0]
        raise UserError(
            f"{len(failed)} of {len(episodes)} episodes failed, more than "
            f"--environment.max-failures {allowed:g} allows; one of them, seed {shown.seed}:\n"
            f"  observation: {shown.first!r:.200}\n  said: {shown.exchanges[-1].said!r:.200}\n"
            f"  reason: {shown.reason}"
        )
