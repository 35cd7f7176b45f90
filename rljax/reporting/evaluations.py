"""Describe what policies wrote for the same prompts: numbers with intervals, words, tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rljax.reporting.statistics import (
    Interval,
    bootstrap_mean,
    bootstrap_paired_difference,
    most_common_words,
    text_statistics,
)
from rljax.tasks.evaluation import TextEvaluation
from rljax.tasks.language import Report

MakeReport = Callable[[Sequence[str], Mapping[str, Sequence[Any]]], Report]
LONGEST_NAME = 40
PER_BLOCK = 4
"""So many policies stand side by side in a table; the next ones below."""
LABELS = {
    "score": "score",
    "reward_failures": "completions without a score",
    "kl": "KL from reference, nats",
    "length": "tokens",
    "eos_fraction": "share that ends (EOS)",
    "distinct_1": "distinct-1",
    "distinct_2": "distinct-2",
    "repetition": "repetition",
    "words": "words",
    "different_texts": "different texts",
}


def report_intervals(
    report: MakeReport,
    completions: Sequence[str],
    columns: Mapping[str, Sequence[Any]],
    *,
    num_resamples: int,
    confidence: float = 0.95,
    seed: int = 0,
    limit_s: float = 20.0,
) -> dict[str, Interval]:
    """Put percentile bootstrap intervals on a report's metrics by resampling the N examples.

    Metrics are functions of all examples (F1, BLEU), so each resample is reported anew. A metric
    that some resample lacks, or that is not finite there, has no interval. None has one where
    `num_resamples` reports would take more than `limit_s` seconds, judged by the first.
    """
    measured = report(completions, columns).metrics
    if not measured or not num_resamples:
        return {}
    rng = np.random.default_rng(seed)
    found: list[Mapping[str, float]] = []
    start = time.monotonic()
    for _ in range(num_resamples):
        chosen = rng.integers(len(completions), size=len(completions)).tolist()
        resampled = {name: [column[i] for i in chosen] for name, column in columns.items()}
        found.append(report([completions[i] for i in chosen], resampled).metrics)
        if len(found) == 1 and (time.monotonic() - start) * num_resamples > limit_s:
            return {}
    tail = (1 - confidence) / 2
    intervals = {}
    for name, value in measured.items():
        values = np.array([metrics.get(name, np.nan) for metrics in found], np.float64)
        if np.isfinite(values).all():
            low, high = np.quantile(values, [tail, 1 - tail])
            intervals[name] = Interval(float(value), float(low), float(high))
    return intervals


def describe_texts(
    result: TextEvaluation, intervals: Mapping[str, Interval] | None = None
) -> dict[str, Any]:
    """Summarise what a policy wrote: scores, the task's report, how varied the texts are.

    intervals: of the report's metrics; those without stand there as numbers.
    """
    several = len(result.components) > 1
    parts = {n: s for n, s in result.components.items() if several and np.isfinite(s).any()}
    metrics: dict[str, Any] = dict(result.report.metrics)
    metrics |= {name: interval._asdict() for name, interval in (intervals or {}).items()}
    return {
        "score": bootstrap_mean(result.scores)._asdict(),
        **{f"rewards/{n}": bootstrap_mean(scores)._asdict() for n, scores in parts.items()},
        "reward_failures": float(result.failures),
        **{f"report/{name}": value for name, value in metrics.items()},
        **text_statistics(result.completions),
        "most_common_words": most_common_words(result.completions),
    }


def compare(
    results: Mapping[str, TextEvaluation],
    against: str,
    intervals: Mapping[str, Mapping[str, Interval]],
) -> dict[str, Any]:
    """Put policies side by side that answered the same prompts.

    Returns the numbers of each (`results`), the difference of each from `against`, paired by
    prompt (`differences`), the tables of the task (`reports`) and all that was written.
    """
    base = results[against]
    rows = [
        {"prompt": prompt}
        | {
            name: {"completion": r.completions[i], "score": number(r.scores[i])}
            for name, r in results.items()
        }
        for i, prompt in enumerate(base.prompts)
    ]
    return {
        "prompts": len(base.prompts),
        "against": against,
        "results": {name: describe_texts(r, intervals.get(name)) for name, r in results.items()},
        "differences": {
            name: bootstrap_paired_difference(base.scores, r.scores)._asdict()
            for name, r in results.items()
            if name != against
        },
        "reports": {name: r.report.text for name, r in results.items()},
        "completions": rows,
    }


def number(score: np.floating[Any]) -> float | None:
    """Return a score; None where the reward failed."""
    return None if np.isnan(score) else float(score)


def cell(value: Any) -> str:
    """Write a number, or an interval; nothing for what there is not."""
    if value is None:
        return ""
    if isinstance(value, dict):
        mean, low, high = Interval(**value)
        return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
    return f"{value:.3f}"


def print_table(
    results: Mapping[str, Mapping[str, Any]],
    names: Sequence[str],
    labels: Mapping[str, str] = LABELS,
) -> None:
    """Print one column for each policy: scores, rewards, the task's report, then `labels`."""
    keys = dict.fromkeys(key for name in names for key in results[name])
    own = {key: key for key in keys if key.startswith("rewards/")}
    own |= {key: key.removeprefix("report/") for key in keys if key.startswith("report/")}
    shown = {"score": labels["score"]} | own | dict(labels)
    for start in range(0, len(names), PER_BLOCK):
        block = names[start : start + PER_BLOCK]
        widths = [max(27, len(name) + 2) for name in block]
        heads = "".join(f"{name:<{width}}" for name, width in zip(block, widths, strict=True))
        print(f"{'':<28}{heads}".rstrip())
        for key, label in shown.items():
            if key in keys:
                cells = "".join(
                    f"{cell(results[name].get(key)):<{width}}"
                    for name, width in zip(block, widths, strict=True)
                )
                print(f"{label:<27} {cells}".rstrip())


def print_words(results: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> None:
    """Print the most common words of each policy."""
    print("\nmost common words, and the share of completions that hold them")
    for name in names:
        words = (f"{word} {share:.2f}" for word, share in results[name]["most_common_words"])
        print(f"  {name}: {', '.join(words)}")


def print_examples(rows: Sequence[Mapping[str, Any]], names: Sequence[str], count: int) -> None:
    """Print the first prompts with what each policy wrote after them."""
    width = max(10, *(len(name) + 2 for name in names))
    for row in rows[:count]:
        print(f"\n{row['prompt']!r}")
        for name in names:
            score = row[name]["score"]
            shown = "  none" if score is None else f"{score:+.2f}"
            print(f"  {name:<{width}}{shown}  {row[name]['completion']!r}")


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Cut long names, such as those with a system message, numbered where they become equal."""
    short: dict[str, str] = {}
    for name in names:
        cut = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..."
        short[name] = f"{cut} {len(short)}" if cut in short.values() else cut
    return short


def print_comparison(comparison: Mapping[str, Any], summary: str, examples: int) -> None:
    """Print what `compare` found."""
    short = short_names(list(comparison["results"]))
    against = short[comparison["against"]]
    results = {short[name]: result for name, result in comparison["results"].items()}
    names = list(results)
    print(f"{summary}\n")
    print(f"{comparison['prompts']} held-out prompts, 95% bootstrap intervals")
    print_table(results, names)
    print(f"\nscore, paired difference from {against}")
    width = max(map(len, names)) + 2
    for name, difference in comparison["differences"].items():
        print(f"  {short[name]:<{width}}{cell(difference)}")
    for name, text in comparison["reports"].items():
        if text:
            print(f"\n{short[name]}\n{text}")
    print_words(results, names)
    rows = [
        {short.get(key, key): value for key, value in row.items()}
        for row in comparison["completions"][:examples]
    ]
    print_examples(rows, names, examples)
