"""The directory of a sweep: what is whole, and what is refused."""

import json

import pytest

from rljax.sweeps.worker import Stopped, find_program, make_run
from rljax.training.errors import ConfigError, ConfigMismatch
from rljax.training.run import read_json
from tests.sweeps.sweep_cases import MEASURING, no_script, open_sweep, sweep_file


def test_a_cell_is_an_ordinary_run_directory(tmp_path):
    runs = open_sweep(sweep_file(tmp_path), tmp_path / "out")
    assert runs.missing(runs.cells) == [
        f"cells/{arm}/seed{seed}" for arm in ("fair", "loaded") for seed in (0, 1, 2)
    ]
    make_run(runs, "cells/loaded/seed2", no_script)
    path = runs.path("cells/loaded/seed2")
    assert read_json(path) == {"bias": 0.75, "fails": False, "seed": 2}
    assert runs.measure("cells/loaded/seed2") == {"heads": 0.75 * 3 + 2, "most": 0.75 * 3 + 2}
    assert "cells/loaded/seed2" not in runs.missing(runs.cells)
    assert runs.seconds("cells/loaded/seed2") >= 0


def test_a_run_that_failed_is_not_whole(tmp_path):
    text = MEASURING.replace('"loaded": {"bias": 0.75}', '"loaded": {"fails": True}')
    runs = open_sweep(sweep_file(tmp_path, text), tmp_path / "out")
    with pytest.raises(RuntimeError, match="the coin is lost"):
        make_run(runs, "cells/loaded/seed0", no_script)
    assert not runs.is_done("cells/loaded/seed0")


def test_runs_of_another_config_are_refused_and_empty_ones_cleared(tmp_path):
    runs = open_sweep(sweep_file(tmp_path), tmp_path / "out")
    make_run(runs, "cells/loaded/seed0", no_script)
    runs.check()
    runs.write_config("cells/loaded/seed1")  # killed before its first number
    other = sweep_file(tmp_path, MEASURING.replace("0.75", "0.8"), "others")
    changed = open_sweep(other, tmp_path / "out")
    with pytest.raises(
        ConfigMismatch, match=r"seed0 holds a run of another config:\n  bias: there 0\.75, now 0\.8"
    ):
        changed.check()
    (runs.path("cells/loaded/seed0") / "metrics.jsonl").write_text("")
    changed.check()
    assert not runs.path("cells/loaded/seed0").exists()
    assert not runs.path("cells/loaded/seed1").exists()


def test_a_training_run_is_whole_at_its_last_step_only(tmp_path):
    text = MEASURING.replace("    program=toss,\n", "").replace(
        "    bias: float", "    steps: int = 3\n    bias: float"
    )
    runs = open_sweep(sweep_file(tmp_path, text), tmp_path / "out")

    def launch(reached):
        def run(task, config_file):
            assert json.loads(config_file.read_text())["steps"] == task.config.steps == 3
            (config_file.parent / "metrics.jsonl").write_text(
                f'{{"step": {reached}, "heads": 1.0}}\n'
            )

        return run

    with pytest.raises(Stopped, match="cells/fair/seed0 was stopped at step 2 of 3"):
        make_run(runs, "cells/fair/seed0", launch(2))
    assert not runs.is_done("cells/fair/seed0")
    make_run(runs, "cells/fair/seed0", launch(3))
    assert runs.is_done("cells/fair/seed0")


def test_programs_are_found_by_name(tmp_path):
    file = sweep_file(tmp_path)
    named = MEASURING.replace("program=toss", f'program="{file}:toss"')
    runs = open_sweep(sweep_file(tmp_path, named, "named"), tmp_path / "out")
    make_run(runs, "cells/fair/seed1", no_script)
    assert runs.measure("cells/fair/seed1")["heads"] == 2.5
    lost = MEASURING.replace("program=toss", f'program="{file}:tosss"')
    with pytest.raises(ConfigError, match="has no function 'tosss'"):
        find_program(open_sweep(sweep_file(tmp_path, lost, "lost"), tmp_path).sweep)
