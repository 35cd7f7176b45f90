"""Alarms of real runs: tiny ones that go wrong on purpose, fused, resumed, and one that is well."""

import dataclasses
import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rljax.models.flags import ModelConfig
from rljax.training.alarms import AlarmConfig, policy_alarms, replay
from rljax.training.writer import read_jsonl
from tests.experiments.conftest import unoptimised
from tests.training.fused_cases import make_experiment, run

pytestmark = pytest.mark.slow  # each has programs of its own to compile
SHORT = AlarmConfig(window=2, critic_warmup=0)
STUCK = AlarmConfig(window=2, truncated=None)


@pytest.fixture(scope="module", autouse=True)
def quick_programs():
    with unoptimised():
        yield


def broken(folder, workdir: str, **changes):
    """A policy that runs away at a rate of 0.3, judged by a reward that fails on some texts."""
    config = make_experiment(folder, "grpo", workdir, reward="sometimes", alarms=SHORT)
    task = dataclasses.replace(config.task, max_reward_failures=1.0)
    rate = dataclasses.replace(config.optimizer, learning_rate=0.3)
    return dataclasses.replace(config, task=task, optimizer=rate, **changes)


def said(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("alarm at step")]


def test_what_goes_wrong_is_said_once_in_every_place(tmp_path, capsys):
    config = broken(tmp_path, "run")
    rows = run(config)
    lines = said(capsys.readouterr().out)
    names = [line.split(", ")[1].split(":")[0] for line in lines]
    assert {"truncated", "reward_failures", "exploding_kl", "entropy_collapse"} <= set(names)
    assert len(set(names)) == len(names)
    last = rows[-1]
    assert last["health/alarms"] == sum(v for k, v in last.items() if k.startswith("health/alarm_"))
    assert "health/alarms" not in rows[0]
    board = EventAccumulator(str(tmp_path / "run"), size_guidance={"tensors": 0})
    board.Reload()
    texts = [
        event.tensor_proto.string_val[0].decode()
        for event in board.Tensors("health/alarms/text_summary")
    ]
    assert [text.split("**")[1] for text in texts] == names
    again = replay(read_jsonl(tmp_path / "run" / "metrics.jsonl"), policy_alarms(config))
    assert [alarm.name for alarm in again] == names


def test_a_resumed_run_says_no_alarm_twice(tmp_path, capsys):
    whole = run(broken(tmp_path, "whole"))
    expected = said(capsys.readouterr().out)
    for steps in (2, 3, 6):  # the schedule is constant: length does not matter
        parts = run(broken(tmp_path, "parts", steps=steps))
    assert said(capsys.readouterr().out) == expected
    assert [json.dumps(row) for row in parts] == [json.dumps(row) for row in whole]


def test_fused_steps_have_the_same_alarms(tmp_path, capsys):
    run(broken(tmp_path, "loop"))
    expected = {line.split(": ")[0] for line in said(capsys.readouterr().out)}
    run(broken(tmp_path, "fused", fused_steps=3))
    assert {line.split(": ")[0] for line in said(capsys.readouterr().out)} == expected


def test_a_reward_that_tells_nothing_apart_is_said(tmp_path, capsys):
    config = make_experiment(tmp_path, "grpo", "run", alarms=STUCK, steps=4)
    task = dataclasses.replace(
        config.task, reward=f"{tmp_path}/reward.py:text", reward_weights=None
    )
    rows = run(dataclasses.replace(config, task=task))
    (line,) = said(capsys.readouterr().out)
    assert line.startswith("alarm at step 2, zero_advantage: 100% of the batch")
    assert [row.get("health/alarm_zero_advantage") for row in rows] == [None, 1, 1, 1]


def test_a_critic_that_foresees_nothing_is_said(tmp_path, capsys):
    """The value head of a random model, whose rate is too small for it to learn in time."""
    config = make_experiment(tmp_path, "ppo", "run", alarms=SHORT, steps=4)
    rate = dataclasses.replace(config.optimizer, learning_rate=1e-6)
    rows = run(dataclasses.replace(config, optimizer=rate))
    found = [row["value/explained_variance"] for row in rows]
    spoken = "useless_critic" in capsys.readouterr().out
    assert spoken == any((a + b) / 2 < 0 for a, b in zip(found, found[1:], strict=False))


def test_8_bits_are_another_policy(tmp_path, capsys):
    """The gap that rounding to 8 bits makes is measured, and said where it is not wanted."""
    config = make_experiment(
        tmp_path, "grpo", "run", steps=3, model=ModelConfig(source="random:tiny-llama"),
        alarms=AlarmConfig(window=2, truncated=None, sampler_mean_gap=1e-6),
    )  # fmt: skip
    sampling = dataclasses.replace(config.sampling, weights="int8")
    method = dataclasses.replace(config.grpo, importance_cap=2.0)
    run(dataclasses.replace(config, sampling=sampling, grpo=method))
    assert "sampler_gap: the mean difference" in capsys.readouterr().out


def test_a_run_that_learns_is_silent(tmp_path, capsys):
    """With the default thresholds, but for completions of 3 tokens, which are always cut."""
    quiet = AlarmConfig(window=3, critic_warmup=3, truncated=None)
    for name in ("ppo", "grpo"):
        config = make_experiment(tmp_path, name, name, alarms=quiet, steps=10)
        rate = dataclasses.replace(config.optimizer, learning_rate=1e-3)
        rows = run(dataclasses.replace(config, optimizer=rate))
        assert said(capsys.readouterr().out) == []
        assert not any("health/alarms" in row for row in rows)
