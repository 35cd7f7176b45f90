"""Say observations to a model: as plain text, or as the user's messages of its chat template.

What is said is encoded piece by piece, and never again: the tokens that the policy wrote between
stay what they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from rljax.environments.config import OBSERVATION, EnvironmentConfig
from rljax.tasks.prompts import Tokenizer, encode_chat, special_prefix
from rljax.tasks.sources import DataError

ANSWER = "ANSWER"
"""Stands for the assistant's turn where its place in the template is looked for."""


class Speaker(Protocol):
    """Turns observations into tokens."""

    def first(self, observation: str) -> list[int]:
        """Encode the observation that an episode begins with."""
        ...

    def answer(self, observation: str, last: int) -> list[int]:
        """Encode what stands between two turns; last: the last token of the turn before."""
        ...


@dataclasses.dataclass(frozen=True)
class TextSpeaker:
    """Observations in a template, with a separator before each but the first."""

    tokenizer: Tokenizer
    template: str
    separator: str
    prefix: Sequence[int]
    """What the tokenizer puts before a text."""

    def first(self, observation: str) -> list[int]:
        """Encode the observation that an episode begins with."""
        text = self.template.replace(OBSERVATION, observation)
        return [*self.prefix, *self.tokenizer.encode(text, add_special_tokens=False)]

    def answer(self, observation: str, last: int) -> list[int]:
        """Encode what stands between two turns."""
        del last
        text = self.separator + self.template.replace(OBSERVATION, observation)
        return list(self.tokenizer.encode(text, add_special_tokens=False))


@dataclasses.dataclass(frozen=True)
class ChatSpeaker:
    """Observations as messages of the user, in a chat template."""

    tokenizer: Tokenizer
    template: str
    system_prompt: str | None
    ends: Sequence[int]
    """Tokens by which a turn ends: the template's own end is then not written again."""

    def first(self, observation: str) -> list[int]:
        """Encode the observation that an episode begins with."""
        return encode_chat(self.tokenizer, self._text(observation), self.system_prompt)

    def answer(self, observation: str, last: int) -> list[int]:
        """Encode the rest of the turn that is over, the user's message, and the next turn's start.

        Raises DataError for a template that writes earlier turns otherwise once there are later
        ones: what the policy has read would not be what it reads.
        """
        system = [] if self.system_prompt is None else [_said("system", self.system_prompt)]
        before = [*system, _said("user", "a")]
        after = [*before, _said("assistant", ANSWER), _said("user", self._text(observation))]
        start = self._render(before) + ANSWER
        whole = self._render(after)
        if not whole.startswith(start):
            raise DataError(
                "environment.chat: the model's chat template rewrites earlier turns, so that no "
                "conversation goes on from what was read; leave out environment.chat"
            )
        rest = whole[len(start) :]
        if last in self.ends:
            rest = rest.removeprefix(self.tokenizer.decode([last]))
        return list(self.tokenizer.encode(rest, add_special_tokens=False))

    def _text(self, observation: str) -> str:
        return self.template.replace(OBSERVATION, observation)

    def _render(self, messages: list[dict[str, str]]) -> str:
        rendered: str = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return rendered


def _said(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def make_speaker(
    config: EnvironmentConfig, tokenizer: Tokenizer, eos_token_ids: Sequence[int]
) -> Speaker:
    """Choose how observations are said.

    Raises DataError where environment.chat is set and the tokenizer has no chat template, or one
    that rewrites earlier turns.
    """
    if not config.chat:
        prefix = special_prefix(tokenizer)
        return TextSpeaker(tokenizer, config.template, config.separator, prefix)
    if not tokenizer.chat_template:
        raise DataError("environment.chat needs a tokenizer with a chat template; this has none")
    speaker = ChatSpeaker(tokenizer, config.template, config.system_prompt, eos_token_ids)
    speaker.answer("a", eos_token_ids[0])
    return speaker
