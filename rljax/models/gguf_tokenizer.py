"""Build a tokenizer from a GGUF file's `tokenizer.ggml.*` metadata with the `tokenizers` library.

Byte-level BPE vocabularies are built (`tokenizer.ggml.model` "gpt2"); each names the rule that
splits text before merging, and an unknown rule is an error: a near one would tokenise differently.
"""

from __future__ import annotations

from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from rljax.models.gguf_file import GGUFFile
from rljax.models.safetensors_io import FileError
from rljax.models.tokenizer import fast_tokenizer_class

CONTROL, USER_DEFINED = 3, 4
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _gpt2_split() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _smollm_split() -> Any:
    digits = pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Sequence([digits, _gpt2_split()])


def _words_split(digits: str) -> Any:
    split = pre_tokenizers.Split(Regex(WORDS % digits), behavior="isolated", invert=False)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, level])


PRE_TOKENIZERS = {
    "gpt-2": _gpt2_split,
    "smollm": _smollm_split,
    "llama-bpe": lambda: _words_split(r"\p{N}{1,3}"),
    "qwen2": lambda: _words_split(r"\p{N}"),
}


def _tokenizer(file: GGUFFile) -> Tokenizer:
    """Build vocabulary, merges, splitting and special tokens."""
    kind, split = file.get("tokenizer.ggml.model"), file.metadata.get("tokenizer.ggml.pre")
    if kind != "gpt2":
        raise FileError(
            f"{file.path}: tokenizer.ggml.model is {kind!r}; known: 'gpt2' (byte-level BPE). "
            "Use the model's Hugging Face directory instead"
        )
    if split not in PRE_TOKENIZERS:
        raise FileError(
            f"{file.path}: tokenizer.ggml.pre is {split!r}; known: {', '.join(PRE_TOKENIZERS)}. "
            "Use the model's Hugging Face directory instead"
        )
    words: list[str] = file.get("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ", 1)) for merge in file.get("tokenizer.ggml.merges")]
    vocabulary = {word: number for number, word in enumerate(words)}
    model = models.BPE(vocabulary, merges, ignore_merges=split == "llama-bpe")
    tokenizer = Tokenizer(model)
    if split == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[split]()
    tokenizer.decoder = decoders.ByteLevel()
    types = file.metadata.get("tokenizer.ggml.token_type", [])
    tokenizer.add_tokens(
        [
            AddedToken(word, normalized=False, special=kind == CONTROL)
            for word, kind in zip(words, types, strict=False)
            if kind in (CONTROL, USER_DEFINED)
        ]
    )
    # llama.cpp begins Llama 3's texts with BOS unless the file forbids it, others if it asks so.
    if file.metadata.get("tokenizer.ggml.add_bos_token", split == "llama-bpe"):
        number = file.get("tokenizer.ggml.bos_token_id")
        tokenizer.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=False),
                processors.TemplateProcessing(
                    single=f"{words[number]} $A",
                    pair=f"{words[number]} $A {words[number]} $B",
                    special_tokens=[(words[number], number)],
                ),
            ]
        )
    return tokenizer


def build_tokenizer(file: GGUFFile) -> Any:
    """Build a PreTrainedTokenizerFast with the file's special tokens and chat template.

    Raises: FileError for a vocabulary or a splitting rule that is not known.
    """
    words: list[str] = file.get("tokenizer.ggml.tokens")
    special = {}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        number = file.metadata.get(f"tokenizer.ggml.{key}_token_id")
        if number is not None:
            special[f"{name}_token"] = words[number]
    tokenizer = fast_tokenizer_class()(
        tokenizer_object=_tokenizer(file), clean_up_tokenization_spaces=False, **special
    )
    tokenizer.chat_template = file.metadata.get("tokenizer.chat_template")
    return tokenizer
