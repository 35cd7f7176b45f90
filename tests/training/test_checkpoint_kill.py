"""A process that is killed at a random moment of saving leaves a sound newest checkpoint."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import rljax
from rljax.training.checkpoint import Checkpoints

SIZE = 2_500_000
ROUNDS = 14


def read_until(lines, word: str, log: list[str]) -> str:
    for line in lines:
        log.append(line.strip())
        if line.startswith(word):
            return line.split()[1] if " " in line else ""
    raise AssertionError(f"the child ended before {word!r}: {log[-5:]}")


@pytest.mark.slow
def test_kill_at_any_moment_of_a_save(tmp_path):
    rng = random.Random(0)
    done = 0
    like = {"a": np.zeros(SIZE, np.float32), "b": np.zeros(SIZE, np.float32)}
    script = Path(__file__).with_name("kill_child.py")
    half_written = 0
    environment = os.environ | {"PYTHONPATH": str(Path(rljax.__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        for _ in range(ROUNDS):
            log: list[str] = []
            process.stdin.write(f"{tmp_path}\n")
            process.stdin.flush()
            child = int(read_until(process.stdout, "child", log))
            if not any(line.startswith("resumed") for line in log):
                read_until(process.stdout, "resumed", log)
            assert f"resumed {done}" in log
            time.sleep(rng.uniform(0.02, 0.5))
            os.kill(child, signal.SIGKILL)
            read_until(process.stdout, "ended", log)
            half_written += any(tmp_path.glob("saving-*"))
            finished = [int(line.split()[1]) for line in log if line.startswith("done")]
            with Checkpoints(tmp_path) as checkpoints:
                restored = checkpoints.restore(like=like)
                assert not list(tmp_path.glob("damaged-*"))
            if restored is None:
                assert not finished
                continue
            step, state, host = restored
            assert step >= max(finished, default=done) and host == {"step": step}
            assert np.all(state["a"] == step) and np.all(state["b"] == -step)
            done = step
        process.stdin.close()
    assert done >= 3, "too few saves were finished for the test to mean something"
    assert half_written >= ROUNDS // 3, "too few kills fell into a save"
