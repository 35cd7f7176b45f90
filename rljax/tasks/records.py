"""Read records of text: one object each, of one of three kinds.

A record is an object with one of: `text`; `prompt` and `completion`; `messages`, a conversation
[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}, ...].
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rljax.tasks.language import is_language_task, read_examples
from rljax.tasks.sources import (
    DataError,
    make_problems,
    read_imdb,
    read_records,
)

KINDS: dict[str, tuple[str, ...]] = {
    "text": ("text",),
    "prompt": ("prompt", "completion"),
    "messages": ("messages",),
}
FORMS = "a field 'text', or 'prompt' and 'completion', or 'messages'"


class Record(NamedTuple):
    """One record of a source, checked."""

    kind: str
    """A key of KINDS."""
    fields: dict[str, Any]
    where: str
    head: str | None = None
    """The beginning of its text, where that decides on the split."""
    split: Literal["train", "held_out"] | None = None
    """On which side it is; None: a hash says."""

    @property
    def key(self) -> str:
        """What decides on which side of the split it stands: text, prompt, or first message."""
        if self.head is not None:
            return self.head
        value = self.fields[self.kind]
        return value if isinstance(value, str) else json.dumps(value[0], sort_keys=True)

    @property
    def texts(self) -> list[str]:
        """Its texts, without any template."""
        if self.kind == "messages":
            return [message["content"] for message in self.fields["messages"]]
        return [self.fields[name] for name in KINDS[self.kind]]


def _check_messages(messages: Any, where: str) -> None:
    good = isinstance(messages, list) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
        for m in messages
    )
    if not good:
        raise DataError(
            f'{where}: expected messages as [{{"role": "user", "content": "..."}}, ...]'
        )
    if not any(message["role"] == "assistant" for message in messages[1:]):
        raise DataError(f"{where}: no assistant's turn after a first message: nothing to learn")


def _check(where: str, fields: dict[str, Any]) -> Record:
    """Find out what kind of record it is, or say what it lacks."""
    kinds = [kind for kind, names in KINDS.items() if all(name in fields for name in names)]
    if len(kinds) != 1:
        raise DataError(f"{where}: expected {FORMS}, and one of them; found {sorted(fields)}")
    kind = kinds[0]
    if kind == "messages":
        _check_messages(fields["messages"], where)
    else:
        for name in KINDS[kind]:
            if not isinstance(fields[name], str) or not fields[name]:
                raise DataError(
                    f"{where}: expected a text in {name!r} that is not empty, got {fields[name]!r}"
                )
    return Record(kind, fields, where)


def read_source(source: str) -> list[Record]:
    """Read all records of a source, as `DocumentConfig.source` names it.

    Raises DataError naming the line for what cannot be read.
    """
    if source == "imdb":
        rows = read_imdb(labels=True)
        return [Record("text", {"text": row.text, **row.columns}, row.where) for row in rows]
    if is_language_task(source):
        return [
            Record("prompt", {"prompt": e.prompt, "completion": e.shown}, e.where, split=e.split)
            for e in read_examples(source)
        ]
    made = make_problems(source)
    if made is not None:
        shown = [row.columns.get("demonstration", row.columns["answer"]) for row in made]
        return [
            Record("prompt", {"prompt": row.text, "completion": text}, row.where)
            for row, text in zip(made, shown, strict=True)
        ]
    path = Path(source).expanduser()
    if not path.is_file() or path.suffix.lower() != ".jsonl":
        raise DataError(
            f"no .jsonl file {source!r}; --data.source is 'imdb', 'arithmetic:N', 'sorting:N' or "
            "a .jsonl file"
        )
    try:
        return [_check(where, fields) for where, fields in read_records(path)]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
