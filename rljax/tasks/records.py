"""Read records of text: one object each, of one of three kinds.

A record is an object with one of: `text`; `prompt` and `completion`; `messages`, a conversation
[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}, ...].
"""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple

from rljax.tasks.language import is_language_task, read_examples
from rljax.tasks.reading.config import DEFAULT, ReadingConfig
from rljax.tasks.reading.fields import nearest, require_text
from rljax.tasks.reading.files import FORMATS
from rljax.tasks.reading.reader import read_checked
from rljax.tasks.sources import DataError, make_problems, read_imdb

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
        """Its texts, for a tokenizer to be made of them.

        Of a conversation also what the template of such a tokenizer writes around every message, so
        that a role is a token, not its letters.
        """
        if self.kind == "messages":
            said = self.fields["messages"]
            return [text for m in said for text in (f"{m['role']}: ", m["content"], "\n")]
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


class Columns(NamedTuple):
    """What the fields of a source are called that have other names there; None: their own."""

    text: str | None = None
    prompt: str | None = None
    completion: str | None = None

    @property
    def kind(self) -> str | None:
        """The kind of record that these names ask for; None: the fields say."""
        if self.text is not None:
            return "text"
        return "prompt" if self.prompt is not None or self.completion is not None else None


def _check(where: str, found: dict[str, Any], columns: Columns) -> Record:
    """Find out what kind of record it is, or say what it lacks."""
    named = {name: name for name in ("text", "prompt", "completion", "messages")}
    named |= {name: other for name, other in columns._asdict().items() if other is not None}
    kinds = [columns.kind] if columns.kind else _kinds(found)
    if len(kinds) != 1:
        names = [name for name in found if name not in ("text", "prompt", "completion")]
        like = next((hint for name in named if (hint := nearest(name, names))), "")
        raise DataError(
            f"{where}: expected {FORMS}, and one of them; found {sorted(map(str, found))}{like} "
            "(--data.text-column, or --data.prompt-column and --data.completion-column, name "
            "others)"
        )
    kind = kinds[0]
    if kind == "messages":
        _check_messages(found["messages"], where)
        return Record(kind, found, where)
    flags = {name: f"--data.{name}-column" for name in KINDS[kind]}
    texts = {
        name: require_text(where, found, named[name], flags[name], blank=True)
        for name in KINDS[kind]
    }
    others = {name: v for name, v in found.items() if name not in [named[n] for n in texts]}
    return Record(kind, others | texts, where)


def _kinds(fields: dict[str, Any]) -> list[str]:
    return [kind for kind, names in KINDS.items() if all(name in fields for name in names)]


class Found(NamedTuple):
    """All records of a source."""

    records: list[Record]
    note: str = ""
    """How many lines were left out as bad, and the first of them; "" for none."""


def read_source(
    source: str, reading: ReadingConfig = DEFAULT, columns: Columns | None = None
) -> Found:
    """Read all records of a source, as `DocumentConfig.source` names it.

    reading: how files are read. columns: what their fields are called. Raises DataError naming the
    line for what cannot be read, and for settings that say nothing about the source.
    """
    columns = columns or Columns()
    made = _named_source(source)
    if made is not None:
        reading.refuse(source, "which is no file")
        for name, other in columns._asdict().items():
            if other is not None:
                raise DataError(
                    f"--data.{name}-column {other!r} says nothing about {source!r}, which is no "
                    "file"
                )
        return Found(made)
    return Found(
        *read_checked(
            source,
            reading,
            lambda where, fields: _check(where, fields, columns),
            expected=f"data file {source!r}; --data.source is 'imdb', 'arithmetic:N', 'sorting:N', "
            f"a language task, {FORMATS}, a directory of them, or hf:NAME",
        )
    )


def _named_source(source: str) -> list[Record] | None:
    """Make the records of a source that is no file; None for files."""
    if source == "imdb":
        rows = read_imdb(labels=True)
        return [Record("text", {"text": row.text, **row.columns}, row.where) for row in rows]
    if is_language_task(source):
        return [
            Record("prompt", {"prompt": e.prompt, "completion": e.shown}, e.where, split=e.split)
            for e in read_examples(source)
        ]
    made = make_problems(source)
    if made is None:
        return None
    shown = [row.columns.get("demonstration", row.columns["answer"]) for row in made]
    return [
        Record("prompt", {"prompt": row.text, "completion": text}, row.where)
        for row, text in zip(made, shown, strict=True)
    ]
