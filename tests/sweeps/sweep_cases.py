"""Small sweeps that tests run: one of a program that measures, one that trains."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import rljax
from rljax.sweeps.cells import SweepRuns, Task
from rljax.sweeps.spec import load_sweep

ROOT = Path(rljax.__file__).parents[1]
SCRIPT = ROOT / "experiments" / "sweep.py"

MEASURING = '''
"""What a coin is worth: nothing is trained."""

from dataclasses import dataclass

from rljax.sweeps.spec import Claim, Sweep, last, maximum
from rljax.training.writer import MetricsWriter


@dataclass(frozen=True)
class Coin:
    bias: float = 0.5
    fails: bool = False
    seed: int = 0


def toss(config, run_dir):
    if config.fails:
        raise RuntimeError("the coin is lost")
    with MetricsWriter(run_dir) as writer:
        for step in range(1, 4):
            writer.scalars(step, {"heads": config.bias * step + config.seed, "time/step_s": 0.1})
        writer.completions(3, [{"prompt": "toss", "completion": f"bias {config.bias}"}])


cpu = Sweep(
    name="coins",
    base=Coin(),
    arms={"fair": {}, "loaded": {"bias": 0.75}},
    seeds=(0, 1, 2),
    metrics={"heads": last("heads"), "most": maximum("heads")},
    claims=(
        Claim("a loaded coin shows more heads", "heads", "loaded", ">", "fair"),
        Claim("a fair one does not", "heads", "fair", ">", "loaded"),
    ),
    program=toss,
)
'''

TRAINING = """
from dataclasses import replace

from configs.grpo_sorting import variants
from rljax.sweeps.spec import Claim, Sweep, grid, last

task = variants["smoke"].task
base = replace(variants["smoke"], steps=6, checkpoint_every=2, eval_every=3)
cpu = Sweep(
    name="letters",
    base=base,
    arms=grid(**{"grpo.kl.coef": [0.0, 0.1]}),
    seeds=(0, 1),
    metrics={"KL": last("objective/kl"), "score": last("eval/scores")},
    claims=(Claim("a penalty lowers the KL", "KL", "coef=0.1", "<", "coef=0"),),
)
"""


def sweep_file(folder: Path, text: str = MEASURING, name: str = "coins") -> Path:
    """Write a sweep file."""
    file = folder / f"{name}.py"
    file.write_text(text)
    return file


def open_sweep(file: Path, directory: Path) -> SweepRuns:
    """Load a sweep for a directory."""
    return SweepRuns(load_sweep(str(file)), directory)


def no_script(task: Task, config_file: Path) -> None:
    """Stand for the scripts where nothing is trained."""
    raise AssertionError(f"{task.name} has a program of its own")


def start(file: Path, directory: Path, *flags: str) -> subprocess.Popen[str]:
    """Start the sweep script in a process and a group of its own."""
    command = [sys.executable, str(SCRIPT), "--config", str(file), "--workdir", str(directory)]
    return subprocess.Popen(
        [*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def kill_when(process: subprocess.Popen[str], condition, timeout_s: float = 300) -> None:
    """Kill a sweep with SIGKILL as soon as a condition holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, "the condition never came"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
