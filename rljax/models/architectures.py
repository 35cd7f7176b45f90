"""Architectures by name: of published models, without their weights.

The figures are those of each model's public config.json on the Hugging Face hub. No weights are
needed to plan a run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rljax.errors import UserError
from rljax.models.config import TransformerConfig, gpt2_config
from rljax.models.families import read_config, text_config
from rljax.models.random_models import random_config
from rljax.models.sources import RANDOM_PREFIX, SHORT_NAMES

SHAPE_PREFIX = "shape:"

SHAPES = {
    "smollm2-135m": TransformerConfig(
        vocab_size=49152,
        hidden_size=576,
        num_layers=30,
        num_heads=9,
        num_kv_heads=3,
        head_dim=64,
        intermediate_size=1536,
        context_length=8192,
        norm_eps=1e-5,
        rope_theta=1e5,
    ),
    "gpt2": gpt2_config(
        vocab_size=50257, hidden_size=768, num_layers=12, num_heads=12, context_length=1024
    ),
    "tiny-gpt2": gpt2_config(
        vocab_size=256, hidden_size=128, num_layers=4, num_heads=4, context_length=256
    ),
}

_LLAMA3: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 128256,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 5e5,
    "max_position_embeddings": 131072,
}
_SMOLLM2: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 49152,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e5,
    "max_position_embeddings": 8192,
}
_QWEN2: dict[str, Any] = {
    "model_type": "qwen2",
    "vocab_size": 151936,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "max_position_embeddings": 32768,
}
_GEMMA2: dict[str, Any] = {
    "model_type": "gemma2",
    "vocab_size": 256000,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "sliding_window": 4096,
}
_GPT2: dict[str, Any] = {"model_type": "gpt2", "vocab_size": 50257, "n_positions": 1024}
_GPT2_FIELDS = ("n_embd", "n_layer", "n_head")
_FIELDS = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "intermediate_size", "tie_word_embeddings",
)  # fmt: skip

_SIZES: dict[str, tuple[dict[str, Any], tuple[int | bool, ...]]] = {
    "meta-llama/Llama-3.1-8B": (_LLAMA3, (4096, 32, 32, 8, 14336, False)),
    "meta-llama/Llama-3.1-70B": (_LLAMA3, (8192, 80, 64, 8, 28672, False)),
    "meta-llama/Llama-3.2-1B": (_LLAMA3, (2048, 16, 32, 8, 8192, True)),
    "meta-llama/Llama-3.2-3B": (_LLAMA3, (3072, 28, 24, 8, 8192, True)),
    "Qwen/Qwen2.5-0.5B": (_QWEN2, (896, 24, 14, 2, 4864, True)),
    "Qwen/Qwen2.5-1.5B": (_QWEN2, (1536, 28, 12, 2, 8960, True)),
    "Qwen/Qwen2.5-7B": (_QWEN2 | {"vocab_size": 152064}, (3584, 28, 28, 4, 18944, False)),
    "Qwen/Qwen2.5-32B": (_QWEN2 | {"vocab_size": 152064}, (5120, 64, 40, 8, 27648, False)),
    "google/gemma-2-2b": (_GEMMA2, (2304, 26, 8, 4, 9216, True)),
    "google/gemma-2-9b": (_GEMMA2, (3584, 42, 16, 8, 14336, True)),
    "HuggingFaceTB/SmolLM2-135M": (_SMOLLM2, (576, 30, 9, 3, 1536, True)),
    "HuggingFaceTB/SmolLM2-360M": (_SMOLLM2, (960, 32, 15, 5, 2560, True)),
    "HuggingFaceTB/SmolLM2-1.7B": (_SMOLLM2, (2048, 24, 32, 32, 8192, True)),
    "openai-community/gpt2": (_GPT2, (768, 12, 12)),
    "openai-community/gpt2-medium": (_GPT2, (1024, 24, 16)),
    "openai-community/gpt2-large": (_GPT2, (1280, 36, 20)),
    "openai-community/gpt2-xl": (_GPT2, (1600, 48, 25)),
    "distilbert/distilgpt2": (_GPT2, (768, 6, 12)),
}
"""Hub id -> what its family has in common, and the sizes in the order of the fields above."""

SHAPES["tiny-llama"] = random_config("tiny-llama")[1]
_ENDINGS = ("-instruct", "-it")


def known_names() -> tuple[str, ...]:
    """List the hub ids whose architecture is known."""
    return tuple(_SIZES)


def _known(name: str) -> TransformerConfig | None:
    """Find a hub id, with or without its owner and in any case; a tuned model is as its base."""
    plain = name.lower()
    for ending in _ENDINGS:
        plain = plain.removesuffix(ending)
    for hub_id, (common, sizes) in _SIZES.items():
        if plain in (hub_id.lower(), hub_id.lower().split("/")[1]):
            fields = _GPT2_FIELDS if common is _GPT2 else _FIELDS
            return read_config(common | dict(zip(fields, sizes, strict=True)), hub_id)
    return None


def _read(path: Path) -> TransformerConfig:
    file = path / "config.json" if path.is_dir() else path
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} holds no JSON object: give the config.json of a model")
    return read_config(text_config(content, str(file)), str(file))


SHAPES["llama-3.2-1b"] = read_config(
    _LLAMA3 | dict(zip(_FIELDS, _SIZES["meta-llama/Llama-3.2-1B"][1], strict=True)), "llama-3.2-1b"
)


def find_architecture(name: str) -> TransformerConfig:
    """Return the configuration of a model by name, reading no weights and no network.

    name: `shape:NAME`, `random:NAME`, a directory with a config.json, such a file, a hub id of
    `known_names()` or its last part. Raises UserError for any other.
    """
    if name.startswith(SHAPE_PREFIX):
        shape = name.removeprefix(SHAPE_PREFIX)
        if shape not in SHAPES:
            raise UserError(f"there is no shape {shape!r}; known: {', '.join(SHAPES)}")
        return SHAPES[shape]
    if name.startswith(RANDOM_PREFIX):
        try:
            return random_config(name.removeprefix(RANDOM_PREFIX))[1]
        except ValueError as error:
            raise UserError(str(error)) from error
    path = Path(name).expanduser()
    if path.is_dir() or path.suffix == ".json":
        return _read(path)
    found = _known(SHORT_NAMES.get(name, name))
    if found is None:
        raise UserError(
            f"the architecture of {name!r} is not known: give its config.json (a file, or the "
            f"directory that holds it), or one of {', '.join(known_names())}"
        )
    return found
