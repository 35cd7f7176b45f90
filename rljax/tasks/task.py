"""Put a task together: the prompts to train on, those held out, and the reward that judges."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rljax.rewards.combined import DEFAULT_TIMEOUT_S, WeightedRewards
from rljax.rewards.loading import TASK
from rljax.rewards.protocol import Judgement, RewardError, TokenTexts, show_failure
from rljax.tasks.config import PLACEHOLDER, TaskConfig
from rljax.tasks.language import (
    Example,
    LanguageTask,
    Report,
    is_language_task,
    load_task,
    task_rows,
)
from rljax.tasks.prompts import (
    CutText,
    PromptSet,
    Tokenizer,
    cut_texts,
    encode_chat,
    encode_texts,
    pad_texts,
    special_prefix,
    split_texts,
)
from rljax.tasks.reasoning import PREFIX, read_reasoning_gym
from rljax.tasks.sources import DataError, Row, Rows, read_prompt_rows
from rljax.types import Completions, Prompts


@dataclass(frozen=True)
class Task:
    """Prompts and their judge."""

    train: PromptSet
    """Prompts to train on."""
    held_out: PromptSet
    """Prompts to evaluate on; empty when `held_out_fraction` is 0."""
    reward: WeightedRewards
    """What judges completions: text rewards and token rewards with their weights."""
    summary: str
    """One line on where the prompts came from, and how many were cut, dropped and held out."""
    max_reward_failures: float = 0.0
    """Share of a batch that may go without a score."""
    language: LanguageTask | None = None
    """What the prompts are of, where they are of a language task; it makes a report."""
    shots: str = ""
    """The solved examples that stand before every prompt."""

    @property
    def examples(self) -> list[Example]:
        """The training prompts that have an `answer`, as examples to learn from."""
        columns = self.train.columns
        if "answer" not in columns:
            return []
        rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
        return [
            Example(text, str(row.pop("answer")), row, split="train")
            for text, row in zip(self.train.texts, rows, strict=True)
        ]

    def report(
        self,
        prompts: PromptSet,
        indices: Sequence[int] | np.ndarray,
        completions: Sequence[str],
    ) -> Report:
        """Measure completions of the prompts at `indices` as the language task does, if any."""
        if self.language is None:
            return Report({})
        return self.language.report(completions, prompts.columns_at(indices))

    def judge(
        self,
        prompts: PromptSet,
        indices: Sequence[int] | np.ndarray,
        batch: Prompts,
        made: Completions,
        texts: Sequence[str],
    ) -> Judgement:
        """Judge n completions of the prompts at `indices`: their scores, and each reward's own.

        batch, made: the arrays, whose first n rows are these completions; texts: what they say. A
        completion that could not be judged has the score NaN. Raises RewardError, with one of
        them, when their share is above `max_reward_failures`.
        """
        places = [int(i) for i in indices]
        asked = [prompts.texts[i] for i in places]
        columns = prompts.columns_at(places)
        token_columns = {
            name: TokenTexts(*(part[np.asarray(batch.ids) - prompts.first_id] for part in column))
            for name, column in prompts.token_columns.items()
        }
        judgement = self.reward.judge(asked, texts, columns, batch, made, token_columns)
        self._check_failures(judgement, asked, texts)
        return judgement

    def judge_texts(
        self, prompts: PromptSet, indices: Sequence[int] | np.ndarray, texts: Sequence[str]
    ) -> Judgement:
        """Judge texts written for the prompts at `indices`, without tokens.

        Raises RewardError as `judge` does, and where a reward judges tokens.
        """
        places = [int(i) for i in indices]
        asked = [prompts.texts[i] for i in places]
        judgement = self.reward.judge_texts(asked, texts, prompts.columns_at(places))
        self._check_failures(judgement, asked, texts)
        return judgement

    def _check_failures(
        self, judgement: Judgement, asked: Sequence[str], texts: Sequence[str]
    ) -> None:
        failed = len(judgement.failures)
        if failed > self.max_reward_failures * len(texts):
            raise RewardError(
                f"the reward failed on {failed} of {len(texts)} completions, more than "
                f"--task.max-reward-failures {self.max_reward_failures:g} allows; one of them:\n"
                f"{show_failure(judgement, asked, texts)}"
            )


def read_prompts(config: TaskConfig) -> Rows:
    """Read and check all prompts that a config names; no model is needed for it.

    Raises DataError for bad or empty data, and for flags that say nothing about it.
    """
    source = config.prompts
    if is_language_task(source) or source.startswith(PREFIX):
        config.refuse(source, "which is no file")
        if config.prompt_column != "prompt":
            raise DataError(
                f"{config.flag('prompt_column')} {config.prompt_column!r} says nothing about "
                f"{source!r}, which has no columns to choose from"
            )
        is_task = is_language_task(source)
        return Rows(task_rows(source) if is_task else read_reasoning_gym(source))
    return read_prompt_rows(
        source, column=config.prompt_column, reading=config, flag=config.flag("prompt_column")
    )


def make_task(
    config: TaskConfig, tokenizer: Tokenizer, *, max_prompt_tokens: int, found: Rows | None = None
) -> Task:
    """Read, cut, split and tokenize the prompts, load the rewards and start their processes.

    `max_prompt_tokens` is the room that the model's context leaves for a prompt. `found`: what
    `read_prompts` gave, where that was called before the model was loaded. Raises DataError
    for bad or empty data and for a prompt that does not fit, RewardError for a bad reward.
    """
    rows, note = found or read_prompts(config)
    language = load_task(config.prompts) if is_language_task(config.prompts) else None
    names = sorted({name for row in rows for name in row.columns})
    reward = WeightedRewards(
        _reward_specs(config, language),
        weights=config.reward_weights,
        workers=config.reward_workers,
        timeout_s=config.reward_timeout_s or DEFAULT_TIMEOUT_S,
        columns=names,
        tokenizer=tokenizer,
    )
    texts, num_cut = _cut_rows(rows, config, tokenizer)
    if not texts:
        raise DataError(
            f"no prompt left of the {len(rows)} in {config.prompts}: all have fewer than "
            f"{config.min_prompt_tokens} tokens (--task.min-prompt-tokens)"
        )
    train_texts, held_out_texts = split_texts(texts, config.held_out_fraction)
    shots, train_texts = _take_shots(train_texts, config)
    prefix = special_prefix(tokenizer)

    def encode(subset: list[CutText], first_id: int) -> PromptSet:
        tokens = [
            _encode(text, config, tokenizer, prefix, shots, max_prompt_tokens) for text in subset
        ]
        columns = {name: tuple(text.columns.get(name) for text in subset) for name in names}
        on_tokens = {
            name: pad_texts(tokenizer, [str(value) for value in columns[name]])
            for name in reward.token_columns
        }
        spelled = tuple(text.text for text in subset)
        return PromptSet(spelled, tuple(tokens), columns, first_id, on_tokens)

    held_out = encode(held_out_texts, 0)
    train = encode(train_texts, len(held_out))
    cut = f", {num_cut} cut to {config.prompt_tokens} tokens" if num_cut else ""
    summary = (
        f"{config.prompts}: {len(rows)} texts{cut}, {len(rows) - len(texts)} dropped as shorter "
        f"than {config.min_prompt_tokens} tokens, {len(texts) - len(train) - len(held_out)} as "
        f"duplicates; {len(train)} to train on, {len(held_out)} held out{'; ' * bool(note)}{note}"
    )
    return Task(train, held_out, reward, summary, config.max_reward_failures, language, shots)


def text_encoder(
    config: TaskConfig, tokenizer: Tokenizer, shots: str, *, limit: int
) -> Callable[[str], tuple[int, ...]]:
    """Make the function from a text to what a model sees: template or chat, solved examples.

    Its DataError is that of a text which leaves no room: more than `limit` tokens.
    """
    prefix = special_prefix(tokenizer)

    def encode(text: str) -> tuple[int, ...]:
        tokens = tuple(tokenizer.encode(text, add_special_tokens=False))
        cut = CutText(text, tokens, {}, f"{text[:40]!r}")
        return _encode(cut, config, tokenizer, prefix, shots, limit)

    return encode


def _reward_specs(config: TaskConfig, language: LanguageTask | None) -> list[str]:
    """Name the rewards in full: 'task' is that of the prompts' language task."""
    if TASK in config.rewards and language is None:
        raise RewardError(
            f"the reward 'task' is that of a language task, but --task.prompts {config.prompts} is "
            "none; name another reward"
        )
    return [f"{TASK}:{config.prompts}" if spec == TASK else spec for spec in config.rewards]


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
            kept.append(CutText(text, tuple(tokens), row.columns, row.where, row.split))
            num_cut += text != row.text
    return kept, num_cut


def _take_shots(texts: list[CutText], config: TaskConfig) -> tuple[str, list[CutText]]:
    """Write the solved examples, and return what is left to train on."""
    count = config.few_shot
    if not count:
        return "", texts
    if len(texts) <= count:
        raise DataError(
            f"task.few_shot {count} leaves no prompt to train on, of {len(texts)}: add prompts"
        )
    shots = texts[-count:]
    for shot in shots:
        if "answer" not in shot.columns:
            raise DataError(
                f"{shot.where}: task.few_shot needs a field 'answer'; "
                f"there are {sorted(shot.columns)}"
            )
    solved = [
        f"{config.template.replace(PLACEHOLDER, shot.text)} {shot.columns['answer']}\n\n"
        for shot in shots
    ]
    return "".join(solved), texts[:-count]


def stop_token_ids(config: TaskConfig, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the id of the token that ends a completion besides EOS, if there is one.

    Raises DataError where the text is not exactly one token.
    """
    return single_token(config.stop_token, tokenizer, "task.stop_token")


def single_token(text: str | None, tokenizer: Tokenizer, flag: str) -> tuple[int, ...]:
    """Return the id of the one token that a flag's text is; nothing for None.

    Raises DataError, naming the flag, where it is not exactly one token.
    """
    if text is None:
        return ()
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) != 1:
        raise DataError(f"{flag} {text!r} is {len(ids)} tokens, not one")
    return (ids[0],)


def _encode(
    text: CutText,
    config: TaskConfig,
    tokenizer: Tokenizer,
    prefix: list[int],
    shots: str,
    limit: int,
) -> tuple[int, ...]:
    """Return the tokens of one prompt within its template, and make sure that it fits."""
    templated = shots + config.template.replace(PLACEHOLDER, text.text)
    if config.chat:
        tokens = encode_chat(tokenizer, templated, config.system_prompt)
    elif templated == text.text:
        tokens = prefix + list(text.tokens)
    else:
        tokens = prefix + tokenizer.encode(templated, add_special_tokens=False)
    if len(tokens) > limit:
        raise DataError(
            f"{text.where}: the prompt has {len(tokens)} tokens, but the model's context leaves "
            f"room for {limit} beside the completion; shorten it or set --task.prompt-tokens"
        )
    return tuple(tokens)
