"""A language task as one class: what is asked, what a good answer is, and what is reported.

The prompts are the states that an episode starts from, the completion is the action (token by
token), the reward says how well the text matches what the task wants. A task also knows what is
right, so that supervised learning can come first: `--data.source` of `experiments/sft.py` and
`pretrain.py`, and `--task.prompts` of the RL scripts, take the same spec and split it alike.

A spec is `NAME?key=value&key=value`: NAME is a task of this package (`LANGUAGE_TASKS`),
`path/to/file.py:Class` or `package.module:Class`; the settings are the class's own.
"""

from __future__ import annotations

import abc
import functools
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

from rljax.specs import SpecError, construct, load_class, split_spec
from rljax.tasks.sources import DataError, Row

LANGUAGE_TASKS: dict[str, str] = {
    "customer_service": "rljax.tasks.customer_service:CustomerService",
    "classification": "rljax.tasks.classification:Classification",
    "summarisation": "rljax.tasks.summarisation:Summarisation",
    "translation": "rljax.tasks.translation:Translation",
    "ner": "rljax.tasks.ner:NamedEntities",
    "crosslingual": "rljax.tasks.crosslingual:Crosslingual",
    "finance": "rljax.tasks.finance:Finance",
}
"""Where each task of this package is: `module:Class` by its short name."""

Split = Literal["train", "held_out"]


class Example(NamedTuple):
    """One thing that is asked, with its right answer."""

    prompt: str
    """All that the policy sees, instructions included."""
    answer: str
    """What a perfect policy would write: what supervised learning learns."""
    columns: Mapping[str, Any] = MappingProxyType({})
    """Further fields, for the reward and the report; `answer` is always one of their columns."""
    where: str = ""
    """Where it stands, for messages: `file:line`."""
    split: Split | None = None
    """On which side it is; None: a hash of the prompt says."""
    demonstration: str | None = None
    """What supervised learning shows instead of the answer, where a start is to have habits (a
    share of abstentions, slips) that RL then finds the use of; None: the answer."""

    @property
    def shown(self) -> str:
        """What supervised learning learns."""
        return self.answer if self.demonstration is None else self.demonstration


class Report(NamedTuple):
    """How well many completions do, beyond their mean reward."""

    metrics: Mapping[str, float]
    """Numbers by name, such as {"macro_f1": 0.8}; logged as eval/NAME."""
    text: str = ""
    """A table for people; printed after an evaluation."""


class TextPolicy(Protocol):
    """Anything that answers: a rule, a lookup, a trained model.

    An observation is what is seen before acting: of a single-turn task the prompt.
    """

    def act(self, observations: Sequence[str]) -> list[str]:
        """Write one text for each observation."""
        ...


class LanguageTask(abc.ABC):
    """What every language task has; the arguments of its constructor are its settings."""

    @abc.abstractmethod
    def examples(self) -> Sequence[Example]:
        """Read or make all examples; the same ones at every call. Raises DataError."""

    @abc.abstractmethod
    def reward(
        self, prompts: Sequence[str], completions: Sequence[str], *named: Any, **columns: Any
    ) -> Sequence[float]:
        """Judge completions: a number each. A task names the columns that it reads, as in
        `reward(self, prompts, completions, answer)`."""

    def report(self, completions: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> Report:
        """Measure what was written for examples with these columns (`answer` among them)."""
        del completions, columns
        return Report({})

    def baselines(self, train: Sequence[Example]) -> Mapping[str, TextPolicy]:
        """Make the policies that a learned one has to beat, by name, from the training examples.

        "rule" and "supervised" are the usual names; random words and retrieval come for every task.
        """
        del train
        return {}


@functools.lru_cache(maxsize=8)
def load_task(spec: str) -> LanguageTask:
    """Make the language task that a spec names, once.

    Raises DataError where there is no such task or a setting does not fit.
    """
    try:
        name, settings = split_spec(spec)
        kind = load_class(name, LanguageTask, LANGUAGE_TASKS, what="task")
        return construct(kind, settings, what=f"the task {spec!r}")
    except SpecError as error:
        raise DataError(str(error)) from error


@functools.lru_cache(maxsize=8)
def read_examples(spec: str) -> tuple[Example, ...]:
    """Read the examples of a task, and check them.

    Raises DataError for none, an empty prompt or answer, and a column called `answer`.
    """
    examples = tuple(load_task(spec).examples())
    if not examples:
        raise DataError(f"the task {spec!r} has no example at all")
    names = set(examples[0].columns)
    for number, example in enumerate(examples):
        where = example.where or f"{spec}: example {number}"
        for part, text in (
            ("prompt", example.prompt),
            ("answer", example.answer),
            ("demonstration", example.shown),
        ):
            if not isinstance(text, str) or not text.strip():
                raise DataError(f"{where}: its {part} is no text, or empty: {text!r}")
        if {"answer", "prompts", "completions"} & set(example.columns):
            raise DataError(f"{where}: a column may not be called answer, prompts or completions")
        if set(example.columns) != names:
            raise DataError(
                f"{where}: has the columns {sorted(example.columns)}, others {sorted(names)}"
            )
        if example.split not in (None, "train", "held_out"):
            raise DataError(f"{where}: split is {example.split!r}; None, 'train' or 'held_out'")
    return examples


_CLASS = re.compile(r"(?!(?:hf|arithmetic|sorting):)(.+\.py|[A-Za-z_][\w.]*):[A-Za-z_]\w*")


def is_language_task(source: str) -> bool:
    """Say whether a flag names a language task, rather than a file or another source."""
    name = source.partition("?")[0]
    return name in LANGUAGE_TASKS or _CLASS.fullmatch(name) is not None


def task_rows(spec: str) -> list[Row]:
    """Return a task's examples as prompts with their columns."""
    return [
        Row(e.prompt, {**e.columns, "answer": e.answer}, e.where or f"{spec}:{i}", e.split)
        for i, e in enumerate(read_examples(spec))
    ]
