"""Run directories: going on, refusing another config, locks of the living only, signals."""

import dataclasses
import enum
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import pytest

import rljax
from rljax.training.config_json import (
    config_from_json,
    config_to_json,
    differences,
    flatten_config,
)
from rljax.training.errors import ConfigError, ConfigMismatch, RunInUse, UserError
from rljax.training.run import new_workdir, open_run, read_json, read_part


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass(frozen=True)
class Adam:
    learning_rate: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.95)


@dataclasses.dataclass(frozen=True)
class Sgd:
    momentum: float = 0.0


@dataclasses.dataclass(frozen=True)
class Config:
    optimizer: Adam | Sgd = Adam()
    limit: float = float("inf")
    window: tuple[int, ...] | None = None
    kind: Literal["a", "b"] = "a"
    colour: Colour = Colour.RED
    path: Path = Path("x/y")
    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    nested: tuple[Adam, ...] = ()
    steps: int = 10
    name: str | None = None


FULL = Config(
    optimizer=Sgd(0.5),
    limit=float("-inf"),
    window=(1, 2, 3),
    kind="b",
    weights={"w": 1.5},
    nested=(Adam(betas=(0.1, 0.2)),),
    name="é",
)


def written(directory: Path) -> Config:
    return config_from_json(Config, read_json(directory))


@pytest.mark.parametrize("config", [Config(), FULL])
def test_config_survives_json(config):
    text = json.dumps(config_to_json(config), allow_nan=False)
    again = config_from_json(Config, json.loads(text))
    assert again == config and hash(again.optimizer) == hash(config.optimizer)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stepz": 3}, "stepz is not a field of Config"),
        ({"steps": "3"}, "steps is '3', not int"),
        ({"steps": True}, "steps is True, not int"),
        ({"kind": "c"}, "kind is 'c', not"),
        ({"colour": "BLUE"}, "colour is 'BLUE', not Colour"),
        ({"window": [1, "2"]}, r"window\[1\] is '2', not int"),
        ({"nested": [{"betas": [0.1]}]}, r"nested\[0\].betas has 1 items, not 2"),
        ({"optimizer": 3}, "optimizer is 3, not Adam"),
    ],
)
def test_json_that_does_not_fit_is_named(change, message):
    with pytest.raises(ConfigError, match=message):
        config_from_json(Config, config_to_json(Config()) | change)


def test_what_json_cannot_hold_is_named():
    with pytest.raises(ConfigError, match="weights.f is a function"):
        config_to_json(Config(weights={"f": differences}))


def test_older_runs_lack_newer_fields():
    data = config_to_json(FULL)
    del data["limit"]
    assert config_from_json(Config, data) == dataclasses.replace(FULL, limit=float("inf"))


def test_flatten_and_differences():
    flat = flatten_config(Config())
    assert flat["optimizer.learning_rate"] == 1e-5 and flat["optimizer.betas"] == [0.9, 0.95]
    assert flat["window"] is None and flat["weights"] == {}
    rows = differences(Config(), dataclasses.replace(Config(), steps=3, kind="b"), ("steps",))
    assert rows == [("kind", "'a'", "'b'")]
    rows = differences(Config(), dataclasses.replace(Config(), optimizer=Sgd()))
    assert ("optimizer.momentum", "(no such field)", "0.0") in rows
    assert not differences(Config(), dataclasses.replace(Config(), optimizer=Sgd()), ("optimizer",))


def test_a_new_directory_then_the_same_run_again(tmp_path):
    with open_run(tmp_path / "a" / "b", FULL) as run:
        assert not run.resumed and run.checkpoint_dir == tmp_path / "a" / "b" / "checkpoints"
        assert written(run.directory) == FULL
    longer = dataclasses.replace(FULL, steps=99)
    with open_run(tmp_path / "a" / "b", longer) as run:
        assert run.resumed
    assert written(tmp_path / "a" / "b") == longer


def test_another_config_is_refused_with_the_difference(tmp_path):
    open_run(tmp_path, Config()).close()
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    other = dataclasses.replace(Config(), optimizer=Adam(1e-4), name="x")
    with pytest.raises(ConfigMismatch) as error:
        open_run(tmp_path, other)
    assert re.search(r"optimizer.learning_rate +1e-05 +0.0001", str(error.value))
    assert re.search(r"name +None +'x'", str(error.value))
    assert "kind" not in str(error.value)
    assert written(tmp_path) == Config()
    open_run(tmp_path, Config()).close()  # the refusal left no lock behind


def test_a_run_that_made_nothing_gives_way_to_another_config(tmp_path):
    open_run(tmp_path, Config()).close()
    other = dataclasses.replace(Config(), name="x")
    with open_run(tmp_path, other) as run:
        assert not run.resumed
    assert written(tmp_path) == other


def test_directories_that_are_no_run(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(ConfigError, match="holds metrics.jsonl but no config.json"):
        open_run(tmp_path, Config())
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="choose another --workdir"):
        open_run(tmp_path / "file" / "run", Config())
    with pytest.raises(UserError, match="is no run directory"):
        read_part(tmp_path, "optimizer", Sgd)
    (tmp_path / "config.json").write_text('{"steps": ')
    with pytest.raises(UserError, match=r"config.json cannot be read"):
        read_part(tmp_path, "optimizer", Sgd)
    (tmp_path / "config.json").write_text('{"optimizer": {"momentum": 0.5, "stepz": 3}}')
    with pytest.raises(ConfigError, match=r"config.json, optimizer: .*stepz"):
        read_part(tmp_path, "optimizer", Sgd)
    assert read_part(tmp_path, "limit", float) is None


def test_default_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_run(None, Config(), name="ppo") as first:
        assert re.fullmatch(r"ppo-\d{8}-\d{6}", first.directory.name)
        assert first.directory.parent == tmp_path / "runs"
    names = set()
    for _ in range(3):
        path = new_workdir("ppo")
        path.mkdir()
        names.add(path.name)
    assert len(names) == 3


def child(tmp_path, body: str) -> subprocess.Popen:
    script = f"""
import dataclasses, sys, time
from rljax.training.run import open_run
@dataclasses.dataclass(frozen=True)
class Config:
    steps: int = 1
run = open_run({str(tmp_path)!r}, Config())
print("open", flush=True)
{body}
"""
    environment = os.environ | {"PYTHONPATH": str(Path(rljax.__file__).parents[1])}
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


@dataclasses.dataclass(frozen=True)
class Small:
    steps: int = 1


def test_a_living_process_keeps_others_out_a_killed_one_does_not(tmp_path):
    process = child(tmp_path, "time.sleep(60)")
    try:
        assert process.stdout.readline() == "open\n"
        with pytest.raises(RunInUse, match=f"written by process {process.pid} on"):
            open_run(tmp_path, Small())
    finally:
        process.kill()
        process.communicate()
    with open_run(tmp_path, Small()) as run:
        assert run.resumed
        with pytest.raises(RunInUse, match=f"process {os.getpid()}"):
            open_run(tmp_path, Small())


LOOP = """
step = 0
while not run.should_stop:
    time.sleep(0.01)
{after}
run.close()
print("saved", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_loop_cleanly(tmp_path, number):
    process = child(tmp_path, LOOP.format(after=""))
    assert process.stdout.readline() == "open\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "saved\n")
    assert f"{number.name}: stopping after this step" in err and "Traceback" not in err


def test_a_second_interrupt_ends_at_once_and_a_second_term_does_not(tmp_path):
    process = child(tmp_path, LOOP.format(after="print('stopping', flush=True); time.sleep(60)"))
    assert process.stdout.readline() == "open\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "stopping\n"
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode != 0 and "saved" not in out and "KeyboardInterrupt" in err


def test_handlers_are_given_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with open_run(tmp_path, Small()) as run:
        assert signal.getsignal(signal.SIGTERM) == run._on_signal
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
