"""Bring records of preferences into the form that an algorithm learns from.

pairs: (better, worse), values (1, 0); labels: one completion, value 1 or 0; scores: one
completion and its score; rankings: two or more completions of a prompt with their values.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Literal

from rljax.rewards.loading import load_reward
from rljax.rewards.protocol import TokenReward, judge_texts, show_failure
from rljax.tasks.preferences import Judged, PreferenceConfig, Source
from rljax.tasks.prompts import side_fraction, text_fraction
from rljax.tasks.sources import DataError

Form = Literal["pairs", "labels", "scores", "rankings"]


def judge_by_gold(source: Source, config: PreferenceConfig) -> Source:
    """Replace what a source says of its completions by the scores of the gold reward."""
    if config.gold_reward is None:
        if source.kind == "plain":
            raise DataError(
                f"{config.source}: completions without a judgement need --data.gold-reward"
            )
        return source
    reward = load_reward(config.gold_reward)
    if isinstance(reward, TokenReward):
        raise DataError(f"--data.gold-reward {config.gold_reward!r} scores tokens, not texts")
    prompts = [r.prompt for r in source.records for _ in r.completions]
    completions = [text for r in source.records for text in r.completions]
    judgement = judge_texts(reward, prompts, completions)
    if judgement.failures:
        shown = show_failure(judgement, prompts, completions)
        raise DataError(f"--data.gold-reward {config.gold_reward!r} failed: {shown}")
    scores = iter(judgement.scores.tolist())
    judged = [
        r._replace(values=tuple(next(scores) for _ in r.completions), margin=None)
        for r in source.records
    ]
    several = source.kind in ("pair", "ranking")
    return Source("ranking" if several else "score", judged, True)


def split_records(records: Iterable[Judged], fraction: float) -> tuple[list[Judged], list[Judged]]:
    """Split records into (train, held out) by a hash of the prompt, in the order of the hashes.

    The split is that of `tasks.prompts.split_texts`: it depends on the prompt alone. Raises
    DataError where a side would be empty.
    """
    ordered = sorted(records, key=lambda r: (side_fraction(r.prompt), r.prompt, r[1:3], r.where))
    held_out = [r for r in ordered if side_fraction(r.prompt) < fraction]
    train = ordered[len(held_out) :]
    if not train or (fraction and not held_out):
        raise DataError(
            f"{len(train)} records to train on and {len(held_out)} held out "
            f"(--data.held-out-fraction {fraction}): both sides need some; add records of other "
            "prompts, or change the fraction"
        )
    return train, held_out


def to_form(form: Form, source: Source, config: PreferenceConfig) -> list[Judged]:
    """Bring the records of one side of the split into a form.

    Raises DataError where the records cannot take it, and for flags that say nothing about them.
    """
    drawn = config.labels == "bradley_terry"
    if drawn and not source.scored:
        raise DataError(
            "--data.labels bradley_terry draws by scores: these records have none; set "
            "--data.gold-reward"
        )
    if (config.label_threshold is not None) != (form == "labels" and source.scored):
        need = "needs a" if form == "labels" and source.scored else "has no use for the"
        raise DataError(f"this data {need} --data.label-threshold")
    made = {"pairs": _pairs, "labels": _labels, "scores": _scores, "rankings": _rankings}[form](
        source, config
    )
    records = list(made)
    if not records:
        raise DataError(
            f"{config.source}: no {form} can be made of its {len(source.records)} records of kind "
            f"{source.kind!r} (pairs and rankings need completions of one prompt whose worth "
            "differs)"
        )
    return records


def draw(config: PreferenceConfig, *parts: str) -> float:
    """Draw a number in (0, 1) for these texts: the same whatever else is in the file."""
    fraction = text_fraction("\0".join((str(config.seed), *parts)))
    return min(max(fraction, 2**-49), 1 - 2**-49)


def _scale(config: PreferenceConfig) -> float:
    return 1.0 if config.label_scale is None else config.label_scale


def _groups(source: Source) -> Iterator[Judged]:
    """Gather the completions of each prompt into one record, equal completions once."""
    if source.kind in ("pair", "ranking"):
        yield from source.records
        return
    by_prompt: dict[str, dict[str, Judged]] = {}
    for record in source.records:
        by_prompt.setdefault(record.prompt, {}).setdefault(record.completions[0], record)
    for prompt, found in by_prompt.items():
        members = list(found.values())
        yield Judged(
            prompt,
            tuple(r.completions[0] for r in members),
            tuple(r.values[0] for r in members),
            members[0].where,
            cut=any(r.cut for r in members),
        )


def _pairs(source: Source, config: PreferenceConfig) -> Iterator[Judged]:
    if config.pairing == "best_worst" and source.kind in ("pair", "text"):
        raise DataError("--data.pairing best_worst needs more than two completions of a prompt")
    if source.kind == "pair":
        yield from (r for r in source.records if r.completions[0] != r.completions[1])
    elif source.kind == "text":
        yield from opposites(source.records)
    else:
        for group in _groups(source):
            yield from _pairs_of(group, source.scored, config)


def _pairs_of(group: Judged, scored: bool, config: PreferenceConfig) -> Iterator[Judged]:
    """Yield the pairs of a ranking whose values differ, the better (or drawn) one first."""
    places = sorted(range(len(group.values)), key=lambda i: -group.values[i])
    if config.pairing == "best_worst":
        places = [places[0], places[-1]]
    for better, worse in itertools.combinations(places, 2):
        difference = group.values[better] - group.values[worse]
        margin: float | None = difference if scored else None
        if config.labels == "bradley_terry":
            texts = sorted((group.completions[better], group.completions[worse]))
            probability = 1 / (1 + math.exp(-min(_scale(config) * difference, 700.0)))
            if draw(config, group.prompt, *texts) >= probability:
                better, worse = worse, better
            margin = None  # what is drawn says nothing of how much better
        elif difference == 0:
            continue
        chosen, rejected = group.completions[better], group.completions[worse]
        if chosen != rejected:
            yield Judged(
                group.prompt, (chosen, rejected), (1.0, 0.0), group.where, margin, group.cut
            )


def opposites(records: list[Judged]) -> Iterator[Judged]:
    """Pair the continuation of a positive text with that of a negative one.

    The prompt is the beginning of the positive text in every other pair, of the negative one in
    the others: what follows it with sense is then the better one as often as not, and only the
    label tells them apart. Every text is used once.
    """
    positive = [r for r in records if r.values[0] == 1]
    negative = [r for r in records if r.values[0] == 0]
    for index, (good, bad) in enumerate(zip(positive, negative, strict=False)):
        asked = (good, bad)[index % 2]
        texts = (good.completions[0], bad.completions[0])
        where = f"{good.where} and {bad.where}"
        if texts[0] != texts[1]:
            yield Judged(asked.prompt, texts, (1.0, 0.0), where, cut=good.cut or bad.cut)


def _singles(source: Source) -> Iterator[Judged]:
    for r in source.records:
        for text, value in zip(r.completions, r.values, strict=True):
            yield Judged(r.prompt, (text,), (value,), r.where, cut=r.cut)


def _labels(source: Source, config: PreferenceConfig) -> Iterator[Judged]:
    if source.kind == "ranking" and not source.scored:
        raise DataError("labels cannot be made of a ranking: give scores, or labels")
    threshold = config.label_threshold
    for record in _singles(source):
        if threshold is not None:
            lead = record.values[0] - threshold
            good = lead > 0
            if config.labels == "bradley_terry":
                bound = max(min(_scale(config) * lead, 700.0), -700.0)
                good = draw(config, record.prompt, *record.completions) < 1 / (1 + math.exp(-bound))
            record = record._replace(values=(float(good),))
        yield record


def _scores(source: Source, config: PreferenceConfig) -> Iterator[Judged]:
    if config.labels == "bradley_terry":
        raise DataError("--data.labels bradley_terry draws preferences, but scores are wanted")
    if not source.scored:
        raise DataError(
            f"scores cannot be made of records of kind {source.kind!r}: give `score`, or set "
            "--data.gold-reward"
        )
    yield from _singles(source)


def _rankings(source: Source, config: PreferenceConfig) -> Iterator[Judged]:
    if config.pairing == "best_worst":
        raise DataError("--data.pairing says nothing about rankings, which keep all completions")
    if source.kind == "text":
        yield from opposites(source.records)
        return
    for group in _groups(source):
        if config.labels == "bradley_terry":
            # Adding Gumbel noise to the scores draws from Plackett-Luce, whose pairs are
            # Bradley-Terry's (Yellott 1977).
            noise = [-math.log(-math.log(draw(config, group.prompt, t))) for t in group.completions]
            values = [_scale(config) * v + n for v, n in zip(group.values, noise, strict=True)]
            group = group._replace(values=tuple(values))
        if len(set(group.values)) > 1:
            yield group
