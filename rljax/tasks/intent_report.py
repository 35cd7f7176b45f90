"""Report what a service agent does: how much it resolves, and how it tells intents apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rljax.tasks.language import Report


def intent_report(
    *,
    resolved: Sequence[bool],
    escalated: Sequence[bool],
    chosen: Sequence[str],
    intents: Sequence[str],
) -> Report:
    """Measure N requests: rates, and precision, recall and F1 of each intent, in [0, 1].

    resolved: reply and slots were right. escalated: passed on; counts against no precision, but
    against recall. chosen: the intents of the replies. intents: the right ones. macro_f1 is the
    mean over the intents that were asked for; intent_accuracy the share of the replies given
    (nothing passed on) whose intent was right, 0 where none was given.
    """
    count = len(resolved)
    given = Counter(c for c, passed in zip(chosen, escalated, strict=True) if not passed)
    asked = Counter(intents)
    hits = Counter(
        right
        for right, c, passed in zip(intents, chosen, escalated, strict=True)
        if right == c and not passed
    )
    rows, scores = [], []
    for intent in sorted(asked):
        precision = hits[intent] / given[intent] if given[intent] else 0.0
        recall = hits[intent] / asked[intent]
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        scores.append(f1)
        rows.append(f"{intent:<26}{precision:>10.3f}{recall:>10.3f}{f1:>10.3f}{asked[intent]:>10}")
    head = f"{'intent':<26}{'precision':>10}{'recall':>10}{'F1':>10}{'support':>10}"
    rate, passed_on = sum(resolved) / count, sum(escalated) / count
    metrics = {
        "resolution_rate": rate,
        "escalation_rate": passed_on,
        "wrong_rate": 1 - rate - passed_on,
        "intent_accuracy": sum(hits.values()) / max(sum(given.values()), 1),
        "macro_f1": sum(scores) / len(scores),
    }
    average = f"{'macro average':<26}{'':>20}{metrics['macro_f1']:>10.3f}{count:>10}"
    return Report(metrics, "\n".join([head, *rows, average]))
