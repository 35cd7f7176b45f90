"""What a report says of runs or of a sweep: tables, curves and completions, before any layout."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rljax.reporting.curves import Section, make_sections
from rljax.reporting.groups import Group, group_runs, groups_of_sweep
from rljax.reporting.runs import RunRecord, SweepRecord, differing, flat_config
from rljax.reporting.samples import Samples, samples_of, token_runs
from rljax.reporting.searches import SearchRecord, trials_table
from rljax.reporting.statistics import bootstrap_mean
from rljax.reporting.svg import Final
from rljax.reporting.tables import NOTHING, Table, duration, interval, number
from rljax.training.alarm_rules import RULES

LAST_SHARE = 0.1
ALARM = "health/alarm_"
_BRANCHES = ("ppo.", "grpo.", "online_dpo.", "dpo.", "distill.", "sft.", "reward_model.")
FINAL = (
    "eval/scores", "eval/kl", "eval/length", "objective/scores", "objective/kl",
    "completion/length", "objective/entropy", "eval/loss", "eval/perplexity", "train/loss",
)  # fmt: skip
VERDICTS = {
    "reproduced": "✓ reproduced",
    "not reproduced": "✗ not reproduced",
    "reversed": "⇄ reversed",
    "undecided": "? undecided",
}


@dataclasses.dataclass(frozen=True)
class Contents:
    """All that a page or a Markdown file is made of."""

    title: str
    facts: str
    """One line: how many runs, seeds and steps."""
    groups: tuple[Group, ...]
    sections: tuple[Section, ...]
    finals: tuple[tuple[str, tuple[Final, ...]], ...]
    """(metric, a row for each group)."""
    results: Table
    claims: Table | None
    alarms: Table | None
    """What runs said of themselves; None where nothing was wrong."""
    config: Table | None
    """What differs between the groups; None where nothing does, or there is one group."""
    cost: Table | None
    samples: tuple[Samples, ...]
    tokens: tuple[dict[str, Any], ...]
    search: SearchRecord | None = None
    """The search whose trials the runs are."""

    @property
    def tables(self) -> list[Table]:
        """The tables in the order of reading."""
        trials = None if self.search is None else trials_table(self.search)
        found = (trials, self.claims, self.results, self.alarms, self.config, self.cost)
        return [table for table in found if table is not None]


def contents_of_runs(records: Sequence[RunRecord], title: str | None = None) -> Contents:
    """Describe runs; those that differ in their seed only stand together."""
    groups = group_runs(records)
    finals = finals_of_runs(groups)
    name = title or _title(groups)
    return _contents(name, groups, finals, results_of_runs(groups, finals), None, ())


def contents_of_search(
    search: SearchRecord, records: Sequence[RunRecord], title: str | None = None
) -> Contents:
    """Describe a search: its trials, and what their runs have measured."""
    contents = contents_of_runs(records, title or search.directory.name)
    return dataclasses.replace(contents, search=search)


def _title(groups: Sequence[Group]) -> str:
    """Name what is reported on by its groups, where they are few."""
    joined = " and ".join(group.label for group in groups)
    return joined if len(groups) <= 2 and len(joined) < 60 else f"{len(groups)} configurations"


def contents_of_sweep(sweep: SweepRecord, title: str | None = None) -> Contents:
    """Describe a sweep: a group for each arm; its own metrics and claims, where they are there."""
    groups = groups_of_sweep(sweep)
    judged = sweep.results.get("metrics", {})
    name = title or sweep.name
    if not judged:
        finals = finals_of_runs(groups)
        results = results_of_runs(groups, finals)
        return _contents(name, groups, finals, results, None, sweep.missing)
    finals = finals_of_sweep(groups, judged)
    claims = claims_table(sweep.results.get("claims", []))
    results = results_of_sweep(list(sweep.results["arms"]), judged)
    return _contents(name, groups, finals, results, claims, sweep.missing)


def _contents(
    title: str,
    groups: Sequence[Group],
    finals: Sequence[tuple[str, tuple[Final, ...]]],
    results: Table,
    claims: Table | None,
    missing: Sequence[str],
) -> Contents:
    records = [run for group in groups for run in group.runs]
    seeds = sorted({run.seed for run in records if run.seed is not None})
    steps = sorted({run.last_step for run in records})
    facts = [
        f"{len(records)} run{'s' * (len(records) != 1)}",
        f"{len(groups)} configuration{'s' * (len(groups) != 1)}",
        f"seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds))}" if seeds else "no seed",
    ]
    if steps:
        between = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
        facts.append(f"{between} steps")
    if missing:
        facts.append(f"{len(missing)} missing: {', '.join(missing[:6])}")
    return Contents(
        title=title,
        facts=" · ".join(facts)
        if records
        else "The results that were kept; the runs are not here.",
        groups=tuple(groups),
        sections=tuple(make_sections(groups)),
        finals=tuple(finals),
        results=results,
        claims=claims,
        alarms=alarms_table(groups),
        config=config_table(groups),
        cost=cost_table(groups) if groups else None,
        samples=tuple(samples_of(groups)),
        tokens=tuple(token_runs(groups)),
    )


# ---------------------------------------------------------------------------------- Final values


def final_value(run: RunRecord, tag: str) -> float:
    """Return what a run came to: an evaluation's last value, else the mean of the last tenth.

    NaN where it has no finite one.
    """
    if tag not in run.metrics:
        return math.nan
    values = run.metrics[tag].values
    count = 1 if tag.startswith("eval/") else max(round(values.size * LAST_SHARE), 1)
    late = values[-count:]
    late = late[np.isfinite(late)]
    return float(late.mean()) if late.size else math.nan


def _final(label: str, place: int, values: np.ndarray) -> Final | None:
    there = values[np.isfinite(values)]
    if not there.size:
        return None
    made = bootstrap_mean(there)
    return Final(label, place, there, made.mean, made.low, made.high)


def finals_of_runs(groups: Sequence[Group]) -> list[tuple[str, tuple[Final, ...]]]:
    """Find what the groups came to in each of the usual metrics that they have."""
    made = []
    for tag in FINAL:
        rows = [
            _final(group.label, place, np.array([final_value(run, tag) for run in group.runs]))
            for place, group in enumerate(groups)
        ]
        kept = tuple(row for row in rows if row is not None)
        if kept:
            made.append((tag, kept))
    return made


def results_of_runs(
    groups: Sequence[Group], finals: Sequence[tuple[str, tuple[Final, ...]]]
) -> Table:
    """Make the table of final values, with the change on held-out prompts where it was measured."""
    changes = {group.label: _change(group) for group in groups}
    changed = any(changes.values())
    leading = ("configuration", "held-out change")[: 1 + changed]
    header = (*leading, *(tag for tag, _ in finals))
    rows = []
    for group in groups:
        by_tag = [next((r for r in rows_ if r.label == group.label), None) for _, rows_ in finals]
        cells = [NOTHING if r is None else interval(r.mean, r.low, r.high) for r in by_tag]
        first = [changes[group.label] or NOTHING] if changed else []
        rows.append((group.label, *first, *cells))
    if len(header) > len(rows) + 1:  # the longer side goes down the page
        header, *turned = zip(header, *rows, strict=True)
        header, rows = ("metric", *header[1:]), turned
    several = any(len(group.runs) > 1 for group in groups)
    note = "eval/* is the last evaluation; other values are means of the last tenth of the steps."
    note += " Brackets: 95% bootstrap intervals over seeds." if several else ""
    if changed:
        note += (
            " Held-out change: the mean over seeds, with an interval over seeds."
            if several
            else " Held-out change: a paired 95% bootstrap interval over prompts."
        )
    return Table("Final values", header, tuple(rows), note)


def _change(group: Group) -> str:
    found = [run.result["change"] for run in group.runs if "change" in run.result]
    if not found:
        return ""
    if len(found) == 1:
        one = found[0]
        return interval(one["mean"], one["low"], one["high"])
    made = bootstrap_mean([one["mean"] for one in found])
    return interval(*made)


def finals_of_sweep(
    groups: Sequence[Group], judged: dict[str, Any]
) -> list[tuple[str, tuple[Final, ...]]]:
    """Take a sweep's own metrics, with its own intervals."""
    places = {group.label: place for place, group in enumerate(groups)}
    made = []
    for metric, by_arm in judged.items():
        rows = []
        for place, (arm, one) in enumerate(by_arm.items()):
            values = np.array([value for value in one["values"] if value is not None], np.float64)
            if values.size and one["mean"] is not None:
                bounds = (one["mean"], one["mean_low"], one["mean_high"])
                rows.append(Final(arm, places.get(arm, place), values, *bounds))
        if rows:
            made.append((metric, tuple(rows)))
    return made


def results_of_sweep(arms: Sequence[str], judged: dict[str, Any]) -> Table:
    """Make the table of a sweep's metrics: mean and IQM, with 95% intervals over seeds."""
    rows = []
    for arm in arms:
        cells = []
        for by_arm in judged.values():
            one = by_arm.get(arm, {})
            mean = interval(one.get("mean"), one.get("mean_low"), one.get("mean_high"))
            several = len([v for v in one.get("values", []) if v is not None]) > 3
            cells.append(mean + (f" · IQM {number(one.get('iqm'))}" if several else ""))
        rows.append((arm, *cells))
    note = "Means over seeds with 95% bootstrap intervals; IQM: the mean of the middle half."
    return Table("Final values", ("arm", *judged), tuple(rows), note)


def claims_table(claims: Sequence[dict[str, Any]]) -> Table | None:
    """Make the table of claims and verdicts; None where nothing was claimed."""
    if not claims:
        return None
    rows = []
    for claim in claims:
        sides = f"{claim['metric']}: {claim['left']} {claim['relation']} {claim['right']}"
        verdict = VERDICTS.get(claim["verdict"], claim["verdict"])
        note = f" ({claim['note']})" if claim.get("note") else ""
        rows.append(
            (
                claim["text"],
                verdict + note,
                sides,
                interval(claim.get("difference"), claim.get("low"), claim.get("high")),
                number(claim.get("margin_used", claim.get("margin"))),
                number(claim.get("probability_of_improvement")),
            )
        )
    header = ("claim", "verdict", "inequality", "left − right", "margin", "P(left > right)")
    note = "Written down before the runs. Brackets: 95% bootstrap intervals over seeds."
    return Table("Claims", header, tuple(rows), note, right=False)


# ------------------------------------------------------------------------------ The other tables


def alarms_table(groups: Sequence[Group]) -> Table | None:
    """Make the table of the alarms that runs raised; None where there were none."""
    meanings = {rule.name: rule.means for rule in RULES}
    rows = []
    for group in groups:
        tags = dict.fromkeys(tag for run in group.runs for tag in run.metrics)
        for tag in (tag for tag in tags if tag.startswith(ALARM)):
            held = [run.metrics[tag] for run in group.runs if tag in run.metrics]
            steps = [series.steps[series.values > 0] for series in held]
            steps = [found for found in steps if found.size]
            if not steps:
                continue
            name = tag.removeprefix(ALARM)
            rows.append(
                (
                    name.replace("_", " "),
                    group.label,
                    f"{len(steps)} of {len(group.runs)}",
                    f"{min(int(found[0]) for found in steps):,}",
                    f"{sum(found.size for found in steps):,}",
                    meanings.get(name, NOTHING),
                )
            )
    header = ("alarm", "configuration", "runs", "first step", "steps", "what it may mean")
    return Table("Alarms", header, tuple(rows), right=False) if rows else None


def spell_value(value: Any) -> str:
    """Spell a config's value."""
    if isinstance(value, float):
        return number(value, 6)
    if isinstance(value, list):
        return ", ".join(map(spell_value, value))
    return str(value)


def _comparable(flats: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Call the fields of different algorithms alike; which one it is becomes a field itself."""
    found = [[name for name in _BRANCHES if any(n.startswith(name) for n in f)] for f in flats]
    if len({tuple(names) for names in found}) < 2:
        return list(flats)
    made = []
    for flat, names in zip(flats, found, strict=True):
        start = names[0] if names else "algorithm."
        made.append(
            {"algorithm": start[:-1] if names else None}
            | {
                f"algorithm.{name.removeprefix(start)}" if name.startswith(start) else name: value
                for name, value in flat.items()
            }
        )
    return made


def config_table(groups: Sequence[Group]) -> Table | None:
    """Make the table of the fields in which groups differ; None where there are none."""
    flats = _comparable([flat_config(group.runs[0]) for group in groups])
    fields = differing(flats, ignore=["seed"])
    if len(groups) < 2 or not fields:
        return None
    fields.sort(key=lambda field: sum(field not in flat for flat in flats))  # shared ones first
    rows = tuple(
        (field, *(spell_value(flat[field]) if field in flat else NOTHING for flat in flats))
        for field in fields
    )
    header = ("field", *(group.label for group in groups))
    if len(groups) > len(fields):  # the longer side goes down the page
        header, *turned = zip(header, *rows, strict=True)
        header, rows = ("configuration", *header[1:]), tuple(turned)
    note = f"Only what differs, but for the seed; {NOTHING}: the config has no such field."
    return Table("Differences of the configs", header, rows, note, right=False)


def cost_table(groups: Sequence[Group]) -> Table:
    """Make the table of what a run of each group took: means over its runs."""
    parts = dict.fromkeys(name for g in groups for run in g.runs for name in run.cost.parts)
    parts = dict.fromkeys(name for name in parts if name != "step")
    rows = []
    for group in groups:
        costs = [run.cost for run in group.runs]

        def mean(of: Callable[[Any], float], costs: Sequence[Any] = costs) -> float:
            return float(np.mean([of(cost) for cost in costs]))

        def share(name: str, costs: Sequence[Any] = costs) -> str:
            shares = [
                cost.parts.get(name, 0.0) / cost.seconds for cost in costs if cost.seconds > 0
            ]
            return f"{100 * float(np.mean(shares)):.0f}%" if shares else NOTHING

        rows.append(
            (
                group.label,
                str(len(costs)),
                duration(mean(lambda cost: cost.seconds)),
                duration(mean(lambda cost: cost.step_s)),
                *(share(name) for name in parts),
                number(mean(lambda cost: cost.tokens)),
                number(mean(lambda cost: cost.tokens_per_s)),
                duration(mean(lambda cost: cost.compile_s)),
                number(mean(lambda cost: cost.programs)),
            )
        )
    header = (
        "configuration", "runs", "steps took", "median step", *parts, "tokens", "tokens/s",
        "compiling", "programs",
    )  # fmt: skip
    note = (
        "Means over runs. Evaluations, checkpoints and the start of the process are not in it. "
        "Compiling: what the first step took beyond the median of the later ones."
    )
    return Table("Cost", header, tuple(rows), note)
