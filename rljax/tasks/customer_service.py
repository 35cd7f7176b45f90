"""Customer service: say which reply fits a request and what it is about, or pass it on.

The completion is an action on one line, "TurnOn lights area; area=kitchen", from which the sentence
for the customer is composed (`CustomerService.compose`), or "escalate", which calls a colleague.
Resolving pays 1, passing on `escalation`, a wrong reply or a wrong slot 0: passing on pays where
one is less sure than that. Past conversations are what is learnt from; in a share of them
(`passed_on`) the agent called a colleague, whatever was asked.

Requests come from home-assistant-intents (see `rljax.tasks.assist_data`) or from a file of one's
own with `question` and `answer`, `customer_service?path=faq.csv`. Whole templates are held out, so
that no held-out request is a filled-in twin of one that was seen.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rljax.tasks.assist_data import load_assist, make_requests, reply_name
from rljax.tasks.intent_report import intent_report
from rljax.tasks.language import Example, LanguageTask, Report, TextPolicy
from rljax.tasks.prompts import text_fraction
from rljax.tasks.sources import DataError, Row, read_rows

ESCALATE = "escalate"
PASSED_ON = "I will pass you to a colleague."
NOT_UNDERSTOOD = "Sorry, I couldn't understand that."
ASK, ANSWER = "Customer: ", "\nAgent:"


class Action(NamedTuple):
    """What the agent does: the name of a reply, and the reply's slots."""

    reply: str
    slots: Mapping[str, str]


def write_action(action: Action) -> str:
    """Write an action as a completion, its slots in the order of their names."""
    return "; ".join([action.reply, *(f"{k}={v}" for k, v in sorted(action.slots.items()))])


def read_action(completion: str) -> Action:
    """Read the first line of a completion; what is no slot is part of no action and names none.

    White space around the parts does not count, nor does the order of the slots.
    """
    lines = completion.strip().splitlines() or [""]
    name, *parts = (part.strip() for part in lines[0].split(";"))
    pairs = [part.partition("=") for part in parts]
    if any(not equals for _, equals, _ in pairs) or len({k for k, _, _ in pairs}) < len(pairs):
        return Action("", {})
    return Action(name, {key.strip(): value.strip() for key, _, value in pairs})


def question_of(observation: str) -> str:
    """Return what the customer said last, without the words around it."""
    last = observation.rpartition(ASK.strip())[2]
    return last.partition(ANSWER.strip())[0].strip()


@dataclasses.dataclass(frozen=True)
class CustomerService(LanguageTask):
    """Requests to a service desk. See the module."""

    path: str | None = None
    """A .csv, .tsv or .jsonl file of `question` and `answer`; a field `intent` names the reply,
    and questions with the same `template` fall on one side. None: home-assistant-intents."""
    fills: int = 12
    """Sentences drawn from each template to learn from; of home-assistant-intents."""
    held_out_fills: int = 3
    """Sentences drawn from each held-out template; of home-assistant-intents."""
    held_out: float = 0.2
    """Share of the templates, chosen by a hash, that is held out."""
    escalation: float = 0.4
    """Reward of passing a request on, between 0 (wrong) and 1 (resolved)."""
    passed_on: float = 0.15
    """Share of the past conversations, chosen by a hash, in which a colleague was called."""

    def __post_init__(self) -> None:
        for name in ("fills", "held_out_fills"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("held_out", "escalation"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be between 0 and 1")
        if not 0 <= self.passed_on < 1:
            raise ValueError(f"passed_on is {self.passed_on}; it must be in [0, 1)")
        if self.path is not None and (self.fills, self.held_out_fills) != (12, 3):
            raise ValueError("fills and held_out_fills are of templates: leave them out with path")

    def examples(self) -> list[Example]:
        """Read all requests; those of `passed_on` demonstrate an escalation."""
        found = self._read_file() if self.path is not None else self._fill_templates()
        sides = Counter(example.split for example in found)
        if len(sides) < 2:
            raise DataError(
                f"customer_service: {sides['train']} requests to learn from and "
                f"{sides['held_out']} held out (held_out={self.held_out}): both sides need some"
            )
        return found

    def _example(
        self, text: str, action: Action, intent: str, template: str, spoken: Any, where: str
    ) -> Example:
        held_out = text_fraction(template) < self.held_out
        right = write_action(action)
        passed = not held_out and text_fraction(f"passed on: {text}") < self.passed_on
        columns = {
            "action": right,
            "intent": intent,
            "template": template,
            "spoken": json.dumps(spoken, sort_keys=True),
        }
        side: Any = "held_out" if held_out else "train"
        prompt = f"{ASK}{text}{ANSWER}"
        return Example(prompt, ESCALATE if passed else right, columns, where, side)

    def _fill_templates(self) -> list[Example]:
        made: dict[str, Example] = {}
        counts: Counter[str] = Counter()
        for r in make_requests(load_assist(), max(self.fills, self.held_out_fills)):
            intent = r.reply.split(" ")[0]
            example = self._example(
                r.text, Action(r.reply, r.slots), intent, r.template, r.spoken, r.where
            )
            limit = self.held_out_fills if example.split == "held_out" else self.fills
            known = made.get(r.text)
            if known is not None and (known.split == "train" or example.split == "held_out"):
                continue  # a sentence that two templates make is the first one's, or is seen
            if counts[r.template] < limit:
                counts[r.template] += 1
                made[r.text] = example
        return list(made.values())

    @functools.cached_property
    def _rows(self) -> list[Row]:
        """The questions and answers of the file."""
        assert self.path is not None
        return read_rows(self.path, column="question")

    def _read_file(self) -> list[Example]:
        found: dict[str, Example] = {}
        for row in self._rows:
            name = _row_name(row, self._names)
            template = str(row.columns.get("template") or row.text)
            if row.text not in found:
                found[row.text] = self._example(
                    row.text, Action(name, {}), name, template, {}, row.where
                )
        return list(found.values())

    @functools.cached_property
    def _names(self) -> dict[str, str]:
        """Names of a file's replies by their answers, where the file gives none."""
        names: dict[str, str] = {}
        for row in self._rows:
            answer = str(row.columns.get("answer") or "").strip()
            if not answer:
                raise DataError(f"{row.where}: expected a text in 'answer' that is not empty")
            if answer not in names:
                name = "_".join(re.findall(r"\w+", answer.lower())[:5]) or "reply"
                taken = set(names.values())
                number = next(
                    n for n in range(1, len(taken) + 2) if _numbered(name, n) not in taken
                )
                names[answer] = _numbered(name, number)
        return names

    @functools.cached_property
    def replies(self) -> dict[str, str]:
        """What is said to the customer, by the name of the reply; jinja2 templates of `slots`."""
        if self.path is None:
            content = load_assist().responses
            return {
                reply_name(intent, key): text
                for intent, responses in content.items()
                for key, text in responses.items()
            }
        answers: dict[str, Counter[str]] = defaultdict(Counter)
        for row in self._rows:
            answers[_row_name(row, self._names)][str(row.columns["answer"]).strip()] += 1
        return {name: counts.most_common(1)[0][0] for name, counts in answers.items()}

    def compose(self, completion: str) -> str:
        """Compose what the customer hears from an action: the reply with its slots filled in.

        A reply that tells the state of the house is not known here: what was asked for stands in
        its place.
        """
        action = read_action(completion)
        if action.reply == ESCALATE:
            return PASSED_ON
        text = self.replies.get(action.reply)
        if text is None:
            return NOT_UNDERSTOOD
        if self.path is not None:
            return text
        if re.search(r"\b(state|query|state_attr)\b|slots\.(timers|canceled|date|time)\b", text):
            about = ", ".join(v for _, v in sorted(action.slots.items()))
            words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", action.reply).lower()
            return f"{words.capitalize()}{f': {about}' if about else ''}."
        return " ".join(_template(text).render(slots=dict(action.slots)).split())

    def reward(
        self, prompts: Sequence[str], completions: Sequence[str], **columns: Sequence[Any]
    ) -> list[float]:
        """Give 1 for the right reply with the right slots, `escalation` for passing on, else 0."""
        del prompts
        scores = []
        for completion, right in zip(completions, columns["action"], strict=True):
            done = read_action(completion)
            passed = done == Action(ESCALATE, {})
            scores.append(self.escalation if passed else float(done == read_action(right)))
        return scores

    def report(self, completions: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> Report:
        """Measure resolution, escalation and wrong replies, and F1 by intent."""
        intents = dict(zip(columns["action"], columns["intent"], strict=True))
        by_reply = {read_action(action).reply: intent for action, intent in intents.items()}
        done = [read_action(completion) for completion in completions]
        right = [read_action(action) for action in columns["action"]]
        chosen = [by_reply.get(action.reply, action.reply.split(" ")[0]) for action in done]
        return intent_report(
            resolved=[a == b for a, b in zip(done, right, strict=True)],
            escalated=[action.reply == ESCALATE for action in done],
            chosen=chosen,
            intents=columns["intent"],
        )

    def baselines(self, train: Sequence[Example]) -> Mapping[str, TextPolicy]:
        """Make keyword rule, retrieval (BM25 and TF-IDF) and a linear classifier, as they learn."""
        from rljax.tasks.customer_policies import make_baselines

        return make_baselines(train, self.escalation)


@functools.lru_cache(maxsize=256)
def _template(text: str) -> Any:
    from jinja2.sandbox import SandboxedEnvironment

    return SandboxedEnvironment().from_string(text)


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}_{number}"


def _row_name(row: Row, names: Mapping[str, str]) -> str:
    """Name the reply of a row: its intent, or what its answer is called."""
    given = str(row.columns.get("intent") or "").strip()
    answer = str(row.columns.get("answer") or "").strip()
    name = given or names[answer]
    if ";" in name or "\n" in name or name == ESCALATE:
        raise DataError(f"{row.where}: an intent may not be {name!r}: no ';', no line break, and "
                        f"not {ESCALATE!r}")  # fmt: skip
    return name
