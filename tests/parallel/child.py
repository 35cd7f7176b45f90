"""Runs experiment scripts one after the other in a process that has several devices.

Reads a JSON list of [script, arguments] from stdin. Beside what the scripts write, every run
directory gets shares.json: of each saved state's parameters and optimizer, the bytes that the
fullest device holds, and those of one whole copy.
"""

from __future__ import annotations

import collections
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import jax

import rljax
from rljax.training.checkpoint import Checkpoints

ROOT = Path(rljax.__file__).parents[1]


def count_bytes(tree: Any) -> dict[str, int]:
    """Count the bytes of a pytree of arrays on the fullest device, and of one copy of it."""
    held: dict[int, int] = collections.Counter()
    whole = 0
    for leaf in jax.tree.leaves(tree):
        whole += leaf.nbytes
        for shard in leaf.addressable_shards:
            held[shard.device.id] += shard.data.nbytes
    return {"fullest": max(held.values()), "whole": whole, "devices": len(held)}


def load(name: str) -> Any:
    path = ROOT / "experiments" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"experiment_{name}", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    save = Checkpoints.save

    def recorded(self: Checkpoints, step: int, state: Any, *rest: Any, **more: Any) -> None:
        shares = {name: count_bytes(getattr(state, name)) for name in ("params", "opt_state")}
        (self.directory.parent / "shares.json").write_text(json.dumps(shares))
        save(self, step, state, *rest, **more)

    Checkpoints.save = recorded  # type: ignore[method-assign]
    for name, arguments in json.load(sys.stdin):
        load(name).main(arguments)


if __name__ == "__main__":
    main()
