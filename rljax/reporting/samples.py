"""Completions of a report: before and after training, and token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from rljax.reporting.groups import Group
from rljax.reporting.runs import RunRecord
from rljax.training.writer import BY_TOKEN

PAIRS = 20
"""Prompts of a group that are shown before and after."""
STEPS = 8
"""Steps of a group whose completions are shown token by token, evenly spread."""
CHARACTERS = 4_000
"""Of a prompt or a completion; what is longer is cut in the middle, and says so."""
TOKENS = 60_000
"""Tokens of a report that are shown one by one, shared by its groups."""


class Pair(NamedTuple):
    """What one prompt got before and after training; numbers may be missing, and one of the texts,
    where only one of the two steps drew the prompt."""

    prompt: str
    before: str
    after: str
    score_before: float | None
    score_after: float | None
    kl_after: float | None


class Samples(NamedTuple):
    """Completions of one group's first run."""

    label: str
    step_before: int
    step_after: int
    held_out: bool
    """Whether they are the evaluation's; else they are those of a batch."""
    pairs: tuple[Pair, ...]
    """Prompts whose completions have changed come first."""
    changed: int
    """How many of `compared` prompts have another completion than before."""
    compared: int


def shortened(text: str) -> str:
    """Cut the middle out of a text that is too long to show."""
    if len(text) <= CHARACTERS:
        return text
    half = CHARACTERS // 2
    return f"{text[:half]} … [{len(text) - 2 * half:,} characters left out] … {text[-half:]}"


def before_and_after(run: RunRecord, label: str) -> Samples | None:
    """Put the first and the last completions of a run side by side, held-out ones if there are any.

    None where fewer than two steps have any.
    """
    for held_out in (True, False):
        rows = [row for row in run.completions if bool(row.get("held_out")) == held_out]
        steps = sorted({row["step"] for row in rows})
        if len(steps) < 2:
            continue
        first, last = (_by_prompt(rows, step) for step in (steps[0], steps[-1]))
        both = [prompt for prompt in last if prompt in first]
        if both:
            pairs = [_pair(prompt, first[prompt], last[prompt]) for prompt in both]
            pairs = sorted(pairs, key=lambda pair: pair.before == pair.after)[:PAIRS]
        else:
            pairs = [_pair(prompt, row, None) for prompt, row in first.items()][: PAIRS // 4]
            pairs += [_pair(prompt, None, row) for prompt, row in last.items()][: PAIRS // 4]
        changed = sum(first[p].get("completion") != last[p].get("completion") for p in both)
        return Samples(label, steps[0], steps[-1], held_out, tuple(pairs), changed, len(both))
    return None


def _by_prompt(rows: Sequence[dict[str, Any]], step: int) -> dict[str, dict[str, Any]]:
    """Return the first completion of each prompt at a step."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["step"] == step:
            found.setdefault(str(row.get("prompt", "")), row)
    return found


def _pair(prompt: str, before: dict[str, Any] | None, after: dict[str, Any] | None) -> Pair:
    def text(row: dict[str, Any] | None) -> str:
        return "" if row is None else shortened(str(row.get("completion", "")))

    def value(row: dict[str, Any] | None, name: str) -> float | None:
        return None if row is None else row.get(name)

    return Pair(
        shortened(prompt), text(before), text(after),
        value(before, "score"), value(after, "score"), value(after, "kl"),
    )  # fmt: skip


def token_rows(run: RunRecord, room: int) -> list[dict[str, Any]]:
    """List the completions of a run that are stored token by token, of a few steps.

    room: tokens at most; later completions of each step go first, then steps in between.
    Each is {"step", "prompt", "score", "held_out", "tokens": table}.
    """
    rows = [row for row in run.completions if isinstance(row.get(BY_TOKEN), dict)]
    steps = sorted({row["step"] for row in rows})
    if not steps:
        return []
    kept = {steps[round(i * (len(steps) - 1) / (STEPS - 1))] for i in range(STEPS)}
    made, used = [], 0
    for row in sorted(rows, key=lambda row: (row["step"] != steps[-1], row["step"] != steps[0])):
        table = row[BY_TOKEN]
        size = len(table.get("text", ()))
        if row["step"] not in kept or not size or used + size > room:
            continue
        used += size
        made.append(
            {
                "step": row["step"],
                "prompt": shortened(str(row.get("prompt", ""))),
                "score": row.get("score"),
                "held_out": bool(row.get("held_out")),
                "tokens": table,
            }
        )
    return sorted(made, key=lambda row: (row["step"], row["held_out"]))


def token_runs(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """List the token tables of each group's first run that has any: {"label", "rows"}."""
    room = TOKENS // max(len(groups), 1)
    made = []
    for group in groups:
        for run in group.runs:
            rows = token_rows(run, room)
            if rows:
                label = group.label if run.seed is None else f"{group.label}, seed {run.seed}"
                made.append({"label": label, "rows": rows})
                break
    return made


def samples_of(groups: Sequence[Group]) -> list[Samples]:
    """Put completions before and after side by side, of each group's first run that has any."""
    made = []
    for group in groups:
        found = (before_and_after(run, group.label) for run in group.runs)
        first = next((samples for samples in found if samples is not None), None)
        if first is not None:
            made.append(first)
    return made
