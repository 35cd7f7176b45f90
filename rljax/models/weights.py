"""Weight tables: the names and layouts of a Hugging Face checkpoint <-> the parameter dict.

Linear kernels are [out, in] in both, so most rows only rename. GPT-2 stores them [in, out] and
fuses query, key and value; GPT-NeoX fuses them head by head.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from rljax.errors import UserError
from rljax.models.config import TransformerConfig

Params = dict[str, Any]
Shape = tuple[int, ...]

# "copy": as is. "transpose": [in, out] -> [out, in]. "stack": targets one after the other on the
# output axis. "stack_transpose": the same, stored [in, out]. "interleave": per head h, rows of the
# first target's head h, then the second's, then the third's. "pairs": within each head, the rows
# that rotate together lie side by side, as llama.cpp keeps Llama's queries and keys.
LAYOUTS = ("copy", "transpose", "stack", "stack_transpose", "interleave", "pairs")


class WeightsError(UserError, ValueError):
    """A checkpoint whose tensors do not fit its configuration."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One tensor of a checkpoint and the parameters that it holds."""

    name: str
    targets: tuple[str, ...]
    layout: str = "copy"


# Buffers that old checkpoints carry along with the weights; transformers ignores them too.
BUFFERS = re.compile(
    r"(h\.\d+\.attn\.(bias|masked_bias)"
    r"|layers\.\d+\.(self_attn|attention)\.rotary_emb\.inv_freq"
    r"|layers\.\d+\.attention\.(bias|masked_bias)"
    r"|rotary_emb\.inv_freq)"
)
# What a Gemma 3 image-and-text checkpoint holds beside its language model.
IMAGE_PARTS = re.compile(r"(model\.)?(vision_tower|multi_modal_projector)\.")
PREFIXES = {
    "gpt2": ("transformer.", ""),
    "gpt_neox": ("gpt_neox.", ""),
    "gemma3_text": ("model.", "language_model.model.", "model.language_model.", ""),
}
HEAD_NAMES = {"gpt_neox": ("embed_out", "lm_head")}


def prefixes(family: str) -> tuple[str, ...]:
    """Name the prefixes under which a family's decoder is stored; the first one is written."""
    return PREFIXES.get(family, ("model.", ""))


def head_names(family: str) -> tuple[str, ...]:
    """Name the module of the output head; the first one is written."""
    names = HEAD_NAMES.get(family, ("lm_head",))
    return (*names, "language_model.lm_head") if family == "gemma3_text" else names


def _affine(
    name: str, target: str, *, bias: bool, layout: str = "copy", scale: str = "kernel"
) -> Iterator[Row]:
    yield Row(f"{name}.weight", (f"{target}.{scale}",), layout)
    if bias:
        yield Row(f"{name}.bias", (f"{target}.bias",))


def _fused(
    name: str, target: str, kernel_layout: str, bias_layout: str, bias: bool
) -> Iterator[Row]:
    parts = ("query", "key", "value")
    yield Row(f"{name}.weight", tuple(f"{target}.{p}.kernel" for p in parts), kernel_layout)
    if bias:
        yield Row(f"{name}.bias", tuple(f"{target}.{p}.bias" for p in parts), bias_layout)


def _gpt2_rows(config: TransformerConfig) -> Iterator[Row]:
    yield Row("wte.weight", ("embed.embedding",))
    yield Row("wpe.weight", ("positions.embedding",))
    for i in range(config.num_layers):
        here, there = f"h.{i}", f"layers.{i}"
        yield from _affine(f"{here}.ln_1", f"{there}.attn_norm", bias=True, scale="scale")
        yield from _fused(
            f"{here}.attn.c_attn", f"{there}.attention", "stack_transpose", "stack", True
        )
        yield from _affine(
            f"{here}.attn.c_proj", f"{there}.attention.out", bias=True, layout="transpose"
        )
        yield from _affine(f"{here}.ln_2", f"{there}.mlp_norm", bias=True, scale="scale")
        yield from _affine(f"{here}.mlp.c_fc", f"{there}.mlp.up", bias=True, layout="transpose")
        yield from _affine(f"{here}.mlp.c_proj", f"{there}.mlp.down", bias=True, layout="transpose")
    yield from _affine("ln_f", "final_norm", bias=True, scale="scale")


def _gpt_neox_rows(config: TransformerConfig) -> Iterator[Row]:
    yield Row("embed_in.weight", ("embed.embedding",))
    for i in range(config.num_layers):
        here, there = f"layers.{i}", f"layers.{i}"
        yield from _affine(
            f"{here}.input_layernorm", f"{there}.attn_norm", bias=True, scale="scale"
        )
        yield from _fused(
            f"{here}.attention.query_key_value",
            f"{there}.attention",
            "interleave",
            "interleave",
            config.attention_bias,
        )
        yield from _affine(
            f"{here}.attention.dense", f"{there}.attention.out", bias=config.attention_out_bias
        )
        yield from _affine(
            f"{here}.post_attention_layernorm", f"{there}.mlp_norm", bias=True, scale="scale"
        )
        yield from _affine(f"{here}.mlp.dense_h_to_4h", f"{there}.mlp.up", bias=True)
        yield from _affine(f"{here}.mlp.dense_4h_to_h", f"{there}.mlp.down", bias=True)
    yield from _affine("final_layer_norm", "final_norm", bias=True, scale="scale")


def _llama_rows(config: TransformerConfig) -> Iterator[Row]:
    yield Row("embed_tokens.weight", ("embed.embedding",))
    for i in range(config.num_layers):
        here, there = f"layers.{i}", f"layers.{i}"
        norms = {"input_layernorm": "attn_norm"}
        if config.post_norms:
            norms["post_attention_layernorm"] = "attn_post_norm"
            norms["pre_feedforward_layernorm"] = "mlp_norm"
            norms["post_feedforward_layernorm"] = "mlp_post_norm"
        else:
            norms["post_attention_layernorm"] = "mlp_norm"
        for name, target in norms.items():
            yield Row(f"{here}.{name}.weight", (f"{there}.{target}.scale",))
        for name, target in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
            yield from _affine(
                f"{here}.self_attn.{name}",
                f"{there}.attention.{target}",
                bias=config.attention_bias,
            )
        yield from _affine(
            f"{here}.self_attn.o_proj", f"{there}.attention.out", bias=config.attention_out_bias
        )
        if config.qk_norm:
            for name, target in (("q_norm", "query_norm"), ("k_norm", "key_norm")):
                yield Row(f"{here}.self_attn.{name}.weight", (f"{there}.attention.{target}.scale",))
        for part in ("gate", "up", "down"):
            yield from _affine(
                f"{here}.mlp.{part}_proj", f"{there}.mlp.{part}", bias=config.mlp_bias
            )
    yield Row("norm.weight", ("final_norm.scale",))


def weight_rows(
    family: str, config: TransformerConfig, prefix: str | None = None, head: str | None = None
) -> list[Row]:
    """List the tensors of a checkpoint in order; `prefix` and `head` default to what is written."""
    make = {"gpt2": _gpt2_rows, "gpt_neox": _gpt_neox_rows}.get(family, _llama_rows)
    prefix = prefixes(family)[0] if prefix is None else prefix
    rows = [dataclasses.replace(row, name=prefix + row.name) for row in make(config)]
    if not config.tie_embeddings:
        rows.extend(_affine(head or head_names(family)[0], "head", bias=config.head_bias))
    return rows


def source_shape(row: Row, shapes: Sequence[Shape]) -> Shape:
    """Give the shape that a row's tensor must have for targets of these shapes."""
    if row.layout in ("copy", "pairs"):
        return shapes[0]
    stacked = (sum(shape[0] for shape in shapes), *shapes[0][1:])
    return stacked[::-1] if "transpose" in row.layout else stacked


def unpack(row: Row, array: np.ndarray, config: TransformerConfig) -> list[np.ndarray]:
    """Turn a checkpoint's tensor into its targets (views where they can be)."""
    if row.layout == "copy":
        return [array]
    if row.layout == "pairs":
        pairs = array.reshape(-1, config.head_dim // 2, 2, *array.shape[1:])
        return [pairs.swapaxes(1, 2).reshape(array.shape)]
    if "transpose" in row.layout:
        array = array.T
    if row.layout == "interleave":
        by_head = array.reshape(config.num_heads, 3, config.head_dim, *array.shape[1:])
        return [by_head[:, part].reshape(-1, *array.shape[1:]) for part in range(3)]
    return np.split(array, len(row.targets))


def pack(row: Row, arrays: Sequence[np.ndarray], config: TransformerConfig) -> np.ndarray:
    """Turn a row's targets into the checkpoint's tensor: the inverse of `unpack`."""
    if row.layout == "copy":
        return arrays[0]
    if row.layout == "pairs":
        halves = arrays[0].reshape(-1, 2, config.head_dim // 2, *arrays[0].shape[1:])
        return halves.swapaxes(1, 2).reshape(arrays[0].shape)
    if row.layout == "interleave":
        heads = [a.reshape(config.num_heads, config.head_dim, *a.shape[1:]) for a in arrays]
        return np.stack(heads, axis=1).reshape(-1, *arrays[0].shape[1:])
    joined = np.concatenate(arrays, axis=0) if len(arrays) > 1 else arrays[0]
    return np.ascontiguousarray(joined.T) if "transpose" in row.layout else joined


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested dict to {"a.b.c": leaf}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> Params:
    """Undo `flatten`."""
    tree: Params = {}
    for path, value in flat.items():
        *parents, leaf = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


def match_names(
    family: str, config: TransformerConfig, files: Mapping[str, str]
) -> tuple[list[Row], list[str]]:
    """Find the rows of a checkpoint that holds these tensors.

    files: the file of each tensor, by the tensor's name.

    Returns: the rows with the names as stored, and names of a redundant copy of tied embeddings
    (the caller checks that they are a copy).
    Raises: WeightsError naming file and key for a missing or an unknown tensor.
    """
    candidates = [(prefix, head) for prefix in prefixes(family) for head in head_names(family)]
    prefix, head = max(
        candidates,
        key=lambda c: sum(row.name in files for row in weight_rows(family, config, *c)),
    )
    rows = weight_rows(family, config, prefix, head)
    missing = [row.name for row in rows if row.name not in files]
    where = ", ".join(sorted(set(files.values()))) or "the checkpoint"
    if missing:
        raise WeightsError(
            f"{where}: {len(missing)} of the {len(rows)} tensors that config.json asks for are "
            f"missing, the first is {missing[0]}"
        )
    known = {row.name for row in rows}
    copies = []
    for name in files:
        if name in known:
            continue
        if config.tie_embeddings and name in {f"{h}.weight" for h in head_names(family)}:
            copies.append(name)
        elif not _harmless(family, prefix, name):
            raise WeightsError(
                f"{files[name]}: the tensor {name} has no place in a {family} model as config.json "
                "describes it"
            )
    return rows, copies


def _harmless(family: str, prefix: str, name: str) -> bool:
    if family == "gemma3_text" and IMAGE_PARTS.match(name):
        return True
    return name.startswith(prefix) and BUFFERS.fullmatch(name[len(prefix) :]) is not None
