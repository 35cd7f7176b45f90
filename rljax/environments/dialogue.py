"""Chat with somebody who answers as people did: Li et al. 2016 (https://arxiv.org/abs/1606.01541).

The user opens with a turn of a real conversation, and answers with what was said to the turn that
is nearest to the agent's. A turn is worth 0.25 ease of answering + 0.25 information flow + 0.5
semantic coherence (the paper's weights, section 4.4; `dialogue_rewards`). A dialogue ends, as in
section 5.3, when the agent says something dull, or nearly what it said before, or after its turns.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Mapping, Sequence
from typing import Any

from rljax.environments.chitchat import Nearest, overlap, plain, read_conversations
from rljax.environments.dialogue_rewards import DULL, DialogueJudge, Parts, load_judge
from rljax.environments.scripted import Message, Scripted
from rljax.environments.text import EnvironmentFailure, is_held_out
from rljax.tasks.sources import DataError

AT_A_LOSS = "what do you mean?"
REPEATED = 0.8
"""Share of a turn's words that stood in the turn before, beyond which it repeats it."""


@dataclasses.dataclass
class Dialogue:
    """Chit-chat with a retrieval user (package chitchat-dataset, or one's own conversations)."""

    model: str = "smollm2-135m-instruct"
    """The frozen language model that judges: a model, or a run that has trained one."""
    backward: str | None = None
    """The model of a turn given its answer; None: `model`."""
    turns: int = 5
    """Turns of the agent, at most."""
    ease: float = 0.25
    """Weight of the ease of answering."""
    flow: float = 0.25
    """Weight of the information flow."""
    coherence: float = 0.5
    """Weight of the semantic coherence."""
    turn_bonus: float = 0.0
    """Added for every turn that does not end the dialogue (not in the paper): log-probabilities
    are negative, so that without it an early end may be worth most."""
    empty_reward: float = -5.0
    """Worth of a turn without a word."""
    max_words: int = 16
    """Longer turns of the data are left out."""
    pairs: int = 20_000
    """Known turns that the user answers from."""
    width: int = 64
    """Tokens that the judges see of a context and a turn."""
    data: str | None = None
    """JSONL file of `messages`; None: the package chitchat-dataset."""

    def __post_init__(self) -> None:
        for name in ("turns", "max_words", "pairs"):
            if getattr(self, name) < 1:
                raise EnvironmentFailure(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.width < 8:
            raise EnvironmentFailure(f"width is {self.width}; it must be at least 8")
        if not (self.ease or self.flow or self.coherence):
            raise EnvironmentFailure("ease, flow and coherence are all 0: nothing is rewarded")
        self.judge: DialogueJudge = load_judge(self.model, self.backward, self.width)
        self.user = _make_user(self.data, self.max_words, self.pairs)

    def reset(self, *, seed: int) -> tuple[str, dict[str, Any]]:
        """Open with one of the first turns of a conversation on the seed's side."""
        side = _openings(self.data, self.max_words, is_held_out(seed))
        self._heard = random.Random(f"dialogue {seed}").choice(side)
        self._said: list[str] = []
        self._answers = [self._heard]
        self._parts: list[Parts] = []
        return self._heard, {}

    def step(self, text: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Judge a turn and answer it."""
        said = plain(text)
        if not any(letter.isalnum() for letter in said):
            return "", self.empty_reward, True, False, {"metrics": self._metrics(dull=True)}
        before = self._said[-1] if self._said else None
        parts = self.judge.judge(before, self._heard, said)
        repeats = before is not None and overlap(before, said) > REPEATED
        dull = is_dull(said)
        self._said.append(said)
        self._parts.append(parts)
        reward = self.ease * parts.ease + self.flow * parts.flow + self.coherence * parts.coherence
        ended = dull or repeats
        if not ended:
            reward += self.turn_bonus
        self._heard = self.user.answer(said, self._answers) or AT_A_LOSS
        self._answers.append(self._heard)
        cut_off = not ended and len(self._said) >= self.turns
        return self._heard, reward, ended, cut_off, {"metrics": self._metrics(dull=ended)}

    def _metrics(self, *, dull: bool) -> dict[str, float]:
        """Measure the dialogue so far; `dull`: it ends with a dull or repeated turn."""
        count = len(self._parts)
        means = {
            name: sum(getattr(parts, name) for parts in self._parts) / count
            for name in Parts._fields
            if count
        }
        words = sum(len(said.split()) for said in self._said)
        return {
            **means,
            "turns_before_dull": float(max(count - 1, 0) if dull else count),
            "ended_dull": float(dull),
            "words": words / max(count, 1),
        }

    def scripted(self, noise: float) -> Mapping[str, Scripted]:
        """Make the policies "random", "dull" and "retrieval" (what the user would answer)."""

        def at_random(messages: Sequence[Message], rng: random.Random) -> str:
            return rng.choice(self.user.pairs)[1]

        def dull(messages: Sequence[Message], rng: random.Random) -> str:
            return DULL[2]

        def retrieval(messages: Sequence[Message], rng: random.Random) -> str:
            heard = [m["content"] for m in messages]
            return self.user.answer(heard[-1], heard) or AT_A_LOSS

        made = {"random": at_random, "dull": dull, "retrieval": retrieval}

        def noisy(policy: Scripted) -> Scripted:
            return lambda messages, rng: (at_random if rng.random() < noise else policy)(
                messages, rng
            )

        return {name: noisy(policy) for name, policy in made.items()}


def is_dull(text: str) -> bool:
    """Say whether a turn holds one of the dull responses (the paper's phrase matching)."""
    return any(phrase in plain(text) for phrase in DULL)


@functools.lru_cache(maxsize=4)
def _make_user(data: str | None, max_words: int, pairs: int) -> Nearest:
    known = [c for c in read_conversations(data, max_words) if not c.held_out]
    if not known:
        raise DataError(f"{data or 'chitchat-dataset'}: all conversations are held out; give more")
    return Nearest(known, pairs)


@functools.lru_cache(maxsize=8)
def _openings(data: str | None, max_words: int, held_out: bool) -> tuple[str, ...]:
    """Return the third turns of conversations, behind the greetings, of three words or more."""
    found = [
        c.turns[2]
        for c in read_conversations(data, max_words)
        if c.held_out == held_out and len(c.turns) > 3 and len(c.turns[2].split()) >= 3
    ]
    if not found:
        raise DataError(
            f"{data or 'chitchat-dataset'}: no {'held-out' if held_out else 'training'} "
            "conversation has four turns, the third of three words or more"
        )
    return tuple(dict.fromkeys(found))
