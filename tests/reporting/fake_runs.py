"""Run directories as a script leaves them, without training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rljax.training.writer import MetricsWriter


def write_run(
    directory: Path,
    *,
    seed: int | None = 0,
    config: Mapping[str, Any] | None = None,
    rows: Mapping[int, Mapping[str, float]] | None = None,
    completions: Sequence[tuple[int, Sequence[Mapping[str, Any]]]] = (),
    result: Mapping[str, Any] | None = None,
) -> Path:
    """Write a run of the given rows; without any, scores that rise over 4 steps."""
    rows = rows or {
        step: {"objective/scores": step / 4 + (seed or 0), "health/gap": 0.1, "time/update_s": 1.0}
        for step in (1, 2, 3, 4)
    }
    with MetricsWriter(directory) as writer:
        for step, values in rows.items():
            writer.scalars(step, values)
        for step, texts in completions:
            writer.completions(step, texts)
    if seed is not None:
        content = {"seed": seed, "workdir": str(directory), **(config or {})}
        (directory / "config.json").write_text(json.dumps(content))
    if result is not None:
        (directory / "result.json").write_text(json.dumps(result))
    return directory
