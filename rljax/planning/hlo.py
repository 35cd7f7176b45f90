"""Count what a compiled program does: matrix products, and bytes between devices.

XLA's own cost analysis counts the body of a loop once. Here the text of the optimised program is
read: every computation's matrix products and collectives, times the trips of the loops around it.
"""

from __future__ import annotations

import collections
import functools
import itertools
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

ITEM_BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4,
    "f32": 4, "s64": 8, "u64": 8, "f64": 8,
}  # fmt: skip

_HEAD = re.compile(r"^(ENTRY )?%(?P<name>\S+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%(?P<name>\S+) = (?P<rest>.*)$")
_OPCODE = re.compile(r"(?:^|[\])}] )(?P<op>[a-z][a-z0-9-]*)\((?P<arguments>[^)]*)\)(?P<tail>.*)$")
_SHAPE = re.compile(r"\b([a-z]+[0-9]*)\[([0-9,]*)\]")
_CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|branch_computations)=\{?([^,{}]+(?:, %[^,{}]+)*)"
)
_COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


class Work(NamedTuple):
    """What one device does in one call of a program."""

    flops: float
    """Of matrix products: two per multiply-add."""
    traffic: dict[str, float]
    """Bytes that the device sends, by the mesh axes that the other devices lie along ("fsdp",
    "data+fsdp")."""


class _Instruction(NamedTuple):
    name: str
    result: str
    op: str
    arguments: str
    tail: str


def _parse(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    """Split a program into its computations, and name the one that it enters."""
    computations: dict[str, list[_Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head:
            current = computations.setdefault(head["name"], [])
            entry = head["name"] if head[1] else entry
            continue
        found = _INSTRUCTION.match(line)
        if found is None or current is None:
            continue
        operation = _OPCODE.search(found["rest"])
        if operation is not None:
            result = found["rest"][: operation.start("op")]
            current.append(_Instruction(found["name"], result, *operation.groups()))
    return computations, entry


def _shapes(text: str) -> list[tuple[str, tuple[int, ...]]]:
    return [
        (kind, tuple(int(size) for size in sizes.split(",") if size))
        for kind, sizes in _SHAPE.findall(text)
        if kind in ITEM_BYTES
    ]


def _dims(tail: str, name: str) -> list[int]:
    found = re.search(rf"{name}=\{{([0-9,]*)\}}", tail)
    return [int(dim) for dim in found[1].split(",") if dim] if found else []


def _dot_flops(instruction: _Instruction, types: Mapping[str, str]) -> float:
    (_, result), *_ = _shapes(instruction.result)
    left = instruction.arguments.split(",")[0].strip().lstrip("%").split("%")[-1]
    (_, shape), *_ = _shapes(types[left])
    contracted = (shape[dim] for dim in _dims(instruction.tail, "lhs_contracting_dims"))
    return 2.0 * math.prod(result) * math.prod(contracted)


def replica_groups(tail: str, devices: int) -> list[list[int]]:
    """Read which devices exchange something with each other, in any of XLA's notations.

    Raises ValueError for a notation that is not known.
    """
    listed = re.search(r"(?:replica_groups|source_target_pairs)=\{(\{[0-9,{} ]*\})\}", tail)
    if listed:
        groups = re.findall(r"\{([0-9, ]+)\}", listed[1])
        return [[int(device) for device in group.split(",")] for group in groups]
    tiled = re.search(r"replica_groups=\[([0-9,]+)\]<=\[([0-9,]+)\](?:T\(([0-9,]+)\))?", tail)
    if tiled:
        shape, source = ([int(x) for x in tiled[i].split(",")] for i in (1, 2))
        ids = np.arange(math.prod(source)).reshape(source)
        if tiled[3]:
            ids = ids.transpose([int(x) for x in tiled[3].split(",")])
        return ids.reshape(shape[0], -1).tolist()
    meshed = re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\S+)? \{([^}]*)\}", tail)
    if meshed and ":(" not in meshed[2]:
        sizes = dict(re.findall(r"'([^']+)'=([0-9]+)", meshed[1]))
        named = re.findall(r"'([^']+)'", meshed[2])
        ids = np.arange(devices).reshape([int(size) for size in sizes.values()])
        order = [i for i, name in enumerate(sizes) if name not in named]
        order += [i for i, name in enumerate(sizes) if name in named]
        width = math.prod(int(sizes[name]) for name in named)
        return ids.transpose(order).reshape(-1, width).tolist()
    if re.search(r"replica_groups=\{\}", tail):
        return [list(range(devices))]
    raise ValueError(f"replica groups of an unknown form: {tail[:200]}")


def axes_of(groups: list[list[int]], mesh: Mapping[str, int]) -> str:
    """Name the mesh axes along which the devices of a group differ, joined by "+"; "": none."""
    sizes = tuple(mesh.values())
    differ = np.zeros(len(sizes), bool)
    for group in groups:  # a permutation may leave some devices where they are
        places = np.array([np.unravel_index(device, sizes) for device in group])
        differ |= (places != places[0]).any(axis=0)
    return "+".join(itertools.compress(mesh, differ))


def _sent(instruction: _Instruction, size: int) -> float:
    """Bytes that one device sends in a collective of a ring of `size` devices."""
    total = float(
        sum(math.prod(shape) * ITEM_BYTES[kind] for kind, shape in _shapes(instruction.result))
    )
    op = instruction.op.removesuffix("-start")
    if op == "reduce-scatter":
        return total * (size - 1)
    if op == "collective-permute":
        return total
    return total * (size - 1) / size * (2 if op == "all-reduce" else 1)


def count_work(text: str, mesh: Mapping[str, int], *, open_trips: int = 1) -> Work:
    """Count the work of one device in one call.

    text: the optimised program, `compiled.as_text()`. mesh: axis -> size, in the order in which the
    devices are numbered. open_trips: of loops whose trips the compiler does not know.
    """
    computations, entry = _parse(text)
    devices = math.prod(mesh.values())

    @functools.cache
    def count(name: str) -> dict[str, float]:
        total: dict[str, float] = collections.defaultdict(float)
        types = {i.name: i.result for i in computations[name]}
        for instruction in computations[name]:
            op, tail = instruction.op, instruction.tail
            if op == "dot":
                total["flops"] += _dot_flops(instruction, types)
            if op.removesuffix("-start") in _COLLECTIVES:
                groups = replica_groups(tail, devices)
                axes = axes_of(groups, mesh)
                if axes:
                    total[axes] += _sent(instruction, len(groups[0]))
                continue
            trips = 1
            if op == "while":
                known = re.search(r'known_trip_count":\{"n":"([0-9]+)"', tail)
                trips = int(known[1]) if known else open_trips
            for _, called in _CALLED.findall(tail):
                for child in called.split(","):
                    for what, amount in count(child.strip().lstrip("%")).items():
                        total[what] += amount * trips
        return total

    found = dict(count(entry))
    return Work(found.pop("flops", 0.0), found)
