"""One run in two processes: the numbers of one, and a kill that the other one survives to tell."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rljax.training import processes
from rljax.training.mesh import MeshConfig
from rljax.training.writer import SilentWriter
from tests.parallel.test_scripts import (
    ROOT,
    Flags,
    arguments,
    mesh,
    on_policy,
    run_jobs,
    same_numbers,
)
from tests.parallel.test_scripts import folder as folder


def start_two(flags: Flags, cache: Path) -> list[subprocess.Popen[str]]:
    """Start a GRPO run in two processes with 4 devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": str(ROOT),
        "RLJAX_CACHE_DIR": str(cache),
    }
    together = flags | {
        "mesh.coordinator": f"127.0.0.1:{port}",
        "mesh.num-processes": 2,
        "mesh.process-timeout-s": 15,
    }
    return [
        subprocess.Popen(
            [
                sys.executable,
                ROOT / "experiments" / "grpo.py",
                *arguments(together | {"mesh.process-id": number}),
            ],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]


def wait_for_checkpoint(directory: Path, step: int, running: list[Any]) -> None:
    """Wait until a checkpoint of this step is complete, or fail when a process has ended."""
    for _ in range(3000):
        if (directory / "checkpoints" / f"{step:08d}").exists():
            return
        assert all(process.poll() is None for process in running)
        time.sleep(0.1)
    raise AssertionError("no checkpoint came")


@pytest.mark.slow  # whole runs in processes of their own
def test_two_processes_compute_what_one_does_and_a_kill_ends_both(folder):
    base = on_policy(folder, "grpo") | {"optimizer.schedule": "constant", "eval-prompts": 0}
    run, cache = folder / "two", folder / "cache"
    both = base | mesh(2, 4, 1) | {"workdir": run}

    first = start_two(both | {"steps": 2}, cache)
    shown = [process.communicate(timeout=600)[0] for process in first]
    assert [process.returncode for process in first] == [0, 0], shown[0] + shown[1]
    assert "training 2/2" in shown[0] and "training" not in shown[1]

    second = start_two(both | {"steps": 1000}, cache)
    wait_for_checkpoint(run, 4, second)
    second[1].kill()
    killed = time.monotonic()
    shown = [process.communicate(timeout=120)[0] for process in second]
    assert second[0].returncode != 0 and "another task died" in shown[0]
    assert time.monotonic() - killed < 60
    assert f"resumed {run} at step 2" in shown[0]

    found = (run / "checkpoints").iterdir()
    steps = max(int(path.name) for path in found if path.name.isdecimal()) + 1
    whole = folder / "whole"
    jobs = [("grpo", base | {"steps": steps, "workdir": place}) for place in (run, whole)]
    run_jobs(jobs, 1, cache)
    same_numbers(whole, run, relative=1e-3)


def test_one_process_decides_alone(tmp_path):
    assert processes.count() == 1 and processes.is_first()
    same = object()
    assert processes.first_decides(lambda: same) is same and processes.to_host(same) is same
    assert processes.any_of(True) and not processes.any_of(False)
    with SilentWriter() as silent:
        silent.scalars(1, {"x": 1.0})
        silent.completions(1, [{"prompt": "a"}], name="b")
        assert silent.flush() == {}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "flags, words",
    [
        ({"coordinator": "a:1"}, "go together"),
        ({"process_id": 1, "num_processes": 2}, "go together"),
        (
            {"coordinator": "a:1", "num_processes": 2, "process_id": 2},
            "process_id is 2; it must be at least 0 and below",
        ),
        (
            {"coordinator": "a:1", "num_processes": 2, "process_id": 1, "distributed": True},
            "give one",
        ),
        ({"process_timeout_s": 10}, "there is one process"),
        ({"process_timeout_s": 0, "distributed": True}, "process_timeout_s is 0"),
    ],
)
def test_half_described_processes_are_refused(flags, words):
    with pytest.raises(ValueError, match=words):
        MeshConfig(**flags).validate()
