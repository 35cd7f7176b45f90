"""Alarms of real runs: tiny ones that go wrong on purpose, fused, resumed, and one that is well."""

import dataclasses
import itertools
from pathlib import Path
from typing import NamedTuple

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rljax.training.alarms import AlarmConfig, policy_alarms, replay
from rljax.training.writer import read_jsonl
from tests.experiments.conftest import unoptimised
from tests.training.fused_cases import make_experiment, run

pytestmark = pytest.mark.slow  # each has programs of its own to compile
STEPS = 8


@pytest.fixture(scope="module", autouse=True)
def quick_programs():
    with unoptimised():
        yield


def broken(folder: Path, workdir: str, **changes):
    """A policy that runs away at a rate of 0.3, judged by a reward that fails on some texts."""
    config = make_experiment(
        folder, "grpo", workdir, reward="flaky", alarms=AlarmConfig(window=2), steps=STEPS
    )
    task = dataclasses.replace(config.task, max_reward_failures=1.0)
    rate = dataclasses.replace(config.optimizer, learning_rate=0.3, schedule="constant")
    return dataclasses.replace(config, task=task, optimizer=rate, **changes)


def said(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("alarm at step")]


class Whole(NamedTuple):
    folder: Path
    rows: list[dict]
    lines: list[str]

    @property
    def names(self) -> list[str]:
        return [line.split(", ")[1].split(":")[0] for line in self.lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Whole:
    folder = tmp_path_factory.mktemp("alarms")
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("builtins.print", lambda *text, **_: lines.extend(map(str, text)))
        rows = run(broken(folder, "whole"))
    return Whole(folder, rows, said("\n".join(lines)))


def test_what_goes_wrong_is_said_once_in_every_place(whole):
    assert {"truncated", "reward_failures", "exploding_kl"} <= set(whole.names)
    for name in set(whole.names):  # once for each onset, and for nothing else
        steps = [int(line.split()[3].rstrip(",")) for line in whole.lines if f", {name}:" in line]
        holds = [row.get(f"health/alarm_{name}", 0) for row in whole.rows]
        pairs = enumerate(itertools.pairwise([0, *holds]), start=1)
        begins = [step for step, (before, now) in pairs if now > before]
        assert steps == begins
    last = whole.rows[-1]
    assert last["health/alarms"] == sum(v for k, v in last.items() if k.startswith("health/alarm_"))
    assert last["health/alarm_truncated"] == 1
    assert "health/alarms" not in whole.rows[0]
    board = EventAccumulator(str(whole.folder / "whole"), size_guidance={"tensors": 0})
    board.Reload()
    events = board.Tensors("health/alarms/text_summary")
    texts = [event.tensor_proto.string_val[0].decode() for event in events]
    assert [text.split("**")[1] for text in texts] == whole.names
    config = broken(whole.folder, "whole")
    again = replay(read_jsonl(whole.folder / "whole" / "metrics.jsonl"), policy_alarms(config))
    assert [alarm.text().splitlines()[0] for alarm in again] == whole.lines


def test_a_resumed_run_says_no_alarm_twice(whole, capsys):
    """Stopped after steps 3 and 4: after the first onset, in the middle of a window."""
    for steps in (3, 4, STEPS):
        parts = run(broken(whole.folder, "parts", steps=steps))
    assert said(capsys.readouterr().out) == whole.lines
    assert parts == whole.rows


def test_fused_steps_have_the_same_alarms(whole, capsys):
    run(broken(whole.folder, "fused", fused_steps=3))
    fused = said(capsys.readouterr().out)
    assert {line.split(": ")[0] for line in fused} == {line.split(": ")[0] for line in whole.lines}


def test_a_run_that_learns_is_silent(whole, capsys):
    """With the default thresholds, but for completions of 3 tokens, which are always cut."""
    quiet = AlarmConfig(window=4, truncated=None)
    config = make_experiment(whole.folder, "grpo", "quiet", alarms=quiet, steps=12)
    rate = dataclasses.replace(config.optimizer, learning_rate=1e-3)
    rows = run(dataclasses.replace(config, optimizer=rate))
    assert said(capsys.readouterr().out) == []
    assert not any("health/alarms" in row for row in rows)
