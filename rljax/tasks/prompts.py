"""Turn texts into prompts: cut by tokens, wrapped in a template, split, batched.

Shapes: B sequences, P prompt slots (left-padded).
"""

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from rljax.rewards.protocol import TokenTexts
from rljax.tasks.sources import DataError
from rljax.types import Prompts

CHARS_PER_TOKEN = 10
"""So many characters a wanted token are tokenized at first: most texts need no more."""
SPARE_TOKENS = 8
"""So many tokens must follow the cut, or all of the text is tokenized: cutting characters may
change the last tokens."""
TEXTS_AT_ONCE = 1024
"""A tokenizer keeps offsets and spellings of all tokens of a call: 8 kB a text of 320 characters,
which the process would hold from then on."""
REPLACEMENT = "\ufffd"


class CutText(NamedTuple):
    """A text after the cut, with the tokens that it was cut by."""

    text: str
    tokens: tuple[int, ...]
    columns: dict[str, Any]
    where: str
    split: Literal["train", "held_out"] | None = None

    def sort_key(self) -> tuple[float, str, str, tuple[int, ...]]:
        """Order texts by their hash; what follows it makes the order independent of the file."""
        columns = json.dumps(self.columns, sort_keys=True, default=repr)
        return side_fraction(self.text), self.text, columns, self.tokens


class Tokenizer(Protocol):
    """What is used of a `transformers` tokenizer."""

    chat_template: Any

    def __call__(self, text: list[str], *, add_special_tokens: bool = True) -> Any:
        """Return token ids of texts, under the key "input_ids"."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return token ids."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids."""
        ...

    def apply_chat_template(self, conversation: list[dict[str, str]], **options: Any) -> Any:
        """Return the text of a conversation."""
        ...


@dataclass(frozen=True)
class PromptSet:
    """Prompts with their tokens, ready to batch."""

    texts: tuple[str, ...]
    """What a reward sees: the text after the cut, without template and special tokens."""
    tokens: tuple[tuple[int, ...], ...]
    """What the model sees."""
    columns: dict[str, tuple[Any, ...]]
    """The other fields of the records, for the reward."""
    first_id: int = 0
    """Id of the first prompt; training and held-out prompts have different ids, so other keys."""
    token_columns: dict[str, TokenTexts] = field(default_factory=dict)
    """The columns that token rewards take, as tokens, a row for each prompt."""

    def __len__(self) -> int:
        return len(self.texts)

    def columns_at(self, indices: Sequence[int] | np.ndarray) -> dict[str, list[Any]]:
        """Gather the columns of the prompts at `indices`."""
        return {name: [column[int(i)] for i in indices] for name, column in self.columns.items()}

    @property
    def max_tokens(self) -> int:
        """Length of the longest prompt."""
        return max(map(len, self.tokens), default=0)


def make_batch(
    prompts: PromptSet,
    indices: Sequence[int] | np.ndarray,
    *,
    pad_id: int,
    multiple: int = 16,
    length: int | None = None,
) -> Prompts:
    """Gather prompts into a left-padded batch of NumPy arrays.

    `samples` counts how often the same prompt stood before in this batch, so that repeating an
    index G times makes a group of G different samples. `multiple` and
    `length` are those of `pad_prompts`.
    """
    tokens, mask = pad_prompts(
        [prompts.tokens[i] for i in indices], pad_id=pad_id, multiple=multiple, length=length
    )
    ids = np.asarray(indices, np.int32) + prompts.first_id
    return Prompts(tokens, mask, ids, count_repeats(indices))


def count_repeats(indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """Count for each index how often it stood before: [B] int32."""
    seen: dict[int, int] = {}
    counts = []
    for index in map(int, indices):
        counts.append(seen.get(index, 0))
        seen[index] = counts[-1] + 1
    return np.asarray(counts, np.int32)


def pad_prompts(
    prompts: Sequence[Sequence[int]], *, pad_id: int, multiple: int = 16, length: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Left-pad token lists to one length: tokens [B, P] int32, mask [B, P] bool.

    P is `length`, or else the longest prompt rounded up to a `multiple`, so that few shapes are
    ever compiled. The mask is true on real tokens. Raises ValueError for no prompts, an empty
    prompt, or one longer than `length`.
    """
    lengths = [len(prompt) for prompt in prompts]
    if not lengths or min(lengths) == 0 or multiple <= 0:
        raise ValueError(f"need prompts that are not empty and {multiple=} > 0; lengths {lengths}")
    longest = max(lengths)
    width = -(-longest // multiple) * multiple if length is None else length
    if longest > width:
        raise ValueError(f"prompt {lengths.index(longest)} has {longest} tokens, more than {width}")
    tokens = np.full((len(prompts), width), pad_id, np.int32)
    mask = np.zeros((len(prompts), width), np.bool_)
    for row, prompt in enumerate(prompts):
        tokens[row, width - len(prompt) :] = prompt
        mask[row, width - len(prompt) :] = True
    return tokens, mask


def special_prefix(tokenizer: Tokenizer) -> list[int]:
    """Find the ids that the tokenizer puts before a text (a BOS, or none).

    What it would put after a text is left out: a prompt that ends in EOS has nothing to continue.
    """
    bare = tokenizer.encode("a", add_special_tokens=False)
    whole = tokenizer.encode("a")
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start]
    raise ValueError(f"cannot tell the tokenizer's special tokens apart: {bare} in {whole}")


def encode_texts(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each text, without special tokens."""
    encoded: list[list[int]] = []
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        some = list(texts[start : start + TEXTS_AT_ONCE])
        encoded += tokenizer(some, add_special_tokens=False)["input_ids"]
    return encoded


def pad_texts(tokenizer: Tokenizer, texts: Sequence[str]) -> TokenTexts:
    """Encode texts without special tokens and the white space around them; pad on the right."""
    encoded = encode_texts(tokenizer, [text.strip() for text in texts])
    width = max(1, *map(len, encoded), 0)
    tokens = np.zeros((len(encoded), width), np.int32)
    mask = np.zeros((len(encoded), width), np.bool_)
    for row, ids in enumerate(encoded):
        tokens[row, : len(ids)], mask[row, : len(ids)] = ids, True
    return TokenTexts(tokens, mask)


def cut_texts(
    tokenizer: Tokenizer, texts: Sequence[str], num_tokens: int
) -> list[tuple[str, list[int]]]:
    """Return the first `num_tokens` tokens of each text, and the text that they spell.

    Fewer where the text is shorter, or where the last ones would be part of a character.
    """
    heads = [text[: num_tokens * CHARS_PER_TOKEN] for text in texts]
    encoded = encode_texts(tokenizer, heads)
    again = [
        index
        for index, (head, tokens) in enumerate(zip(heads, encoded, strict=True))
        if len(head) < len(texts[index]) and len(tokens) < num_tokens + SPARE_TOKENS
    ]
    whole = encode_texts(tokenizer, [texts[index] for index in again])
    for index, tokens in zip(again, whole, strict=True):
        encoded[index] = tokens
    return [
        _first_tokens(tokenizer, text, tokens, num_tokens)
        for text, tokens in zip(texts, encoded, strict=True)
    ]


def _first_tokens(
    tokenizer: Tokenizer, text: str, tokens: list[int], num_tokens: int
) -> tuple[str, list[int]]:
    """Cut one text, given the tokens of (enough of) it."""
    if len(tokens) <= num_tokens:
        return text, tokens
    tokens = tokens[:num_tokens]
    spelled = tokenizer.decode(tokens)
    while tokens and spelled.endswith(REPLACEMENT) and REPLACEMENT not in text:
        tokens = tokens[:-1]
        spelled = tokenizer.decode(tokens)
    return spelled, tokens


def encode_chat(tokenizer: Tokenizer, text: str, system_prompt: str | None) -> list[int]:
    """Wrap a text as the user's message in the model's chat template, ready for the answer.

    Raises DataError when the tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        raise DataError("task.chat needs a tokenizer with a chat template; this one has none")
    system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    conversation = [*system, {"role": "user", "content": text}]
    rendered = tokenizer.apply_chat_template(
        conversation, tokenize=False, add_generation_prompt=True
    )
    return tokenizer.encode(rendered, add_special_tokens=False)


def encode_prompts(tokenizer: Tokenizer, texts: Sequence[str], *, chat: bool) -> list[list[int]]:
    """Encode prompts as a model sees them: after the tokenizer's special tokens, or in its chat.

    Raises DataError where there is no chat template.
    """
    if chat:
        return [encode_chat(tokenizer, text, None) for text in texts]
    prefix = special_prefix(tokenizer)
    return [prefix + tokens for tokens in encode_texts(tokenizer, texts)]


def text_fraction(text: str) -> float:
    """Map a text to a number in [0, 1) that depends on nothing else (SHA-256)."""
    digest = hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def split_key(text: str) -> str:
    """Return what of a text decides on its side of a split: its words, in Unicode's NFC.

    Texts that differ in white space only, or in how accents are composed, have one key.
    """
    return " ".join(unicodedata.normalize("NFC", text).split())


def side_fraction(text: str) -> float:
    """Map a text to a number in [0, 1) that its words decide (`split_key`): below, held out."""
    return text_fraction(split_key(text))


def split_texts(
    texts: Sequence[CutText], held_out_fraction: float
) -> tuple[list[CutText], list[CutText]]:
    """Split texts into (train, held out), both in an order of their own.

    A text is held out when its hash falls below the fraction, whatever else is in the file; equal
    texts, also those that differ in white space or Unicode form only (`split_key`), fall on the
    same side, and exact duplicates (columns too) are dropped. Both sides get at
    least one text. Texts that say on which side they are (`split`) are on it. The order is that of
    the hashes: shuffled, and the same however the file was sorted. Raises DataError when a single
    text is to be split, and for a text that is said to be on both sides.
    """
    keyed = sorted((text.sort_key(), index) for index, text in enumerate(texts))
    unique = {key[:3]: texts[index] for key, index in reversed(keyed)}
    ordered = [unique[key] for key in sorted(unique)]
    said = declared_splits(texts)
    held_out = {key for key, split in said.items() if split == "held_out"}
    keys = [split_key(text.text) for text in ordered]
    different = [key for key in dict.fromkeys(keys) if key not in said]
    if held_out_fraction > 0 and different:
        held_out |= _choose_held_out(different, held_out_fraction, alone=not said)
    sides = list(zip(ordered, keys, strict=True))
    train = [text for text, key in sides if key not in held_out]
    return train, [text for text, key in sides if key in held_out]


def declared_splits(texts: Iterable[Any]) -> dict[str, str]:
    """Collect what rows or texts say about the side of their `split_key`.

    Raises DataError where two disagree.
    """
    said: dict[str, str] = {}
    for text in texts:
        if text.split is None:
            continue
        if said.setdefault(split_key(text.text), text.split) != text.split:
            raise DataError(f"{text.where}: this prompt is both to train on and held out")
    return said


def _choose_held_out(different: list[str], fraction: float, *, alone: bool) -> set[str]:
    """Choose keys, in the order of their hashes, by these; alone: both sides need one of them."""
    if not alone:
        return {text for text in different if text_fraction(text) < fraction}
    if len(different) < 2:
        raise DataError(
            "one prompt alone cannot be split into training and held-out prompts; add prompts, or "
            "set --task.held-out-fraction 0"
        )
    count = sum(text_fraction(text) < fraction for text in different)
    return set(different[: min(max(count, 1), len(different) - 1)])
