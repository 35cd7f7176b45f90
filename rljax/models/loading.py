"""Stored tensors -> parameters: names and shapes checked, each tensor read once, into its dtype."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from rljax.models.config import TransformerConfig
from rljax.models.gguf_file import GGUFFile, read_gguf_tensor
from rljax.models.gguf_model import check_gguf_names, gguf_rows
from rljax.models.safetensors_io import (
    PlannedTensor,
    StoredTensor,
    find_tensors,
    read_tensor,
)
from rljax.models.transformer import make_model
from rljax.models.weights import (
    Params,
    Row,
    WeightsError,
    flatten,
    match_names,
    pack,
    source_shape,
    unflatten,
    unpack,
    weight_rows,
)


class _Stored(Protocol):
    @property
    def path(self) -> Path: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


def parameter_shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """Give the shape of every parameter, by its path joined with dots."""
    # All layers have the same shapes: tracing one takes a thirtieth of the time of thirty.
    single = dataclasses.replace(config, num_layers=1, layer_windows=None)
    traced = flatten(jax.eval_shape(make_model(single).init, jax.random.key(0)))
    shapes: dict[str, tuple[int, ...]] = {}
    for path, leaf in traced.items():
        layer = path.removeprefix("layers.0.")
        paths = (
            [path] if layer == path else [f"layers.{i}.{layer}" for i in range(config.num_layers)]
        )
        shapes |= dict.fromkeys(paths, leaf.shape)
    return shapes


def own(tensor: np.ndarray) -> jax.Array:
    """Put a tensor on the device, in memory that is JAX's own.

    Aligned numpy memory becomes a CPU array as it is, which cannot be donated: the first update
    would copy all that it changes, and hold a whole model more.
    """
    array = jax.device_put(tensor, may_alias=True)
    return jnp.copy(array) if array.device.platform == "cpu" else array


def _assemble(
    rows: list[Row],
    tensors: Mapping[str, _Stored],
    read: Callable[[Any], np.ndarray],
    config: TransformerConfig,
) -> Params:
    """Read every row's tensor and put its parts where they belong."""
    shapes = parameter_shapes(config)
    for row in rows:
        expected = source_shape(row, [shapes[target] for target in row.targets])
        stored = tensors[row.name]
        if stored.shape != expected:
            raise WeightsError(
                f"{stored.path}: {row.name} has the shape {stored.shape}; the configuration asks "
                f"for {expected}"
            )
    flat: dict[str, Any] = {}
    for row in rows:
        parts = unpack(row, read(tensors[row.name]), config)
        for target, part in zip(row.targets, parts, strict=True):
            flat[target] = own(part)
    absent = set(shapes) - set(flat)
    if absent:
        raise AssertionError(f"the weight table misses {sorted(absent)[:3]}")
    return unflatten(flat)


def load_directory(
    directory: Path, family: str, config: TransformerConfig, dtype: np.dtype
) -> Params:
    """Read the parameters of a Hugging Face directory.

    Raises: WeightsError, FileError, FileNotFoundError; each names the file and the key.
    """
    tensors = find_tensors(directory)
    rows, copies = match_names(family, config, {k: str(t.path) for k, t in tensors.items()})
    embedding = next(row.name for row in rows if row.targets == ("embed.embedding",))
    for name in copies:
        _check_copy(tensors[name], tensors[embedding])
    return _assemble(rows, tensors, functools.partial(read_tensor, dtype=dtype), config)


def _check_copy(copy: StoredTensor, original: StoredTensor) -> None:
    """Raise unless two stored tensors hold the same bytes."""
    same = (copy.dtype, copy.shape) == (original.dtype, original.shape)
    kind = np.dtype(np.float32)
    if not same or not np.array_equal(read_tensor(copy, kind), read_tensor(original, kind)):
        raise WeightsError(
            f"{copy.path}: {copy.name} differs from {original.name}, but config.json says "
            "tie_word_embeddings; set it to false to use both"
        )


def load_gguf(file: GGUFFile, family: str, config: TransformerConfig, dtype: np.dtype) -> Params:
    """Read and dequantise the parameters of a GGUF file.

    Raises: WeightsError, FileError; each names the file and the key.
    """
    rows = gguf_rows(family, config)
    check_gguf_names(file, rows)
    read = functools.partial(read_gguf_tensor, dtype=dtype)
    return _assemble(rows, file.tensors, read, config)


def plan_weights(family: str, config: TransformerConfig, params: Params) -> list[PlannedTensor]:
    """List the tensors of a Hugging Face checkpoint; each is made from `params` when written.

    Raises: WeightsError where `params` and the family's table do not hold the same names.
    """
    flat = flatten(params)
    rows = weight_rows(family, config)
    targets = {target for row in rows for target in row.targets}
    if targets != set(flat):
        differing = sorted(targets ^ set(flat))
        raise WeightsError(f"parameters do not fit a {family} model: {differing[0]}")

    def content(row: Row) -> np.ndarray:
        return pack(row, [np.asarray(flat[target]) for target in row.targets], config)

    return [
        PlannedTensor(
            row.name,
            np.dtype(flat[row.targets[0]].dtype),
            source_shape(row, [flat[target].shape for target in row.targets]),
            functools.partial(content, row),
        )
        for row in rows
    ]
