"""Runs of one program: who goes together, whose turn it is, and that each is what it is alone."""

import dataclasses
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import rljax
from rljax.sweeps.cells import SweepRuns
from rljax.sweeps.fused import GroupRun, can_fuse, groups, make_setup, settings
from rljax.sweeps.spec import Sweep, grid, last
from rljax.training.fused_group import Group
from rljax.training.on_policy import train
from rljax.training.run import open_run, read_json
from rljax.training.writer import read_jsonl
from tests.conftest import numbers
from tests.experiments.conftest import unoptimised
from tests.training.fused_cases import METHODS, assert_same_numbers, make_experiment

slow = pytest.mark.slow


def make_runs(folder: Path, name: str = "out", method: str = "grpo", **changes) -> SweepRuns:
    base = make_experiment(folder, method, **({"steps": 4, "checkpoint_every": 2} | changes))
    base = dataclasses.replace(base, eval_prompts=6, workdir=None)
    rate = "optimizer.learning_rate"
    sweep = Sweep(
        name="both", base=base, arms=grid(**{rate: [0.01, 0.003]}), seeds=(3, 5),
        metrics={"score": last("eval/scores"), "KL": last("objective/kl")},
    )  # fmt: skip
    return SweepRuns(sweep, folder / name)


def test_runs_that_differ_in_numbers_and_seeds_go_together(tmp_path):
    runs = make_runs(tmp_path)
    assert groups(runs, 64) == [tuple(runs.cells)]
    assert groups(runs, 3) == [tuple(runs.cells)[:3], tuple(runs.cells)[3:]]
    assert groups(runs, 0) == [(name,) for name in runs.cells]
    assert settings([cell.config for cell in runs.cells.values()])[2:] == [
        {"seed": 3, "optimizer.learning_rate": 0.003},
        {"seed": 5, "optimizer.learning_rate": 0.003},
    ]


def test_what_is_no_number_parts_them(tmp_path):
    runs = make_runs(tmp_path)
    arms = {
        "a": {}, "b": {"grpo.kl.coef": 0.5}, "c": {"grpo.kl.estimator": "k1"},
        "d": {"grpo.clip_eps_high": 0.3}, "e": {"steps": 3},
    }  # fmt: skip
    parted = SweepRuns(dataclasses.replace(runs.sweep, arms=arms, seeds=(0,)), tmp_path)
    assert groups(parted, 64) == [
        ("cells/a/seed0", "cells/b/seed0"), ("cells/c/seed0",), ("cells/d/seed0",),
        ("cells/e/seed0",),
    ]  # fmt: skip


def test_what_the_host_has_to_judge_stays_alone(tmp_path):
    config = make_experiment(tmp_path, "grpo")
    assert can_fuse(config) and can_fuse(make_experiment(tmp_path, "ppo"))
    assert not can_fuse(make_experiment(tmp_path, "grpo", reward="text"))
    filled = dataclasses.replace(METHODS["grpo"], dynamic_sampling=1)
    assert not can_fuse(dataclasses.replace(config, grpo=filled))
    assert not can_fuse(dataclasses.replace(config, overlap=True))


class Echo(Group):
    """A group whose programs say what they were called with."""

    def __init__(self, rows: int) -> None:
        self.rows, self.devices = rows, 1
        self.lock = threading.Condition()
        self._live, self._waiting, self._answers = set(), {}, {}
        self._numbers, self.table = {}, None
        self.shared = dataclasses.make_dataclass("S", [("pretrained", object)])(
            dataclasses.make_dataclass("P", [("params", object)])(None)
        )
        self.calls = []

    def _program(self, name):
        def run(fixed, numbers, arrays, *common):
            if name == "fails":
                raise RuntimeError("out of memory")
            self.calls.append((name, np.asarray(arrays[0]).tolist(), *common))
            return arrays[0] * 10

        return run


def together(group: Group, *runs) -> dict:
    """Run functions of a group in threads of their own; return what each returned, or raised."""
    found = {}

    def start(row, run):
        with group.lock:
            try:
                found[row] = run(row)
            except RuntimeError as error:
                found[row] = error
            finally:
                group.leave(row)

    group.enter(range(len(runs)))
    threads = [threading.Thread(target=start, args=pair) for pair in enumerate(runs)]
    with group.lock:
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return found


def test_those_that_are_behind_go_first_and_then_all_together():
    group = Echo(3)

    def run_from(start):
        def run(row):
            for reached in range(start, 3):
                answer = group.ask(row, "advance", (np.float32(row + 1),), (reached,), reached)
                assert float(answer) == 10 * (row + 1)
            return "done"

        return run

    assert together(group, run_from(2), run_from(0), run_from(1)) == dict.fromkeys(range(3), "done")
    # rows that are ahead hold the numbers of one that is not, which is dropped
    assert group.calls == [
        ("advance", [2.0, 2.0, 2.0], 0),
        ("advance", [2.0, 2.0, 3.0], 1),
        ("advance", [1.0, 2.0, 3.0], 2),
    ]


def test_one_that_ends_or_fails_does_not_hold_the_others():
    group = Echo(3)

    def short(row):
        group.ask(row, "act", (np.float32(row),), (), 0)
        raise RuntimeError("NaN")

    def long(row):
        group.ask(row, "act", (np.float32(row),), (), 0)
        return float(group.ask(row, "act", (np.float32(row),), (), 1))

    found = together(group, short, long, long)
    assert str(found[0]) == "NaN" and (found[1], found[2]) == (10.0, 20.0)


def test_an_error_of_the_program_reaches_those_who_asked():
    group = Echo(2)

    def fails(row):
        return group.ask(row, "fails", (np.float32(0),), (), 0)

    def waits(row):
        return float(group.ask(row, "act", (np.float32(7),), (), 5))

    found = together(group, fails, waits)
    assert str(found[0]) == "out of memory" and found[1] == 70.0


@slow
@pytest.mark.parametrize("method", ["grpo", "ppo"])
def test_each_run_is_what_it_is_alone(tmp_path, method):
    fused, alone = make_runs(tmp_path, "fused", method), make_runs(tmp_path, "alone", method)
    with unoptimised():
        made = GroupRun(fused, list(fused.cells))
        made.make()
        assert made.done.keys() == fused.cells.keys() and not made.failed
        name = list(fused.cells)[-1]
        config = alone.task(name).config
        with open_run(config.workdir, config) as run:
            train(make_setup(config), run)
    here, there = fused.path(name), alone.path(name)
    assert_same_numbers(numbers(here), numbers(there), rtol=1e-3)
    assert read_json(here) == read_json(there) | {"workdir": str(here)}
    for key in ("step", "prompt", "completion"):
        rows = [read_jsonl(path / "completions.jsonl") for path in (here, there)]
        assert [row[key] for row in rows[0]] == [row[key] for row in rows[1]]
    saved = [sorted(p.name for p in (path / "checkpoints").iterdir()) for path in (here, there)]
    assert saved[0] == saved[1] == ["00000002", "00000004"]
    assert (here / "result.json").exists() and list(here.glob("events.out.tfevents.*"))
    scores = {name: fused.measure(name)["KL"] for name in fused.cells}
    assert len(set(scores.values())) == 4  # every seed and every rate is a run of its own


@slow
def test_a_run_that_is_lost_is_made_again_beside_the_others(tmp_path):
    runs = make_runs(tmp_path)
    with unoptimised():
        GroupRun(runs, list(runs.cells)).make()
        lost = list(runs.cells)[1]
        before = numbers(runs.path(lost))
        for file in ("done.json", "metrics.jsonl", "completions.jsonl"):
            (runs.path(lost) / file).unlink()
        for checkpoint in (runs.path(lost) / "checkpoints").iterdir():
            checkpoint.rename(tmp_path / f"lost-{checkpoint.name}")
        again = GroupRun(runs, list(runs.cells))
        again.make()
    assert list(again.done) == [lost]
    assert numbers(runs.path(lost)) == before


CHILD = """
import sys
from pathlib import Path
import jax
from rljax.sweeps.fused import GroupRun
from tests.sweeps.test_fused_group import make_runs

jax.config.update("jax_disable_most_optimizations", True)
assert jax.device_count() == int(sys.argv[3])
runs = make_runs(Path(sys.argv[1]), sys.argv[2])
made = GroupRun(runs, list(runs.cells)[:3])
made.make()
assert len(made.done) == 3, (made.failed, made.stopped)
"""


@slow
def test_devices_share_the_runs_of_a_group(tmp_path):
    root = Path(rljax.__file__).parents[1]
    for count in (1, 2):
        flags = f"--xla_force_host_platform_device_count={count}"
        environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(root)}
        command = [sys.executable, "-c", CHILD, str(tmp_path), f"on{count}", str(count)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=800)
        assert done.returncode == 0, done.stderr
    one, two = make_runs(tmp_path, "on1"), make_runs(tmp_path, "on2")
    for name in list(one.cells)[:3]:
        assert_same_numbers(numbers(two.path(name)), numbers(one.path(name)), rtol=1e-3)
