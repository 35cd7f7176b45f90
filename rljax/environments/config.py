"""The flags of a text environment, and how its episodes are bounded."""

from __future__ import annotations

import dataclasses

OBSERVATION = "{observation}"


@dataclasses.dataclass(frozen=True)
class EnvironmentConfig:
    """A text environment to act in for several turns, in place of a task of prompts and reward."""

    name: str | None = None
    """'path/to/file.py:Class', 'package.module:Class', 'gymnasium:ID', 'textarena:ID' or
    'reasoning-gym:TASK', each with settings behind it as '?key=value&key=value'. None: the policy
    completes prompts (task)."""
    max_turns: int = 8
    """Turns of the policy in an episode, at most; it is cut off after them."""
    max_turn_tokens: int = 16
    """Tokens that the policy may write in a turn. The whole conversation after the first
    observation has sampling.max_new_tokens."""
    max_observation_tokens: int = 64
    """Tokens of an observation after the first, with what stands around it; an episode whose next
    one is longer, or leaves no room for a turn, is cut off."""
    template: str = OBSERVATION
    """Text around every observation, which stands in it as {observation}."""
    separator: str = "\n"
    """Text before every observation but the first."""
    stop_token: str | None = None
    """Text of one token that ends a turn as EOS does, such as a line break; None: only EOS."""
    chat: bool = False
    """Speak through the model's chat template: observations are the user's messages, turns the
    assistant's."""
    system_prompt: str | None = None
    """System message of the chat; needs `chat`."""
    step_timeout_s: float | None = None
    """Seconds that a step of the environment may take; an episode whose step takes longer has no
    score. None: as long as it takes."""
    max_failures: float = 0.2
    """Share of a batch's episodes that may go without a score, because a step raised or took too
    long; they teach nothing. Beyond it the run stops and shows one of them."""

    def validate(self) -> None:
        """Raise ValueError for values that mean nothing, and for flags that nothing reads."""
        if self.name is None:
            changed = [
                field.name
                for field in dataclasses.fields(self)
                if getattr(self, field.name) != field.default
            ]
            if changed:
                raise ValueError(
                    f"environment.{changed[0]} is {getattr(self, changed[0])!r}, but there is no "
                    "environment: set environment.name"
                )
            return
        for name in ("max_turns", "max_turn_tokens", "max_observation_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"environment.{name} is {getattr(self, name)}; it must be at least 1"
                )
        if self.template.count(OBSERVATION) != 1:
            raise ValueError(
                f"environment.template must hold {OBSERVATION} once, it is {self.template!r}"
            )
        if self.step_timeout_s is not None and not self.step_timeout_s > 0:
            raise ValueError(
                f"environment.step_timeout_s is {self.step_timeout_s}; it must be positive, or None"
            )
        if not 0 <= self.max_failures <= 1:
            raise ValueError(
                f"environment.max_failures is {self.max_failures}; it must be in [0, 1]"
            )
        self._check_chat()

    def _check_chat(self) -> None:
        """Raise ValueError for forms of a text together with those of a chat."""
        if not self.chat and self.system_prompt is not None:
            raise ValueError("environment.system_prompt needs environment.chat")
        if self.chat:
            for name, default in (("separator", "\n"), ("stop_token", None)):
                if getattr(self, name) != default:
                    raise ValueError(
                        f"environment.{name} is {getattr(self, name)!r}, but environment.chat "
                        "separates and ends turns as the model's template does: leave one out"
                    )
