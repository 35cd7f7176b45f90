"""Figures of accelerators, after their vendors' data sheets.

Only those of v5e, L40S and A100 (40 GB) were compared with their sources; before money depends on
one of the others, look it up, and correct it with --figures.*.

NVIDIA: the data sheets of H100 and H200 (SXM), A100 (SXM4, 80 and 40 GB) and L40S, and the Ada
architecture white paper (RTX 4090). Rates are dense, without sparsity; float32 is that of the plain
cores (TF32, which JAX takes by default on these GPUs, is faster). Links are one direction: half of
NVLink's or PCIe's bidirectional figure. The network is that of DGX H100 and DGX A100 systems (one
400 or 200 Gbit/s adapter a GPU); 100 Gbit/s for the cards without NVLink, which is an assumption.

Google: "System architecture" pages of Cloud TPU v5e, v5p and v6e. They name no float32 rate: by
default JAX multiplies float32 in one bfloat16 pass there. The link is a chip's interconnect in one
direction, over all its ports; a slice is one node as far as it reaches.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

ChipName = Literal[
    "h100", "h200", "a100-80g", "a100-40g", "l40s", "rtx4090", "v5e", "v5p", "v6e"
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Chip:
    """Memory and rates of one device, in bytes, FLOP/s and bytes/s."""

    memory: float
    bfloat16: float
    """FLOP/s of matrix products in bfloat16."""
    float32: float
    """FLOP/s of matrix products in float32."""
    bandwidth: float
    """Of the memory."""
    link: float
    """To the other devices of a node."""
    network: float
    """To other nodes."""
    node: int
    """Devices in a node."""

    def peak(self, dtype: str) -> float:
        """Return the rate of matrix products in a dtype."""
        return self.bfloat16 if dtype == "bfloat16" else self.float32


def _chip(
    memory_gb: float,
    bfloat16_tflops: float,
    float32_tflops: float,
    bandwidth_gb: float,
    link_gb: float,
    network_gb: float,
    node: int,
) -> Chip:
    return Chip(
        memory_gb * 1e9, bfloat16_tflops * 1e12, float32_tflops * 1e12, bandwidth_gb * 1e9,
        link_gb * 1e9, network_gb * 1e9, node,
    )  # fmt: skip


CHIPS: dict[ChipName, Chip] = {
    "h100": _chip(80, 989.4, 66.9, 3350, 450, 50, 8),
    "h200": _chip(141, 989.4, 66.9, 4800, 450, 50, 8),
    "a100-80g": _chip(80, 312, 19.5, 2039, 300, 25, 8),
    "a100-40g": _chip(40, 312, 19.5, 1555, 300, 25, 8),
    "l40s": _chip(48, 362.05, 91.6, 864, 32, 12.5, 8),
    "rtx4090": _chip(24, 165.2, 82.6, 1008, 32, 12.5, 8),
    "v5e": _chip(16, 197, 197, 819, 200, 12.5, 256),
    "v5p": _chip(95, 459, 459, 2765, 600, 12.5, 8960),
    "v6e": _chip(32, 918, 918, 1640, 400, 12.5, 256),
}


@dataclasses.dataclass(frozen=True)
class ChipFigures:
    """Figures to take instead of the chip's own; None: the chip's."""

    memory_gb: float | None = None
    """Memory of a device, in 1e9 bytes."""
    tflops: float | None = None
    """Rate of matrix products in the dtype of the plan, in 1e12 FLOP/s."""
    bandwidth_gb: float | None = None
    """Of the memory, in 1e9 bytes/s."""
    link_gb: float | None = None
    """Between devices of a node, one direction, in 1e9 bytes/s."""
    network_gb: float | None = None
    """Between nodes, for each device and direction, in 1e9 bytes/s."""
    node: int | None = None
    """Devices in a node."""

    def validate(self) -> None:
        """Raise ValueError for figures that are not positive."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{field.name} is {value}; it must be positive and finite")

    def over(self, chip: Chip) -> Chip:
        """Return the chip with these figures in the place of its own."""
        given = {
            "memory": (self.memory_gb, 1e9),
            "bfloat16": (self.tflops, 1e12),
            "float32": (self.tflops, 1e12),
            "bandwidth": (self.bandwidth_gb, 1e9),
            "link": (self.link_gb, 1e9),
            "network": (self.network_gb, 1e9),
        }
        changes = {name: value * unit for name, (value, unit) in given.items() if value is not None}
        if self.node is not None:
            changes["node"] = self.node
        return dataclasses.replace(chip, **changes)  # type: ignore[arg-type]
