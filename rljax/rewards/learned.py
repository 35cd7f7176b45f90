"""Score texts with a learned reward model, whatever tokenizer the policy has.

A reward model is a Hugging Face directory with a head in a file of its own (see
`rljax.models.save_pretrained`); how texts become its input stands in config.json, under
"rljax_reward_model".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rljax.models import Pretrained, load_pretrained, save_pretrained
from rljax.models.heads import score_sequences
from rljax.rewards.protocol import RewardError, TextReward
from rljax.tasks.prompts import encode_prompts, encode_texts

HEAD = "reward"
SETTINGS = "rljax_reward_model"
FOLDER = "reward_model"
"""Of a run that trains a reward model."""
ROWS, MULTIPLE = 16, 32
"""Texts are scored so many at a time, and padded to a multiple of so many tokens."""


@dataclasses.dataclass(frozen=True)
class RewardSettings:
    """How a reward model reads text, and what its scores mean."""

    chat: bool
    """The prompt stands in the chat template."""
    append_eos: bool
    """EOS stands after the completion."""
    loss: str
    """What it was trained with."""
    logit_scale: float
    """Times a difference of scores (of classification: times a score): the log-odds that training
    meant. Normalisation divides scores by it."""


def save_reward_model(
    directory: str | Path, pretrained: Pretrained, head: Any, settings: RewardSettings
) -> Path:
    """Write a reward model as a directory; `pretrained.params` are its trunk."""
    content = pretrained.hf_config | {SETTINGS: dataclasses.asdict(settings)}
    return save_pretrained(
        directory, dataclasses.replace(pretrained, hf_config=content, heads={HEAD: head})
    )


class LearnedReward:
    """A text reward: the score of a reward model at each completion's last token."""

    def __init__(self, pretrained: Pretrained, settings: RewardSettings) -> None:
        self.pretrained, self.settings = pretrained, settings
        hidden = pretrained.model.hidden

        def score(params: Any, head: Any, tokens: jax.Array, mask: jax.Array) -> jax.Array:
            return score_sequences(head, hidden(params, tokens, mask), mask)

        self._score = jax.jit(score)

    def _sequences(self, prompts: Sequence[str], completions: Sequence[str]) -> list[list[int]]:
        """Encode prompt and completion apart, as in training."""
        tokenizer = self.pretrained.tokenizer
        heads = encode_prompts(tokenizer, list(prompts), chat=self.settings.chat)
        tails = encode_texts(tokenizer, list(completions))
        end = [self.pretrained.eos_token_ids[0]] if self.settings.append_eos else []
        return [[*head, *tail, *end] for head, tail in zip(heads, tails, strict=True)]

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], **columns: Sequence[Any]
    ) -> list[float]:
        """Return the reward model's score of each completion.

        Raises RewardError for a text that does not fit into the model's context.
        """
        del columns
        sequences = self._sequences(prompts, completions)
        longest = max(map(len, sequences), default=0)
        limit = self.pretrained.model.config.context_length
        if longest > limit:
            raise RewardError(
                f"a prompt and its completion are {longest} tokens for the reward model, whose "
                f"context has {limit}: shorten prompts or completions"
            )
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        scores = np.zeros(len(sequences), np.float32)
        for start in range(0, len(order), ROWS):
            places = order[start : start + ROWS]
            width = min(-(-max(len(sequences[i]) for i in places) // MULTIPLE) * MULTIPLE, limit)
            tokens = np.full((ROWS, width), self.pretrained.pad_token_id, np.int32)
            mask = np.zeros((ROWS, width), np.bool_)
            for row, place in enumerate(places):
                size = len(sequences[place])
                tokens[row, :size], mask[row, :size] = sequences[place], True
            mask[len(places) :, 0] = True  # rows that fill the batch up
            found = self._score(self.pretrained.params, self.pretrained.heads[HEAD], tokens, mask)
            scores[places] = np.asarray(found)[: len(places)]
        return [float(score) for score in scores]


def load_learned_reward(source: str) -> TextReward:
    """Load the reward model of a directory, or of the run that trained it.

    Raises RewardError where there is none, or it cannot be read.
    """
    path = Path(source).expanduser()
    if (path / FOLDER).is_dir():
        path = path / FOLDER
    if not path.is_dir():
        raise RewardError(f"reward 'model:{source}': there is no directory {path}")
    try:
        pretrained = load_pretrained(path)
    except (FileNotFoundError, ValueError) as error:
        raise RewardError(f"reward 'model:{source}': {error}") from error
    content = pretrained.hf_config.get(SETTINGS)
    if content is None or HEAD not in pretrained.heads:
        raise RewardError(
            f"reward 'model:{source}': {path} is a language model, not a reward model; "
            "experiments/reward_model.py trains one"
        )
    return LearnedReward(pretrained, RewardSettings(**content))
