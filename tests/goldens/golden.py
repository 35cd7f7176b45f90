"""Read a recorded golden, and write the checkpoint that it was recorded from (no torch needed)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from rljax.models.safetensors_io import PlannedTensor, write_tensors
from rljax.models.tokenizer import fast_tokenizer_class
from tests.goldens.cases import CASES, EOS, VOCABULARY, random_weight

HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Golden:
    config: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    tokens: np.ndarray
    mask: np.ndarray
    logits: np.ndarray
    greedy: np.ndarray


def load_golden(case: str) -> Golden:
    with np.load(HERE / f"{case}.npz", allow_pickle=False) as file:
        shapes = {k: tuple(v) for k, v in json.loads(str(file["tensors"])).items()}
        arrays = {name: file[name] for name in ("tokens", "mask", "logits", "greedy")}
        return Golden(json.loads(str(file["config"])), shapes, **arrays)


def golden_weights(case: str) -> dict[str, np.ndarray]:
    gemma = CASES[case][0].startswith("gemma")
    shapes = load_golden(case).shapes
    return {name: random_weight(name, shape, gemma) for name, shape in shapes.items()}


def word_tokenizer():
    """A tokenizer of VOCABULARY words `w0`, `w1`, ...; no merges, no rules."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {f"w{i}": i for i in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return fast_tokenizer_class()(
        tokenizer_object=tokenizer, bos_token="w1", eos_token=f"w{EOS}", pad_token="w0"
    )


def plan(weights: dict[str, np.ndarray]) -> list[PlannedTensor]:
    return [PlannedTensor(k, v.dtype, v.shape, lambda v=v: v) for k, v in weights.items()]


def write_checkpoint(
    directory: Path,
    weights: dict[str, np.ndarray],
    config: dict[str, Any],
    shard_bytes: int = 1 << 30,
) -> Path:
    """Write a Hugging Face directory by hand, as the hub holds it."""
    directory.mkdir(parents=True, exist_ok=True)
    write_tensors(directory, plan(weights), shard_bytes)
    (directory / "config.json").write_text(json.dumps(config))
    word_tokenizer().save_pretrained(str(directory))
    return directory


def write_golden(case: str, directory: Path, **options: Any) -> Path:
    return write_checkpoint(directory, golden_weights(case), load_golden(case).config, **options)
