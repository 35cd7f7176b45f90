"""Read and write safetensors files, one tensor in memory at a time.

The format is a length, a JSON table of names, dtypes, shapes and offsets, and the raw bytes.
Tensors are read by offset in pieces, straight into an array of the wanted dtype: the file is never
mapped nor held whole, so the peak is the loaded parameters plus one piece.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from rljax.errors import UserError

FLOAT_DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
NAMES = {dtype: name for name, dtype in FLOAT_DTYPES.items()}
PIECE_BYTES = 8 << 20
ALIGNMENT = 64  # what XLA's CPU backend needs to use a numpy buffer without a copy
INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"


class FileError(UserError, ValueError):
    """A weight file that cannot be read as what it claims to be."""


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Allocate an uninitialised array whose first byte is at a multiple of ALIGNMENT."""
    size = math.prod(shape) * dtype.itemsize
    buffer = np.empty(size + ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT
    return buffer[start : start + size].view(dtype).reshape(shape)


def read_header(path: Path) -> dict[str, StoredTensor]:
    """List the tensors of a file.

    Raises: FileError where the file is cut short or is no safetensors file.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= size - 8:
            raise FileError(f"{path}: not a safetensors file, or cut short ({size} bytes)")
        try:
            table = json.loads(file.read(length))
        except ValueError as error:
            raise FileError(f"{path}: the header is not JSON ({error})") from error
    table.pop("__metadata__", None)
    tensors = {}
    for name, entry in table.items():
        begin, end = entry["data_offsets"]
        if 8 + length + end > size:
            raise FileError(f"{path}: {name} ends beyond the file's {size} bytes: cut short")
        shape = tuple(entry["shape"])
        known = FLOAT_DTYPES.get(entry["dtype"])
        if known is not None and end - begin != math.prod(shape) * known.itemsize:
            raise FileError(f"{path}: {name} has {end - begin} bytes, not those of {shape}")
        tensors[name] = StoredTensor(path, name, entry["dtype"], shape, 8 + length + begin)
    return tensors


def find_tensors(directory: Path) -> dict[str, StoredTensor]:
    """List the tensors of a model directory: one file, or the shards of an index.

    Raises: FileNotFoundError without weights, with the remedy when there are only pickles;
    FileError for a shard that lacks what the index promises.
    """
    index = directory / INDEX_NAME
    if not index.exists():
        single = directory / SINGLE_NAME
        if single.exists():
            return read_header(single)
        raise FileNotFoundError(_no_weights(directory))
    try:
        promised: dict[str, str] = json.loads(index.read_text())["weight_map"]
    except (ValueError, KeyError) as error:
        raise FileError(f"{index}: no weight_map can be read ({error!r})") from error
    tensors: dict[str, StoredTensor] = {}
    for shard in sorted(set(promised.values())):
        path = directory / shard
        if path.parent != directory or not path.exists():
            raise FileNotFoundError(f"{path} is missing; {index.name} names it")
        for name, tensor in read_header(path).items():
            if promised.get(name) != shard:
                raise FileError(f"{path}: holds {name}, which {index.name} does not place there")
            tensors[name] = tensor
    for name, shard in promised.items():
        if name not in tensors:
            raise FileError(f"{directory / shard}: {name} is missing; {index.name} promises it")
    return tensors


def _no_weights(directory: Path) -> str:
    pickles = sorted(
        path.name for suffix in ("*.bin", "*.pt", "*.pth") for path in directory.glob(suffix)
    )
    if not pickles:
        return f"{directory} holds neither {SINGLE_NAME} nor {INDEX_NAME}"
    return (
        f"{directory / pickles[0]} is a pickle, which can run any code: rljax unpickles nothing. "
        "Convert it where you trust it, with torch installed: "
        f"AutoModelForCausalLM.from_pretrained({str(directory)!r}).save_pretrained(NEW_DIRECTORY)"
    )


def read_tensor(tensor: StoredTensor, dtype: np.dtype) -> np.ndarray:
    """Read one tensor as `dtype`, converting piece by piece; the result is aligned.

    Raises: FileError for a tensor that is not of floats, or a file cut short.
    """
    if tensor.dtype not in FLOAT_DTYPES:
        raise FileError(
            f"{tensor.path}: {tensor.name} is {tensor.dtype}; read are {', '.join(FLOAT_DTYPES)}"
        )
    stored = FLOAT_DTYPES[tensor.dtype]
    result = aligned_empty(tensor.shape, dtype)
    flat = result.reshape(-1)
    step = PIECE_BYTES // stored.itemsize
    with open(tensor.path, "rb", buffering=0) as file:
        file.seek(tensor.offset)
        for start in range(0, flat.size, step):
            piece = flat[start : start + step]
            raw = piece if dtype == stored else np.empty(piece.size, stored)
            _read_exactly(file, raw, tensor)
            if raw is not piece:
                piece[:] = raw
    return result


def _read_exactly(file: Any, into: np.ndarray, tensor: StoredTensor) -> None:
    view = memoryview(into.view(np.uint8).data)
    while view:
        count = file.readinto(view)
        if not count:
            raise FileError(f"{tensor.path}: the file ends inside {tensor.name}")
        view = view[count:]


@dataclasses.dataclass(frozen=True)
class PlannedTensor:
    """A tensor to be written: its description, and a function that makes its content."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    content: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def write_file(path: Path, tensors: Iterable[PlannedTensor]) -> None:
    """Write one safetensors file; contents are made one after the other, as they are written."""
    tensors = list(tensors)
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        table[tensor.name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    header = json.dumps(table, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for tensor in tensors:
            content = tensor.content()
            if content.shape != tensor.shape or content.dtype != tensor.dtype:
                raise ValueError(
                    f"{tensor.name} is {content.dtype} {content.shape}, planned as "
                    f"{tensor.dtype} {tensor.shape}"
                )
            file.write(np.ascontiguousarray(content).reshape(-1).view(np.uint8).data)


def _shards(tensors: Iterable[PlannedTensor], limit: int) -> Iterator[list[PlannedTensor]]:
    shard: list[PlannedTensor] = []
    for tensor in tensors:
        if shard and sum(t.nbytes for t in shard) + tensor.nbytes > limit:
            yield shard
            shard = []
        shard.append(tensor)
    yield shard


def write_tensors(directory: Path, tensors: Iterable[PlannedTensor], shard_bytes: int) -> None:
    """Write a model's weights as one file, or as shards of at most `shard_bytes` with an index."""
    shards = list(_shards(tensors, shard_bytes))
    if len(shards) == 1:
        write_file(directory / SINGLE_NAME, shards[0])
        return
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_file(directory / name, shard)
        weight_map.update({tensor.name: name for tensor in shard})
    total = sum(tensor.nbytes for shard in shards for tensor in shard)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n")
