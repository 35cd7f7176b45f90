"""What a run writes about its policy: completions, evaluations, and the change at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rljax.reporting.statistics import bootstrap_mean, bootstrap_paired_difference
from rljax.tasks.evaluation import Evaluation
from rljax.tasks.token_tables import Table, is_due, make_tables
from rljax.training.processes import is_first
from rljax.training.writer import BY_TOKEN, MetricsWriter
from rljax.types import Rollout

if TYPE_CHECKING:
    from rljax.training.setup import OnPolicy


def completion_rows(
    prompts: list[str],
    rollout: Rollout,
    texts: list[str],
    scores: np.ndarray,
    tables: Sequence[Table] = (),
) -> list[dict[str, Any]]:
    """Make the rows of the completions table, one for each of `prompts`: the first of the batch.

    tables: numbers of each token, of the first of these.
    """
    made = rollout.completions
    kl = np.sum(np.asarray(made.own_log_probs) - np.asarray(rollout.ref_log_probs), axis=1)
    lengths = np.sum(np.asarray(made.mask), axis=1)
    return [
        {
            "prompt": prompt,
            "completion": texts[row],
            "score": float(scores[row]),
            "kl": float(kl[row]),
            "tokens": int(lengths[row]),
        }
        | by_token(row, tables)
        for row, prompt in enumerate(prompts)
    ]


def by_token(row: int, tables: Sequence[Table]) -> dict[str, Table]:
    """Return the table of a row's tokens, as the row holds it, where there is one."""
    return {BY_TOKEN: tables[row]} if row < len(tables) else {}


def tables_of(
    setup: OnPolicy, step: int, rollout: Rollout, numbers: Mapping[str, Any]
) -> list[Table]:
    """Make the tables of a step's first completions; none at most steps, see `token_tables`.

    step: from 1 on. numbers: what the update gave the tokens, [n, C] by name.
    """
    if not is_due(step, setup.config.steps):
        return []
    critic = setup.critic != "none"
    made, reference = rollout.completions, rollout.ref_log_probs
    return make_tables(
        setup.tokenizer, made, reference, setup.shown, critic=critic, numbers=numbers
    )


def log_spread(writer: MetricsWriter, step: int, scores: np.ndarray, lengths: np.ndarray) -> None:
    """Show how the scores and lengths [B] of a batch spread; NaN, a failed reward, is left out."""
    good = scores[np.isfinite(scores)]
    if good.size:
        writer.histogram(step, "objective/scores", good)
    writer.histogram(step, "completion/length", lengths)


def log_evaluation(writer: MetricsWriter, step: int, result: Evaluation) -> None:
    """Write an evaluation's means, those of several rewards one by one, and its completions."""
    interval = bootstrap_mean(result.scores)
    parts = {f"eval/{name}": mean for name, mean in result.reward_means.items()}
    writer.scalars(
        step,
        {
            "eval/scores": interval.mean,
            "eval/scores_low": interval.low,
            "eval/scores_high": interval.high,
            "eval/kl": float(np.mean(result.kl)),
            "eval/length": float(np.mean(result.lengths)),
            "eval/reward_failures": result.failures,
        }
        | parts
        | {f"eval/{name}": value for name, value in result.report.metrics.items()},
    )
    rows = [
        {"prompt": prompt, "completion": text, "score": float(score), "kl": float(kl)}
        | by_token(row, result.tables)
        for row, (prompt, text, score, kl) in enumerate(
            zip(result.prompts, result.completions, result.scores, result.kl, strict=True)
        )
    ]
    writer.completions(step, [{"held_out": True, **row} for row in rows], name="eval/completions")


def report(
    before: np.ndarray, measured_before: dict[str, float], after: Evaluation, directory: Path
) -> None:
    """Print and save how the held-out score changed, with a paired bootstrap interval.

    before: the scores; measured_before: what the task's report said then.
    """
    change = bootstrap_paired_difference(before, after.scores)
    start, end = bootstrap_mean(before), bootstrap_mean(after.scores)
    result = {
        "prompts": len(before),
        "score_before": start._asdict(),
        "score_after": end._asdict(),
        "change": change._asdict(),
        "kl": float(np.mean(after.kl)),
        "report": {
            name: {"before": measured_before.get(name), "after": value}
            for name, value in after.report.metrics.items()
        },
    }
    if is_first():
        (directory / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"held-out score, {len(before)} prompts, 95% bootstrap intervals:")
    for name, row in (("before", start), ("after", end), ("change", change)):
        print(f"  {name:<7}{row.mean:+.3f}  [{row.low:+.3f}, {row.high:+.3f}]")
    print(f"  KL from the reference {np.mean(after.kl):.2f} nats per completion")
    for name, value in after.report.metrics.items():
        start_value = measured_before.get(name)
        shown = "" if start_value is None else f"{start_value:.3f} -> "
        print(f"  {name} {shown}{value:.3f}")
    if after.report.text:
        print(after.report.text)
    for prompt, text, score in list(
        zip(after.prompts, after.completions, after.scores, strict=True)
    )[:5]:
        print(f"  {score:+.2f}  {prompt!r} -> {text!r}")
