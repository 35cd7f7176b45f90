"""Memory that a run needs, from its compiled programs, against what the device has. Bytes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import jax

from rljax.doctor.findings import Findings
from rljax.planning.memory import bytes_held
from rljax.training.compilation import announce

CGROUP = Path("/sys/fs/cgroup/memory.max")
MEMINFO = Path("/proc/meminfo")
REMEDY = (
    "--model.remat layers, a larger gradient-accumulation, a smaller batch-size or score-rows, "
    "--model.dtype bfloat16, --lora.rank 16, or --mesh.fsdp over more devices (experiments/plan.py "
    "says what each saves)"
)


class Needs(NamedTuple):
    """What one program takes of one device."""

    temporary: int
    results: int
    """Results that take no donated argument's place."""

    @property
    def extra(self) -> int:
        """All that comes beside what stays."""
        return self.temporary + self.results


class Room(NamedTuple):
    """Memory of a device that a run may use."""

    size: float
    where: str


def program_needs(program: Any, *arguments: Any, name: str = "a program") -> Needs:
    """Compile a jitted function for arrays or their shapes, and read what it takes.

    Later calls of the same shapes run the same program: nothing is compiled twice.
    """
    with announce(name):
        memory = program.lower(*arguments).compile().memory_analysis()
    return Needs(
        memory.temp_size_in_bytes, memory.output_size_in_bytes - memory.alias_size_in_bytes
    )


def room() -> Room | None:
    """Say how much memory a device has; None where it does not tell.

    Of a CPU: what the machine has free now, at most what the control group may take, in equal parts
    for the devices that it counts as.
    """
    device = jax.local_devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit:
        return Room(float(limit), device.device_kind)
    if device.platform != "cpu" or not MEMINFO.exists():
        return None
    found = re.search(r"MemAvailable:\s+(\d+) kB", MEMINFO.read_text())
    if found is None:
        return None
    sizes = [int(found[1]) * 1024]
    if CGROUP.exists() and CGROUP.read_text().strip().isdigit():
        sizes.append(int(CGROUP.read_text()))
    return Room(min(sizes) / jax.local_device_count(), "free on this machine")


def count(tree: Any) -> int:
    """Count the numbers in a pytree of arrays, or of shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def gigabytes(size: float) -> str:
    """Return bytes in 1e9, with as many digits as they are worth."""
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.2g} MB"


def report_memory(
    findings: Findings, state: Any, programs: dict[str, Needs], available: Room | None
) -> bool:
    """Print what a run holds and what its programs take beside that; say whether it fits.

    state: what stays the whole run through, arrays or shapes. programs: by name; one runs at a
    time.
    """
    held = bytes_held(state)
    largest = max(programs, key=lambda name: programs[name].extra)
    peak = held + programs[largest].extra
    parts = ", ".join(f"{name} {gigabytes(needs.extra)}" for name, needs in programs.items())
    limit = "" if available is None else f", of {gigabytes(available.size)} {available.where}"
    findings.say(
        "memory",
        f"{gigabytes(peak)} of a device at most, in the {largest}{limit}\n"
        f"state {gigabytes(held)}; beside it, by the compiled programs: {parts}",
    )
    if available is None or peak <= available.size:
        return True
    findings.wrong(
        f"the {largest} needs {gigabytes(peak)}, but there are {gigabytes(available.size)} "
        f"{available.where}",
        REMEDY,
    )
    return False
