"""Read conversations between people, and answer as somebody in them did.

    python -m rljax.environments.chitchat --out runs/tasks/chitchat.jsonl

writes those to train on as records of `messages`; --backward swaps a turn and its answer, for a
model of the turn before, given the answer.

The data are the package chitchat-dataset (Myers et al. 2020, the BYU-EVI chit-chat challenge), or a
file of records with `messages`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rljax.tasks.installed import import_package, package_folder
from rljax.tasks.prompts import text_fraction
from rljax.tasks.records import read_source
from rljax.tasks.sources import DataError

FILE = "dataset.json"
INSTALL = "chitchat-dataset==0.9.0"
HELD_OUT = 0.1


class Conversation(NamedTuple):
    """What two people said in turn, lower-case, on one line each."""

    name: str
    turns: tuple[str, ...]
    held_out: bool


@functools.lru_cache(maxsize=4)
def read_conversations(data: str | None, max_words: int) -> tuple[Conversation, ...]:
    """Read conversations of turns of 1 to `max_words` words; a longer turn cuts them in two.

    Those without an answer are left out. A conversation is held out, with all its parts, by a hash
    of its name. Raises DataError for a missing file, one of another form, and one without any.
    """
    found = _from_records(data) if data else _from_package()
    made = []
    for name, turns in found:
        part: list[str] = []
        number = 0
        for turn in [*map(plain, turns), ""]:
            if 0 < len(turn.split()) <= max_words:
                part.append(turn)
                continue
            if len(part) > 1:
                made.append(Conversation(f"{name}#{number}", tuple(part), _is_held_out(name)))
                number += 1
            part = []
    if not made:
        raise DataError(f"{data or 'chitchat-dataset'}: no turn of {max_words} words is answered")
    return tuple(made)


def plain(text: str) -> str:
    """Return a turn in lower case, on one line, without what is no ASCII."""
    ascii_only = text.replace("’", "'").encode("ascii", "ignore").decode()
    return " ".join(ascii_only.lower().split())


def _is_held_out(name: str) -> bool:
    return text_fraction(f"conversation {name}") < HELD_OUT


def _from_package() -> Iterator[tuple[str, list[str]]]:
    path = package_folder("chitchat_dataset", what="dialogue", install=INSTALL) / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for name, record in content.items():
            yield name, [" ".join(said["text"] for said in turn) for turn in record["messages"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} cannot be read: {error!r}; pip install --force-reinstall {INSTALL}"
        ) from error


def _from_records(source: str) -> Iterator[tuple[str, list[str]]]:
    for record in read_source(source).records:
        if record.kind != "messages":
            raise DataError(f"{record.where}: a dialogue needs `messages`, found {record.kind!r}")
        turns = [message["content"] for message in record.fields["messages"]]
        yield json.dumps(turns), turns  # a name that does not move when lines do


class Nearest:
    """Finds the known turns that are nearest to a text, by the cosine of TF-IDF vectors."""

    def __init__(self, conversations: Sequence[Conversation], limit: int) -> None:
        """Index the first `limit` turns that have an answer, equal pairs once.

        Raises DataError where scikit-learn is missing, or no turn has a word.
        """
        texts = import_package("sklearn.feature_extraction.text", what="dialogue")
        pairs = dict.fromkeys(
            p for c in conversations for p in zip(c.turns, c.turns[1:], strict=False)
        )
        self.pairs = list(pairs)[:limit]
        self._vectorizer: Any = texts.TfidfVectorizer(
            sublinear_tf=True, token_pattern=r"(?u)\b\w+\b"
        )
        try:
            self._known: Any = self._vectorizer.fit_transform([turn for turn, _ in self.pairs]).T
        except ValueError as error:
            raise DataError(f"no conversation has a turn with a word: {error}") from error

    def answer(self, text: str, used: Sequence[str] = ()) -> str | None:
        """Give the answer to the turn that is nearest to `text`, but none of `used`.

        None where no word of the text is known, or all answers are used. Of equals the earlier one.
        """
        scores = (self._vectorizer.transform([text]) @ self._known).tocoo()
        order = sorted(zip(-scores.data, scores.col, strict=True))
        taken = set(used)
        return next((self.pairs[i][1] for _, i in order if self.pairs[i][1] not in taken), None)


def overlap(first: str, second: str) -> float:
    """Return the share of the words of `second` that stand in `first`; 0 where it has none."""
    words = re.findall(r"[\w']+", second.lower())
    there = set(re.findall(r"[\w']+", first.lower()))
    return sum(word in there for word in words) / len(words) if words else 0.0


@dataclasses.dataclass(frozen=True)
class Write:
    """Write conversations to learn from."""

    out: str
    """JSONL file to write."""
    data: str | None = None
    """File of records with `messages` to read; None: the package chitchat-dataset."""
    max_words: int = 16
    """Longer turns cut a conversation in two."""
    max_turns: int = 8
    """Turns of a record; a longer conversation is several."""
    backward: bool = False
    """Write an answer as the user's turn and what it answers as the assistant's."""


def write(options: Write) -> int:
    """Write the conversations to train on; return how many records they are."""
    path = Path(options.out).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("w", encoding="utf-8") as lines:
        for conversation in read_conversations(options.data, options.max_words):
            if conversation.held_out:
                continue
            for part in _parts(conversation.turns, options):
                roles = ("user", "assistant")
                said = [{"role": roles[i % 2], "content": t} for i, t in enumerate(part)]
                lines.write(json.dumps({"messages": said}, ensure_ascii=False) + "\n")
                count += 1
    return count


def _parts(turns: Sequence[str], options: Write) -> Iterator[Sequence[str]]:
    if options.backward:
        yield from ((after, before) for before, after in zip(turns, turns[1:], strict=False))
        return
    for start in range(0, len(turns) - 1, options.max_turns):
        part = turns[start : start + options.max_turns]
        if len(part) > 1:
            yield part


if __name__ == "__main__":
    import tyro

    from rljax.training.flags import plain_errors

    with plain_errors():
        chosen = tyro.cli(Write, description=__doc__)
        print(f"{write(chosen)} records written to {chosen.out}")
