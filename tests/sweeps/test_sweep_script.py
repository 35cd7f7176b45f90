"""experiments/sweep.py in processes of its own: what is refused, what fails, what a kill leaves."""

import json
import time

import pytest

from tests.sweeps.sweep_cases import (
    MEASURING,
    TRAINING,
    kill_when,
    open_sweep,
    start,
    sweep_file,
)


def finish(process, code=0):
    said, _ = process.communicate(timeout=800)
    assert process.returncode == code, said
    return said


@pytest.mark.slow
def test_a_bad_sweep_is_refused_before_anything_runs(tmp_path):
    for old, new, message in (
        ('"loaded": {"bias": 0.75}', '"loaded": {"bios": 0.75}', "did you mean bias?"),
        ("program=toss", 'program="nowhere.py:toss"', "there is no file"),
        ("    program=toss,\n", "", "no script runs a Coin"),
        ('last("heads")', '"heads"', "not a reader"),
    ):
        assert old in MEASURING
        file = sweep_file(tmp_path, MEASURING.replace(old, new))
        said = finish(start(file, tmp_path / "out"), code=2)
        assert message in said and "Traceback" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_failed_runs_are_said_at_the_end_and_tried_again(tmp_path):
    found = tmp_path / "found"
    lost = f"if config.seed == 1 and not Path({str(found)!r}).exists():"
    text = MEASURING.replace("if config.fails:", lost)
    text = text.replace("from dataclasses", "from pathlib import Path\nfrom dataclasses", 1)
    file = sweep_file(tmp_path, text)
    said = finish(start(file, tmp_path / "out", "--jobs", "2"), code=1)
    assert "2 runs failed" in said and "cells/loaded/seed1: RuntimeError: the coin is lost" in said
    assert not json.loads((tmp_path / "out" / "results.json").read_text())["complete"]
    assert "Traceback" in (tmp_path / "out" / "cells/fair/seed1/log.txt").read_text()
    found.touch()
    said = finish(start(file, tmp_path / "out"))
    assert "cells/fair/seed0" not in said and "cells/fair/seed1: heads 2.5" in said
    assert json.loads((tmp_path / "out" / "results.json").read_text())["complete"]


@pytest.mark.slow
def test_a_worker_that_dies_costs_its_run_only(tmp_path):
    text = MEASURING.replace("if config.fails:", "if config.seed == 1 and config.bias > 0.6:")
    text = text.replace('raise RuntimeError("the coin is lost")', "os.kill(os.getpid(), 9)")
    file = sweep_file(tmp_path, text.replace("from dataclasses", "import os\nfrom dataclasses", 1))
    said = finish(start(file, tmp_path / "out"), code=1)
    assert "1 runs failed" in said and "its process ended with code -9" in said
    runs = open_sweep(file, tmp_path / "out")
    assert runs.missing(runs.cells) == ["cells/loaded/seed1"]


@pytest.mark.slow
def test_parts_of_a_sweep_are_made_one_by_one(tmp_path):
    file, directory = sweep_file(tmp_path), tmp_path / "out"
    said = finish(start(file, directory, "--part", "6"), code=2)
    assert "not stages, results, or a number below 6" in said
    finish(start(file, directory, "--part", "4"))
    runs = open_sweep(file, directory)
    assert set(runs.cells) - set(runs.missing(runs.cells)) == {"cells/loaded/seed1"}
    assert "some runs are missing" in finish(start(file, directory, "--part", "results"))


@pytest.mark.slow
@pytest.mark.parametrize("fused", [False, True])
def test_a_sweep_that_is_killed_twice_ends_with_the_same_bytes(tmp_path, fused):
    text = TRAINING
    if fused:  # a reward of tokens: all four runs are one program, and longer
        text = text.replace(
            "steps=6,", 'steps=16, task=replace(task, reward="partial_match_tokens"),'
        )
    file = sweep_file(tmp_path, text, "letters")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(file, whole))

    def lines(name):
        metrics = killed / "cells" / name / "metrics.jsonl"
        return metrics.read_text().count("\n") if metrics.exists() else 0

    # in the middle of the first run and of the third; or of all
    second = ("coef=0.1/seed1", 10) if fused else ("coef=0.1/seed0", 3)
    kill_when(start(file, killed), lambda: lines("coef=0/seed0") >= 4)
    assert not (killed / "results.json").exists()
    kill_when(start(file, killed), lambda: lines(second[0]) >= second[1])
    assert not (killed / "results.json").exists()
    said = finish(start(file, killed))
    assert f"cells/{second[0]}: goes on at step" in said
    assert fused or "cells/coef=0/seed0" not in said
    for name in ("results.json", "table.md"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes()
    content = json.loads((whole / "results.json").read_text())
    assert content["complete"] and len(set(content["metrics"]["KL"]["coef=0"]["values"])) == 2


@pytest.mark.slow
def test_a_sweep_that_is_asked_to_stop_saves_and_goes_on(tmp_path):
    file, directory = sweep_file(tmp_path, TRAINING, "letters"), tmp_path / "out"
    process = start(file, directory, "--arms", "coef=0", "--seeds", "0")
    metrics = directory / "cells" / "coef=0" / "seed0" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") >= 2):
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()
    said = finish(process)
    assert "the same command goes on" in said
    finish(start(file, directory, "--arms", "coef=0", "--seeds", "0"))
    assert json.loads((directory / "results.json").read_text())["complete"]
