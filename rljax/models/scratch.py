"""Describe a model that does not exist yet: sizes as flags or a config.json, and its tokenizer."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from rljax.models.config import TransformerConfig, gpt2_config
from rljax.models.config_fields import ConfigError
from rljax.models.families import read_config, text_config
from rljax.models.pretrained import load_tokenizer
from rljax.models.tokenizer import SMALLEST_VOCABULARY, byte_tokenizer, train_bpe

BYTES, BPE = "bytes", "bpe"


@dataclasses.dataclass(frozen=True)
class ArchitectureConfig:
    """The sizes of a model that is trained from scratch."""

    family: Literal["llama", "gpt2"] = "llama"
    """llama: RMSNorm, rotary positions, gated MLP; gpt2: LayerNorm, learned positions, plain MLP
    of 4 x the hidden size, biases."""
    hidden_size: int = 128
    """Width of the residual stream."""
    num_layers: int = 4
    """Layers."""
    num_heads: int = 4
    """Attention heads; each has hidden_size / num_heads dimensions."""
    num_kv_heads: int | None = None
    """Key and value heads of a llama, dividing num_heads; None: as many as num_heads."""
    intermediate_size: int | None = None
    """Width of a llama's MLP; None: 8/3 of the hidden size, rounded up to a multiple of 16."""
    context_length: int = 256
    """Positions that the model may see."""
    tie_embeddings: bool = True
    """Use the embedding as the head."""

    def validate(self) -> None:
        """Raise ValueError for sizes that do not go together."""
        for name in ("hidden_size", "num_layers", "num_heads", "context_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of 2 x num_heads "
                f"{self.num_heads}: each head needs an even number of dimensions"
            )
        for name in ("num_kv_heads", "intermediate_size"):
            value = getattr(self, name)
            if value is not None and self.family == "gpt2":
                raise ValueError(f"{name} is {value}, but family gpt2 has no such choice")
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if self.num_kv_heads is not None and self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )


def make_architecture(config: ArchitectureConfig, vocab_size: int) -> TransformerConfig:
    """Turn flags into the decoder's configuration."""
    sizes: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": config.hidden_size,
        "num_layers": config.num_layers,
        "num_heads": config.num_heads,
        "context_length": config.context_length,
        "tie_embeddings": config.tie_embeddings,
    }
    if config.family == "gpt2":
        return gpt2_config(**sizes)
    return TransformerConfig(
        **sizes,
        num_kv_heads=config.num_kv_heads or config.num_heads,
        head_dim=config.hidden_size // config.num_heads,
        intermediate_size=config.intermediate_size or -(-config.hidden_size * 8 // 48) * 16,
    )


def read_architecture(path: str | Path) -> tuple[str, TransformerConfig]:
    """Read family and configuration from a config.json, or from a directory that has one.

    Raises: ConfigError naming file and key.
    """
    where = Path(path).expanduser()
    if where.is_dir():
        where = where / "config.json"
    try:
        content = json.loads(where.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{where} cannot be read as a config.json: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{where}: a JSON object is needed")
    fields = text_config(content, str(where))
    return fields["model_type"], read_config(fields, str(where))


def parse_tokenizer(text: str) -> int | None:
    """Return the vocabulary size of "bpe:SIZE", None for "bytes" and for a model's name.

    Raises: ValueError where a BPE has no size, or one that does not hold the bytes.
    """
    kind, _, size = text.partition(":")
    if kind != BPE:
        return None
    if not size.isdecimal() or int(size) < SMALLEST_VOCABULARY:
        raise ValueError(
            f"tokenizer is {text!r}: a BPE needs its vocabulary, as in bpe:4096, of at least "
            f"{SMALLEST_VOCABULARY}"
        )
    return int(size)


def make_tokenizer(text: str, texts: Iterable[str]) -> Any:
    """Make the tokenizer that a flag names: "bytes", "bpe:SIZE" trained on texts, or a model's.

    Raises: ValueError as `parse_tokenizer`, and for a tokenizer without BOS, EOS or pad token;
    FileNotFoundError and ConnectionError as `load_tokenizer`.
    """
    size = parse_tokenizer(text)
    if size is not None:
        return train_bpe(texts, size)
    tokenizer = byte_tokenizer() if text == BYTES else load_tokenizer(text)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if getattr(tokenizer, name) is None:
            raise ValueError(f"the tokenizer of {text} has no {name.removesuffix('_id')}")
    return tokenizer
