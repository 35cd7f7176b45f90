"""A run that is killed, and killed again, ends with the numbers of one that was not."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import rljax
from rljax.training.writer import read_jsonl
from tests.conftest import numbers

ROOT = Path(rljax.__file__).parents[1]
REWARD = """
import time

def score(prompts, completions):
    time.sleep(0.25)  # leaves time to be killed in
    return [sum(map(ord, text)) % 97 / 48 - 1 for text in completions]
"""
# Everything that is state: an adaptive controller, running moments of scores, a moving reference.
FLAGS = {
    "config": f"{ROOT}/configs/ppo_sentiment.py:smoke",
    "steps": "9",
    "checkpoint-every": "2",
    "eval-prompts": "4",
    "eval-every": "3",
    "task.prompt-tokens": "8",
    "task.min-prompt-tokens": "4",
    "task.held-out-fraction": "0.3",
    "sampling.max-new-tokens": "12",
    "ppo.num-epochs": "2",
    "ppo.kl.controller": "openai",
    "ppo.kl.horizon": "50",
    "ppo.scale-scores": "mean_std",
    "ppo.ref-sync-every": "4",
}
AHEAD = {"overlap": "", "ppo.importance-cap": "2"}


class Trial:
    """Starts of one training command in one run directory."""

    def __init__(self, folder: Path, name: str, more: dict[str, str]) -> None:
        self.directory = folder / name
        flags = (
            FLAGS
            | more
            | {
                "workdir": str(self.directory),
                "task.prompts": str(folder / "prompts.jsonl"),
                "task.reward": f"{folder}/reward.py:score",
            }
        )
        self.command = [sys.executable, str(ROOT / "experiments" / "ppo.py")]
        for flag, value in flags.items():
            self.command += [f"--{flag}", value] if value else [f"--{flag}"]
        self.environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "RLJAX_CACHE_DIR": str(folder / "cache"),
        }

    def start(self) -> subprocess.Popen:
        return subprocess.Popen(
            self.command,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self) -> str:
        process = self.start()
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        return output

    def stop_when(self, reached: Callable[[], bool], number: int) -> tuple[int, str]:
        """Send a signal as soon as something is reached; return the exit code and the output."""
        process = self.start()
        deadline = time.monotonic() + 200
        while not reached():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def last_step(self) -> int:
        path = self.directory / "metrics.jsonl"
        return (
            max((record["step"] for record in read_jsonl(path)), default=0) if path.exists() else 0
        )

    def saving(self, step: int) -> bool:
        """Whether the checkpoint of a step, or a later one, is being written at this moment."""
        folders = self.directory.glob("checkpoints/saving-*")
        return any(int(folder.name.removeprefix("saving-")) >= step for folder in folders)

    def numbers(self) -> list[dict]:
        return numbers(self.directory)


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, AHEAD], ids=["plain", "overlap"])
def test_killed_runs_go_on_bit_for_bit(tmp_path, more):
    prompts = [{"prompt": f"{i:02d} is a prompt"} for i in range(60)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    (tmp_path / "reward.py").write_text(REWARD)
    whole = Trial(tmp_path, "whole", more)
    whole.finish()

    broken = Trial(tmp_path, "broken", more)
    code, _ = broken.stop_when(lambda: broken.saving(4), signal.SIGKILL)  # in the middle of a save
    assert code == -signal.SIGKILL
    code, output = broken.stop_when(lambda: broken.last_step() >= 5, signal.SIGTERM)
    assert code == 0 and "SIGTERM: stopping after this step" in output
    assert "resumed" in broken.finish()

    expected, found = whole.numbers(), broken.numbers()
    assert [record["step"] for record in found] == [record["step"] for record in expected]
    for one, other in zip(expected, found, strict=True):
        assert one == other
    completions = [trial.directory / "completions.jsonl" for trial in (whole, broken)]
    assert completions[0].read_bytes() == completions[1].read_bytes()
    assert len({record["objective/kl_coef"] for record in found if "policy/loss" in record}) > 5
    assert len({record["objective/scores"] for record in found if "policy/loss" in record}) > 5
