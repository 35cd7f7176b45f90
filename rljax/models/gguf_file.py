"""Read GGUF files: metadata, and tensors dequantised piece by piece.

The container is parsed here (the `gguf` package's reader takes 10 s for a small model's vocabulary,
this one a fraction of a second); what the quantised blocks mean is the `gguf` package's business.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

from rljax.models.safetensors_io import FileError, aligned_empty

TENSOR_TYPES = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
SCALARS = dict(enumerate(("<B", "<b", "<H", "<h", "<I", "<i", "<f", "<?")))
SCALARS |= {10: "<Q", 11: "<q", 12: "<d"}
STRING, ARRAY = 8, 9
PIECE_VALUES = 1 << 18  # small enough that the temporaries of a piece stay in cache


@dataclasses.dataclass(frozen=True)
class GGUFTensor:
    """Where one tensor lies; `shape` is numpy's order (GGUF counts from the fastest axis)."""

    path: Path
    name: str
    type_name: str
    shape: tuple[int, ...]
    offset: int
    block_size: int
    block_bytes: int


@dataclasses.dataclass(frozen=True)
class GGUFFile:
    """The metadata and tensors of a file."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GGUFTensor]

    def get(self, key: str) -> Any:
        """Read a metadata value.

        Raises: FileError naming the file and the key where it is missing.
        """
        if key not in self.metadata:
            raise FileError(f"{self.path}: the metadata lacks {key}")
        return self.metadata[key]


class _Cursor:
    """Reads values one after the other from a file's bytes."""

    def __init__(self, path: Path, data: Any) -> None:
        self.path, self.data, self.at = path, memoryview(data), 0

    def take(self, count: int) -> memoryview:
        if self.at + count > len(self.data):
            raise FileError(f"{self.path}: the file ends inside its metadata: cut short")
        self.at += count
        return self.data[self.at - count : self.at]

    def scalar(self, code: str) -> Any:
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def string(self) -> str:
        return bytes(self.take(self.scalar("<Q"))).decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        if kind in SCALARS:
            return self.scalar(SCALARS[kind])
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            raise FileError(f"{self.path}: unknown metadata type {kind}")
        kind, count = self.scalar("<I"), self.scalar("<Q")
        if kind in SCALARS:
            dtype = np.dtype(SCALARS[kind])
            return np.frombuffer(self.take(count * dtype.itemsize), dtype).tolist()
        return [self.value(kind) for _ in range(count)]


def read_gguf(path: Path) -> GGUFFile:
    """Parse the metadata and the table of tensors.

    Raises: FileError for what is no GGUF file, another version, or a tensor type not in
    TENSOR_TYPES (named with the tensor).
    """
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    cursor = _Cursor(path, np.memmap(path, np.uint8, "r"))
    if bytes(cursor.take(4)) != b"GGUF":
        raise FileError(f"{path}: not a GGUF file")
    version = cursor.scalar("<I")
    if version not in (2, 3):
        raise FileError(f"{path}: GGUF version {version}; read are 2 and 3, little-endian")
    tensor_count, value_count = cursor.scalar("<Q"), cursor.scalar("<Q")
    metadata: dict[str, Any] = {}
    for _ in range(value_count):
        key = cursor.string()
        metadata[key] = cursor.value(cursor.scalar("<I"))
    entries = []
    for _ in range(tensor_count):
        name = cursor.string()
        shape = tuple(cursor.scalar("<Q") for _ in range(cursor.scalar("<I")))[::-1]
        entries.append((name, shape, cursor.scalar("<I"), cursor.scalar("<Q")))
    alignment = metadata.get("general.alignment", 32)
    base = -(-cursor.at // alignment) * alignment
    tensors = {}
    for name, shape, kind, offset in entries:
        known = {item.value: item.name for item in GGMLQuantizationType}
        type_name = known.get(kind, f"number {kind}")
        if type_name not in TENSOR_TYPES:
            raise FileError(
                f"{path}: {name} is of type {type_name}; read are {', '.join(TENSOR_TYPES)}"
            )
        block_size, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        tensor = GGUFTensor(path, name, type_name, shape, base + offset, block_size, block_bytes)
        if tensor.offset + _nbytes(tensor) > len(cursor.data):
            raise FileError(f"{path}: {name} ends beyond the end of the file: cut short")
        tensors[name] = tensor
    return GGUFFile(path, metadata, tensors)


def _nbytes(tensor: GGUFTensor) -> int:
    return math.prod(tensor.shape) // tensor.block_size * tensor.block_bytes


def read_gguf_tensor(tensor: GGUFTensor, dtype: np.dtype) -> np.ndarray:
    """Dequantise one tensor into an aligned array of `dtype`, a few rows at a time."""
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize

    result = aligned_empty(tensor.shape, dtype)
    flat = result.reshape(-1)
    kind = GGMLQuantizationType[tensor.type_name]
    blocks = math.prod(tensor.shape) // tensor.block_size
    step = PIECE_VALUES // tensor.block_size
    with open(tensor.path, "rb") as file:
        file.seek(tensor.offset)
        for start in range(0, blocks, step):
            count = min(step, blocks - start)
            raw = np.frombuffer(file.read(count * tensor.block_bytes), np.uint8)
            if raw.size != count * tensor.block_bytes:
                raise FileError(f"{tensor.path}: the file ends inside {tensor.name}")
            if tensor.type_name in ("F32", "F16"):
                values = raw.view({"F32": "<f4", "F16": "<f2"}[tensor.type_name])
            else:
                values = dequantize(raw[None], kind)[0]
            begin = start * tensor.block_size
            flat[begin : begin + values.size] = values
    return result
