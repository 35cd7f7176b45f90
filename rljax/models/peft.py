"""Write and read low-rank adapters as the package `peft` keeps them.

A directory with adapter_config.json and adapter_model.safetensors. `peft` adapts the modules of the
transformers model, where some families fuse query, key and value into one. There one module's
matrices hold the adapters of the parts: those of A one below the other, those of B as blocks on the
diagonal, and the module's rank is the sum of theirs.

r rank, in and out the features of a linear map.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rljax.models.config import TransformerConfig
from rljax.models.loading import parameter_shapes
from rljax.models.safetensors_io import PlannedTensor, read_header, read_tensor, write_file
from rljax.models.weights import (
    Params,
    Row,
    WeightsError,
    flatten,
    pack,
    prefixes,
    unflatten,
    unpack,
    weight_rows,
)

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
ROOT = "base_model.model."
# What changes the function in another way than W x + scale B A x; each must be absent or off.
UNSUPPORTED = (
    "use_dora",
    "lora_bias",
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "alora_invocation_tokens",
)


class Adapters(NamedTuple):
    """Low-rank adapters, as `rljax.models.lora.combine` takes them."""

    weights: Params
    """{..: {"a" [r, in], "b" [out, r]}} float32."""
    scale: float
    """What their product is multiplied by."""


def _modules(family: str, config: TransformerConfig, prefix: str) -> Iterator[tuple[str, Row]]:
    """List the linear modules inside the layers, with rows whose layout is that of B [out, r]."""
    straight = {"transpose": "copy", "stack_transpose": "stack"}
    for row in weight_rows(family, config, prefix):
        if row.targets[0].startswith("layers.") and row.targets[0].endswith(".kernel"):
            layout = straight.get(row.layout, row.layout)
            yield row.name.removesuffix(".weight"), dataclasses.replace(row, layout=layout)


def save_peft(
    directory: str | Path,
    family: str,
    config: TransformerConfig,
    adapters: Adapters,
    *,
    base: str,
) -> Path:
    """Write adapters for `PeftModel.from_pretrained(model, directory)`.

    family: `model_type` of the base model; base: its directory or hub id, noted for the reader.

    Returns: the directory. Raises: FileExistsError where it holds something else, WeightsError
    for adapters that the family has no place for.
    """
    directory = Path(directory).expanduser()
    if directory.exists() and any(directory.iterdir()) and not (directory / CONFIG_FILE).exists():
        raise FileExistsError(f"{directory} is not empty and holds no adapters; give another one")
    flat = {path: np.asarray(leaf) for path, leaf in flatten(adapters.weights).items()}
    modules = dict(_modules(family, config, prefixes(family)[0]))
    places = {_place(target) for row in modules.values() for target in row.targets}
    unknown = sorted(path for path in flat if path[:-2] not in places)
    if unknown or not flat:
        raise WeightsError(f"no place for adapters in a {family} model: {unknown or 'none given'}")
    made = {
        module: matrices
        for module, row in modules.items()
        if (matrices := _join(row, flat, config)) is not None
    }
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{ROOT}{module}.lora_{letter}.weight": np.ascontiguousarray(matrix)
        for module, pair in made.items()
        for letter, matrix in zip("AB", pair, strict=True)
    }
    planned = [
        PlannedTensor(name, matrix.dtype, matrix.shape, functools.partial(np.asarray, matrix))
        for name, matrix in tensors.items()
    ]
    write_file(directory / WEIGHTS_FILE, planned)
    content = _describe(family, modules, {m: a.shape[0] for m, (a, _) in made.items()}, adapters)
    text = json.dumps({"base_model_name_or_path": base, **content}, indent=2)
    (directory / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    return directory


def _place(target: str) -> str:
    return target.removesuffix(".kernel")


def _join(
    row: Row, flat: dict[str, np.ndarray], config: TransformerConfig
) -> tuple[np.ndarray, np.ndarray] | None:
    """Make a module's A [r, in] and B [out, r] of the adapters of its parts; None without any."""
    places = [_place(target) for target in row.targets]
    present = [place for place in places if f"{place}.a" in flat]
    if not present:
        return None
    a = [flat[f"{place}.a"] for place in present]
    b = {place: flat[f"{place}.b"] for place in present}
    if all(np.array_equal(a[0], other) for other in a[1:]):
        joined = a[0]
    else:
        joined, start = np.concatenate(a), 0
        for place in present:
            rank = b[place].shape[1]
            block = np.zeros((b[place].shape[0], len(joined)), b[place].dtype)
            block[:, start : start + rank] = b[place]
            b[place], start = block, start + rank
    shapes = parameter_shapes(config)
    parts = [
        b.get(place, np.zeros((shapes[f"{place}.kernel"][0], len(joined)), joined.dtype))
        for place in places
    ]
    return joined, pack(row, parts, config)


def _describe(
    family: str, modules: dict[str, Row], ranks: dict[str, int], adapters: Adapters
) -> dict[str, Any]:
    """Make the content of adapter_config.json."""
    rank = min(ranks.values())
    names = {module.rpartition(".")[2] for module in ranks}
    everywhere = all(m in ranks for m in modules if m.rpartition(".")[2] in names)
    other = {module: r for module, r in ranks.items() if r != rank}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "r": rank,
        "lora_alpha": adapters.scale * rank,
        "rank_pattern": other,
        "alpha_pattern": {module: adapters.scale * r for module, r in other.items()},
        "target_modules": sorted(names if everywhere else ranks),
        "fan_in_fan_out": family == "gpt2",  # transformers' Conv1D
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
    }


def load_peft(directory: str | Path, family: str, config: TransformerConfig) -> Adapters:
    """Read adapters that `peft` or `save_peft` wrote.

    A fused module's A goes to each of its parts, without rows that the part does not use. Scales
    that differ between modules are folded into b.

    Raises: WeightsError naming file and key for anything that is not plain LoRA on the layers'
    linear maps, and for shapes that do not fit; FileNotFoundError without the files.
    """
    directory = Path(directory).expanduser()
    settings = _read_settings(directory)
    path = directory / WEIGHTS_FILE
    if not path.exists():
        raise FileNotFoundError(f"{directory} holds no {WEIGHTS_FILE}; pickles are not read")
    modules = {m: row for p in prefixes(family) for m, row in _modules(family, config, p)}
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in read_header(path).items():
        match = re.fullmatch(rf"{re.escape(ROOT)}(.+)\.lora_([AB])\.weight", name)
        if match is None or match[1] not in modules:
            raise WeightsError(f"{path}: {name} is no adapter of a linear map in a {family} model")
        found.setdefault(match[1], {})[match[2]] = read_tensor(tensor, np.dtype(np.float32))
    shapes = parameter_shapes(config)
    scale = _module_scale(settings, "")
    flat: dict[str, np.ndarray] = {}
    for module, pair in found.items():
        row = modules[module]
        wanted = [shapes[target] for target in row.targets]
        out, inputs = sum(shape[0] for shape in wanted), wanted[0][1]
        rank = _matching(settings.get("rank_pattern"), module, settings["r"])
        expected = {"A": (rank, inputs), "B": (out, rank)}
        if {letter: matrix.shape for letter, matrix in pair.items()} != expected:
            shown = {letter: matrix.shape for letter, matrix in pair.items()}
            raise WeightsError(f"{path}: {module} has matrices {shown}, expected {expected}")
        factor = np.float32(_module_scale(settings, module) / scale)
        for target, b in zip(row.targets, unpack(row, pair["B"], config), strict=True):
            used = np.any(b, axis=0) if len(row.targets) > 1 else np.ones(rank, bool)
            if np.any(pair["B"]) and not np.any(used):
                continue  # a part that was not adapted
            used = used if np.any(used) else np.ones(rank, bool)
            flat[f"{_place(target)}.a"] = pair["A"][used]
            flat[f"{_place(target)}.b"] = b[:, used] * factor
    if not flat:
        raise WeightsError(f"{path}: holds no adapter")
    return Adapters(unflatten(flat), scale)


def _read_settings(directory: Path) -> dict[str, Any]:
    """Read adapter_config.json, and refuse what is not plain LoRA."""
    path = directory / CONFIG_FILE
    if not path.exists():
        raise FileNotFoundError(f"{directory} holds no {CONFIG_FILE}: no PEFT adapters")
    try:
        settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if settings.get("peft_type") != "LORA" or not isinstance(settings.get("r"), int):
            raise WeightsError(f"{path}: peft_type is not LORA, or r is missing")
    except (ValueError, AttributeError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path}: not a JSON object ({error})") from None
    for key in UNSUPPORTED:
        if settings.get(key):
            raise WeightsError(f"{path}: {key} is not supported, only plain LoRA is")
    if settings.get("bias", "none") != "none":
        raise WeightsError(f"{path}: bias {settings['bias']!r} is not supported, only 'none' is")
    return settings


def _matching(patterns: dict[str, Any] | None, module: str, default: Any) -> Any:
    """Look a module up as peft does: keys are expressions for the end of its path."""
    for key, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return default


def _module_scale(settings: dict[str, Any], module: str) -> float:
    """Compute alpha / r of a module, or alpha / sqrt(r) for rank-stabilised adapters."""
    rank = _matching(settings.get("rank_pattern"), module, settings["r"])
    alpha = _matching(settings.get("alpha_pattern"), module, settings.get("lora_alpha", 8))
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
