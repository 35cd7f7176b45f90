"""Tokenizers without torch: transformers' generic fast tokenizer over a tokenizer.json.

transformers' Auto classes import torch where it is installed; the class used here does not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

TOKENIZER_FILE = "tokenizer.json"


def fast_tokenizer_class() -> Any:
    """Import transformers' PreTrainedTokenizerFast without its advice to install torch."""
    name = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        from transformers import PreTrainedTokenizerFast
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
    return PreTrainedTokenizerFast


def directory_tokenizer(directory: Path) -> Any:
    """Read the tokenizer of a Hugging Face directory.

    Raises: FileNotFoundError naming the missing file and how to make it.
    """
    if not (directory / TOKENIZER_FILE).exists():
        raise FileNotFoundError(
            f"{directory} has no {TOKENIZER_FILE}, so no tokenizer. Copy it from the model's page, "
            "or make it from older tokenizer files: "
            f"AutoTokenizer.from_pretrained(ORIGINAL).save_pretrained({str(directory)!r})"
        )
    return fast_tokenizer_class().from_pretrained(str(directory))


def save_tokenizer(tokenizer: Any, directory: Path) -> None:
    """Write a tokenizer's files, under a class name that transformers 4 and 5 both know."""
    tokenizer.save_pretrained(str(directory))
    path = directory / "tokenizer_config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.get("tokenizer_class") == "TokenizersBackend":
        content["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


SPECIAL = {"pad_token": "<|pad|>", "bos_token": "<|bos|>", "eos_token": "<|eos|>"}
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
SMALLEST_VOCABULARY = 256 + len(SPECIAL)


def byte_tokenizer() -> Any:
    """Make a tokenizer of 256 bytes and `<|pad|>` 256, `<|bos|>` 257, `<|eos|>` 258.

    Any text survives encode and decode. It has a small chat template and needs no file.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = [_byte_letter(byte) for byte in range(256)]
    vocabulary = {word: i for i, word in enumerate([*letters, *SPECIAL.values()])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL.values()])
    return _with_specials(tokenizer)


def train_bpe(texts: Iterable[str], vocab_size: int) -> Any:
    """Train a byte-level BPE tokenizer (Radford et al. 2019) on texts.

    Any text survives encode and decode; special tokens and chat template are those of
    `byte_tokenizer`. Fewer tokens than `vocab_size` come out where the texts hold no more pairs.

    Raises: ValueError where `vocab_size` does not hold the bytes and the special tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocab_size < SMALLEST_VOCABULARY:
        raise ValueError(
            f"a BPE vocabulary of {vocab_size} does not hold the bytes and special tokens: "
            f"{SMALLEST_VOCABULARY} are needed"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _with_specials(tokenizer)


def _with_specials(tokenizer: Any) -> Any:
    """Wrap a `tokenizers` tokenizer that has the special tokens."""
    made = fast_tokenizer_class()(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **SPECIAL
    )
    made.chat_template = CHAT_TEMPLATE
    return made


def _byte_letter(byte: int) -> str:
    """Give the printable letter that byte-level BPE writes for a byte (Radford et al. 2019)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    if byte in printable:
        return chr(byte)
    return chr(256 + sorted(set(range(256)) - set(printable)).index(byte))
