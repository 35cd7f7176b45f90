"""Turn preferences into arrays: tokenised once, of one width, batched by seed and step.

N records, B records of a batch, K completions of a record, P prompt slots (left-padded), C
completion slots (right-padded).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rljax.tasks.order import batch_indices
from rljax.tasks.preference_forms import (
    Form,
    judge_by_gold,
    opposites,
    split_records,
    to_form,
)
from rljax.tasks.preferences import (
    Judged,
    PreferenceConfig,
    Source,
    cut_labelled_texts,
    read_source,
)
from rljax.tasks.prompts import (
    Tokenizer,
    encode_prompts,
    encode_texts,
    pad_prompts,
    text_fraction,
)
from rljax.tasks.sources import DataError
from rljax.types import Completions, Prompts

MULTIPLE = 16
"""Widths are multiples of this many slots."""


class PreferenceBatch(NamedTuple):
    """Prompts, the completions of each, and what is said of them; arrays lead with B."""

    prompt_tokens: Any
    """[B, P] int32."""
    prompt_mask: Any
    """[B, P] bool."""
    tokens: Any
    """[B, K, C] int32."""
    mask: Any
    """[B, K, C] bool, true on real tokens."""
    values: Any
    """[B, K] float32: higher is better; of pairs 1 and 0, of labels 1 or 0."""
    valid: Any
    """[B, K] bool: false where a record has fewer than K completions."""
    margins: Any
    """[B] float32: by how much the first of a pair is better; 0 where that is not known."""
    ref_log_probs: Any
    """[B, K] float32: of whole completions under the reference; NaN until they are computed."""
    weights: Any
    """[B] float32: share of each record in the batch's mean; 0 on rows that fill a batch up."""


def flat_rows(batch: PreferenceBatch) -> tuple[Prompts, Completions]:
    """Lay the completions out as B K rows, each after its prompt, for scoring."""
    count, each, slots = batch.tokens.shape
    prompts = Prompts(
        batch.prompt_tokens.repeat(each, axis=0),
        batch.prompt_mask.repeat(each, axis=0),
        np.arange(count * each, dtype=np.int32),
        np.zeros(count * each, np.int32),
    )
    zeros = np.zeros((count * each, slots), np.float32)
    return prompts, Completions(
        batch.tokens.reshape(-1, slots), batch.mask.reshape(-1, slots), zeros, zeros
    )


@dataclasses.dataclass(frozen=True)
class PreferenceSet:
    """One side of the split: its records, and their arrays."""

    records: tuple[Judged, ...]
    rows: PreferenceBatch
    """All N records; `weights` are 1."""

    def __len__(self) -> int:
        return len(self.records)

    def take(self, indices: Any) -> PreferenceBatch:
        """Gather records, each of the same weight, adding up to 1."""
        chosen = jax.tree.map(lambda array: array[indices], self.rows)
        return chosen._replace(weights=np.full(len(indices), 1 / len(indices), np.float32))

    def batch(self, step: int, *, batch_size: int, seed: int) -> PreferenceBatch:
        """Return the batch of a step: a pure function of its arguments, see `batch_indices`."""
        indices = batch_indices(step, size=len(self), batch_size=batch_size, seed=seed)
        return self.take(indices)

    def read_by(self, steps: int, *, batch_size: int, seed: int) -> np.ndarray:
        """Return which records the batches of so many steps hold, in rising order."""
        if steps * batch_size >= len(self):
            return np.arange(len(self))
        batches = [
            batch_indices(step, size=len(self), batch_size=batch_size, seed=seed)
            for step in range(steps)
        ]
        return np.unique(np.concatenate(batches))

    def batches(
        self, batch_size: int, records: np.ndarray | None = None
    ) -> Iterator[PreferenceBatch]:
        """Yield records in order, weights 1; the last batch is filled up with weight 0.

        records: which; None: all.
        """
        places = np.arange(len(self)) if records is None else records
        for start in range(0, len(places), batch_size):
            chosen = places[start : start + batch_size]
            filled = np.resize(chosen, batch_size)
            weights = (np.arange(batch_size) < len(chosen)).astype(np.float32)
            yield self.take(filled)._replace(weights=weights)

    def digest(self) -> str:
        """Return a hash of all tokens: two sets of one digest have the same log-probs."""
        found = hashlib.sha256()
        rows = self.rows
        for array in (rows.prompt_tokens, rows.prompt_mask, rows.tokens, rows.mask):
            found.update(str(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        return found.hexdigest()


def with_mismatched(side: PreferenceSet) -> PreferenceSet:
    """Give each record a second completion, that of the next record with another prompt.

    For KTO's estimate of the KL (Ethayarajh et al. 2024, section 4.1); the partner stays the same,
    so that its reference log-prob can be computed once. Raises DataError where all prompts are
    the same.
    """
    prompts = [record.prompt for record in side.records]
    count = len(prompts)
    partners = np.empty(count, np.int64)
    following = next((i for i in range(count) if prompts[i] != prompts[-1]), None)
    if following is None:
        raise DataError(f"KTO needs records of at least 2 prompts; all {count} have the same")
    for index in reversed(range(count)):
        partners[index] = following
        if prompts[index - 1] != prompts[index]:
            following = index
    rows = side.rows

    def both(own: Any, other: Any) -> Any:
        return np.concatenate([own, other], axis=1)

    return dataclasses.replace(
        side,
        rows=rows._replace(
            tokens=both(rows.tokens, rows.tokens[partners]),
            mask=both(rows.mask, rows.mask[partners]),
            values=both(rows.values, np.zeros_like(rows.values)),
            valid=both(rows.valid, np.zeros_like(rows.valid)),
            ref_log_probs=both(rows.ref_log_probs, rows.ref_log_probs),
        ),
    )


class PreferenceData(NamedTuple):
    """Preferences to learn from, and those held out."""

    train: PreferenceSet
    held_out: PreferenceSet | None
    """None where `held_out_fraction` is 0."""
    has_margins: bool
    """Whether every pair to train on says by how much its first completion is better."""
    summary: str


class Encoder(NamedTuple):
    """What turns text into tokens, and the sizes that they must fit."""

    tokenizer: Tokenizer
    eos_token_ids: Sequence[int]
    pad_token_id: int
    context_length: int


# ----------------------------------------------------------------------------------- Tokenising


def _encode(
    records: list[Judged], config: PreferenceConfig, encoder: Encoder
) -> tuple[list[Judged], list[list[int]], list[list[list[int]]]]:
    """Encode records and keep those that fit: records, prompts, completions of each."""
    limit = encoder.context_length - config.completion_tokens
    if limit < 1:
        raise DataError(
            f"--data.completion-tokens {config.completion_tokens} leaves no room for a prompt in "
            f"the model's context of {encoder.context_length} tokens"
        )
    if config.max_prompt_tokens is not None:
        limit = min(limit, config.max_prompt_tokens)
    different = list(dict.fromkeys(r.prompt for r in records))
    found = encode_prompts(encoder.tokenizer, different, chat=config.chat)
    prompt_of = dict(zip(different, found, strict=True))
    texts = [text for r in records for text in r.completions]
    encoded = iter(encode_texts(encoder.tokenizer, texts))
    kept, prompts, completions = [], [], []
    slots = config.completion_tokens
    for record in records:
        rows = [list(next(encoded)) for _ in record.completions]
        if config.append_eos and not record.cut:
            rows = [row + [encoder.eos_token_ids[0]] for row in rows]
        too_long = any(len(row) > slots for row in rows) and not record.cut
        prompt = prompt_of[record.prompt]
        if len(prompt) > limit or (too_long and config.too_long == "drop"):
            continue
        if not all(rows):
            raise DataError(f"{record.where}: a completion has no token at all")
        kept.append(record)
        prompts.append(prompt)
        completions.append([row[:slots] for row in rows])
    return kept, prompts, completions


def _round_up(size: int) -> int:
    return -(-size // MULTIPLE) * MULTIPLE


def _make_set(
    records: list[Judged],
    prompts: list[list[int]],
    completions: list[list[list[int]]],
    width: int,
    slots: int,
    most: int,
    pad: int,
) -> PreferenceSet:
    """Pad encoded records to [N, width] and [N, most, slots]."""
    count = len(records)
    prompt_tokens, prompt_mask = pad_prompts(prompts, pad_id=pad, length=width)
    tokens = np.full((count, most, slots), pad, np.int32)
    mask = np.zeros((count, most, slots), np.bool_)
    values = np.zeros((count, most), np.float32)
    valid = np.zeros((count, most), np.bool_)
    for n, (record, rows) in enumerate(zip(records, completions, strict=True)):
        values[n, : len(rows)] = record.values
        valid[n, : len(rows)] = True
        for k, row in enumerate(rows):
            tokens[n, k, : len(row)] = row
            mask[n, k, : len(row)] = True
    margins = np.asarray([r.margin or 0.0 for r in records], np.float32)
    unknown = np.full((count, most), np.nan, np.float32)
    weights = np.ones(count, np.float32)
    rows_ = PreferenceBatch(
        prompt_tokens, prompt_mask, tokens, mask, values, valid, margins, unknown, weights
    )
    return PreferenceSet(tuple(records), rows_)


# -------------------------------------------------------------------------------- All of it


def _check_flags(source: Source, config: PreferenceConfig) -> None:
    if config.prompt_tokens is not None and source.kind != "text":
        raise DataError(
            f"--data.prompt-tokens cuts labelled texts; the records of {config.source} have prompts"
        )


def _side(source: Source, form: Form, config: PreferenceConfig, share: float) -> list[Judged]:
    """Bring the records of a side into the form, judged by the gold reward if there is one."""
    if source.kind == "text" and config.gold_reward is not None and form in ("pairs", "rankings"):
        source = source._replace(kind="pair", records=list(opposites(source.records)))
    unique: dict[tuple[Any, ...], Judged] = {}
    for record in to_form(form, judge_by_gold(source, config), config):
        unique.setdefault(record[:3], record)
    records = list(unique.values())
    if config.max_records is None:
        return records
    # By a hash of its own: that of the prompts has decided on the split.
    hashes = [text_fraction("\0".join(("choose", r.prompt, *r.completions))) for r in records]
    chosen = np.argsort(hashes, kind="stable")[: max(1, round(share * config.max_records))]
    return [records[i] for i in np.sort(chosen)]


def make_preferences(
    config: PreferenceConfig, form: Form, encoder: Encoder, source: Source | None = None
) -> PreferenceData:
    """Read, split, judge, bring into a form, and tokenise: fixed widths for the whole data.

    form: what the algorithm learns from; pairs and rankings are made of scores, labels of pairs
    or scores, pairs of labelled texts (see `preference_forms`). source: what was read of it
    already, before a model was there. Raises DataError, naming file and
    line, for what cannot be read, and for flags that say nothing about these records; RewardError
    for a bad gold reward.
    """
    source = source or read_source(config.source, config)
    read = len(source.records)
    _check_flags(source, config)
    if source.kind == "text":
        texts = cut_labelled_texts(source.records, config, encoder.tokenizer)
        source = source._replace(records=texts)
    sides = split_records(source.records, config.held_out_fraction)
    shares = (1 - config.held_out_fraction, config.held_out_fraction)
    encoded, dropped = [], 0
    for side, share in zip(sides, shares, strict=True):
        part = source._replace(records=side)
        records = _side(part, form, config, share) if side else []
        kept = _encode(records, config, encoder)
        dropped += len(records) - len(kept[0])
        if records and not kept[0]:
            raise DataError(
                f"{config.source}: none of {len(records)} {form} fits: raise "
                "--data.completion-tokens or --data.max-prompt-tokens, or set --data.too-long "
                "truncate"
            )
        encoded.append(kept)
    width = _round_up(max(len(p) for _, prompts, _ in encoded for p in prompts))
    rows = [row for _, _, all_rows in encoded for rows in all_rows for row in rows]
    slots = min(_round_up(max(map(len, rows))), config.completion_tokens)
    most = max(len(rows) for _, _, all_rows in encoded for rows in all_rows)
    made = [
        _make_set(*side, width, slots, most, encoder.pad_token_id) if side[0] else None
        for side in encoded
    ]
    train, held_out = made
    assert train is not None  # split_records gives both sides records
    has_margins = form == "pairs" and all(r.margin is not None for r in train.records)
    summary = (
        f"{config.source}: {read} records of kind {source.kind!r} gave {len(train)} {form} to "
        f"train on and {len(held_out) if held_out else 0} held out, {dropped} too long; "
        f"{width} prompt and {slots} completion slots{'; ' * bool(source.note)}{source.note}"
    )
    return PreferenceData(train, held_out, has_margins, summary)
