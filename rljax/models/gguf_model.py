"""What a GGUF file says about its model: metadata -> family and TransformerConfig, tensor table.

llama.cpp renames the tensors, keeps Llama's queries and keys in another row order, and stores
Llama 3's rope scaling as a tensor of divisors. All are undone here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from rljax.models.config import RopeScaling, TransformerConfig, gpt2_config
from rljax.models.gguf_file import GGUFFile, read_gguf_tensor
from rljax.models.rotary import inverse_frequencies
from rljax.models.safetensors_io import FileError
from rljax.models.weights import Row, WeightsError

ARCHITECTURES = ("gpt2", "llama", "qwen2", "qwen3")
ROPE_FACTORS = "rope_freqs.weight"


def _refuse(file: GGUFFile, architecture: str, head_dim: int) -> None:
    """Raise for metadata that changes the result and that is not supported."""
    for key in ("expert_count", "attention.sliding_window"):
        if file.metadata.get(f"{architecture}.{key}"):
            raise FileError(f"{file.path}: {architecture}.{key} is not supported")
    for key in ("rope.dimension_count", "attention.key_length", "attention.value_length"):
        value = file.metadata.get(f"{architecture}.{key}", head_dim)
        if value != head_dim:
            raise FileError(f"{file.path}: {architecture}.{key} is {value}, head_dim {head_dim}")


def _rope_scaling(
    file: GGUFFile, architecture: str, theta: float, head_dim: int
) -> RopeScaling | None:
    kind = file.metadata.get(f"{architecture}.rope.scaling.type", "none")
    if kind == "linear":
        return RopeScaling("linear", float(file.get(f"{architecture}.rope.scaling.factor")))
    if kind != "none":
        raise FileError(
            f"{file.path}: {architecture}.rope.scaling.type is {kind!r}; known: none, linear"
        )
    if ROPE_FACTORS not in file.tensors:
        return None
    # Only the divisors are stored: take the released settings and check that they give the same.
    divisors = read_gguf_tensor(file.tensors[ROPE_FACTORS], np.dtype(np.float32))
    scaling = RopeScaling("llama3", float(divisors.max()))
    plain = inverse_frequencies(head_dim, theta, None)
    scaled = inverse_frequencies(head_dim, theta, scaling)
    if divisors.shape != plain.shape or not np.allclose(plain / divisors, scaled, rtol=1e-4):
        raise FileError(
            f"{file.path}: {ROPE_FACTORS} is not Llama 3's scaling with bands 1 and 4 of 8192"
        )
    return scaling


def gguf_config(file: GGUFFile) -> tuple[str, TransformerConfig]:
    """Read the family (as config.json's model_type) and the configuration.

    Raises: FileError naming file and key for an architecture or a feature that is not supported.
    """
    name = file.get("general.architecture")
    if name not in ARCHITECTURES:
        raise FileError(
            f"{file.path}: general.architecture is {name!r}; known: {', '.join(ARCHITECTURES)}"
        )
    hidden, heads = file.get(f"{name}.embedding_length"), file.get(f"{name}.attention.head_count")
    if isinstance(heads, list):
        raise FileError(f"{file.path}: {name}.attention.head_count differs by layer")
    if "token_embd.weight" not in file.tensors:
        raise WeightsError(f"{file.path}: the tensor token_embd.weight is missing")
    head_dim = file.metadata.get(f"{name}.attention.key_length", hidden // heads)
    common: dict[str, Any] = {
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "hidden_size": hidden,
        "num_layers": file.get(f"{name}.block_count"),
        "num_heads": heads,
        "num_kv_heads": file.metadata.get(f"{name}.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "intermediate_size": file.get(f"{name}.feed_forward_length"),
        "context_length": file.get(f"{name}.context_length"),
        "tie_embeddings": "output.weight" not in file.tensors,
    }
    if name == "gpt2":
        epsilon = _decimal(file.get("gpt2.attention.layer_norm_epsilon"))
        return name, gpt2_config(**common, norm_eps=epsilon)
    _refuse(file, name, head_dim)
    theta = float(file.metadata.get(f"{name}.rope.freq_base", 10000.0))
    return name, TransformerConfig(
        **common,
        norm_eps=_decimal(file.get(f"{name}.attention.layer_norm_rms_epsilon")),
        rope_theta=theta,
        rope_scaling=_rope_scaling(file, name, theta, head_dim),
        attention_bias="blk.0.attn_q.bias" in file.tensors,
        attention_out_bias="blk.0.attn_output.bias" in file.tensors,
        mlp_bias="blk.0.ffn_up.bias" in file.tensors,
        qk_norm=name == "qwen3",
    )


def _decimal(value: float) -> float:
    """Undo the rounding to float32 of a number such as 1e-5."""
    return float(np.format_float_positional(np.float32(value), unique=True))


def gguf_rows(family: str, config: TransformerConfig) -> list[Row]:
    """List the tensors of a GGUF file of this family."""
    return list(_rows(family, config))


def _rows(family: str, config: TransformerConfig) -> Iterator[Row]:
    def affine(name: str, target: str, bias: bool, layout: str = "copy") -> Iterator[Row]:
        yield Row(f"{name}.weight", (f"{target}.kernel",), layout)
        if bias:
            yield Row(f"{name}.bias", (f"{target}.bias",), layout)

    def norm(name: str, target: str) -> Iterator[Row]:
        yield Row(f"{name}.weight", (f"{target}.scale",))
        if config.norm_bias:
            yield Row(f"{name}.bias", (f"{target}.bias",))

    yield Row("token_embd.weight", ("embed.embedding",))
    if config.positions == "learned":
        yield Row("position_embd.weight", ("positions.embedding",))
    order = "pairs" if family == "llama" else "copy"
    for i in range(config.num_layers):
        here, there = f"blk.{i}", f"layers.{i}"
        attention = f"{there}.attention"
        yield from norm(f"{here}.attn_norm", f"{there}.attn_norm")
        if family == "gpt2":
            for leaf, stored in (("kernel", "weight"), ("bias", "bias")):
                parts = tuple(f"{attention}.{p}.{leaf}" for p in ("query", "key", "value"))
                yield Row(f"{here}.attn_qkv.{stored}", parts, "stack")
        else:
            bias = config.attention_bias
            yield from affine(f"{here}.attn_q", f"{attention}.query", bias, order)
            yield from affine(f"{here}.attn_k", f"{attention}.key", bias, order)
            yield from affine(f"{here}.attn_v", f"{attention}.value", bias)
        yield from affine(f"{here}.attn_output", f"{attention}.out", config.attention_out_bias)
        if config.qk_norm:
            yield from norm(f"{here}.attn_q_norm", f"{attention}.query_norm")
            yield from norm(f"{here}.attn_k_norm", f"{attention}.key_norm")
        yield from norm(f"{here}.ffn_norm", f"{there}.mlp_norm")
        for part in ("gate", "up", "down") if config.gated_mlp else ("up", "down"):
            yield from affine(f"{here}.ffn_{part}", f"{there}.mlp.{part}", config.mlp_bias)
    yield from norm("output_norm", "final_norm")
    if not config.tie_embeddings:
        yield Row("output.weight", ("head.kernel",))


def check_gguf_names(file: GGUFFile, rows: list[Row]) -> None:
    """Raise WeightsError naming file and key for a missing or an unknown tensor."""
    names = {row.name for row in rows}
    for name in names:
        if name not in file.tensors:
            raise WeightsError(f"{file.path}: the tensor {name} is missing")
    for name in file.tensors:
        if name not in names | {ROPE_FACTORS}:
            raise WeightsError(f"{file.path}: the tensor {name} has no place in this model")
