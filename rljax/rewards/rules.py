"""Make simple rule rewards: length, keywords, a pattern.

Each returns a text reward. To train on one, bind it to a name in a file of your own, such as
`reward = keyword_reward(["sun", "sea"])` in mine.py, and pass `--task.reward mine.py:reward`.
"""

import re
from collections.abc import Sequence
from typing import Any

from rljax.rewards.protocol import TextReward


def length_reward(target_words: int) -> TextReward:
    """Reward completions of `target_words` words: -|words - target|, at most 0."""
    if target_words < 0:
        raise ValueError(f"target_words must not be negative, got {target_words}")

    def reward(
        prompts: Sequence[str], completions: Sequence[str], **columns: Sequence[Any]
    ) -> list[float]:
        return [-float(abs(len(text.split()) - target_words)) for text in completions]

    return reward


def keyword_reward(keywords: Sequence[str]) -> TextReward:
    """Reward the share of `keywords` that stand in the completion as whole words, in [0, 1].

    Upper and lower case are alike. Raises ValueError without keywords.
    """
    if isinstance(keywords, str) or not keywords:
        raise ValueError(f"keywords must be a list of at least one word, got {keywords!r}")
    patterns = [re.compile(rf"(?<!\w){re.escape(w)}(?!\w)", re.IGNORECASE) for w in keywords]

    def reward(
        prompts: Sequence[str], completions: Sequence[str], **columns: Sequence[Any]
    ) -> list[float]:
        found = [sum(p.search(text) is not None for p in patterns) for text in completions]
        return [count / len(patterns) for count in found]

    return reward


def regex_reward(pattern: str) -> TextReward:
    """Reward 1.0 where `pattern` is found in the completion, else 0.0.

    Raises ValueError for a pattern that does not compile.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"not a regular expression: {pattern!r}: {error}") from None

    def reward(
        prompts: Sequence[str], completions: Sequence[str], **columns: Sequence[Any]
    ) -> list[float]:
        return [float(compiled.search(text) is not None) for text in completions]

    return reward


def exact_match(
    prompts: Sequence[str], completions: Sequence[str], answer: Sequence[Any]
) -> list[float]:
    """Reward 1.0 where the completion's first line is the `answer` column's text, else 0.0.

    White space around it, and upper or lower case, do not count.
    """
    return [
        float(_first_line(text).casefold() == str(right).strip().casefold())
        for text, right in zip(completions, answer, strict=True)
    ]


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0].strip() if lines else ""
