"""experiments/search.py: real runs, real processes, and what goes on after them."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest

from tests.experiments.conftest import ROOT

pytest.importorskip("optuna")
CONFIG = f"{ROOT}/configs/pretrain_arithmetic.py:smoke"
RATES = ["--space", "optimizer.learning_rate=log(1e-4,1e-2)"]


def arguments(folder, *more) -> list[str]:
    found = ["--config", CONFIG, "--metric", "eval/loss", "--direction", "minimize"]
    return [*found, "--workdir", str(folder), *RATES, *more]


def search(folder, *more) -> str:
    """Run the script as a user does."""
    command = [sys.executable, f"{ROOT}/experiments/search.py", *arguments(folder, *more)]
    made = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert made.returncode == 0, made.stdout[-2000:] + made.stderr[-3000:]
    return made.stdout


@pytest.mark.slow
def test_several_processes_share_a_search_and_it_goes_on(tmp_path):
    search(tmp_path, "--trials", "3", "--jobs", "2")
    first = json.loads((tmp_path / "search.json").read_text())
    assert [row["state"] for row in first["trials"]] == ["complete"] * 3
    said = search(tmp_path, "--trials", "4")
    assert "3 trials done" in said
    found = json.loads((tmp_path / "search.json").read_text())
    assert found["trials"][:3] == first["trials"] and len(found["trials"]) == 4
    values = [row["value"] for row in found["trials"]]
    assert found["best"]["value"] == min(values) and len(set(values)) > 1
    assert all((tmp_path / f"trials/{n:04}/metrics.jsonl").exists() for n in range(4))
    command = shlex.split(said.strip().splitlines()[-1])
    assert command == shlex.split(found["best"]["command"])
    rate = float(re.sub(r".*[ =]", "", found["best"]["command"]))
    assert rate == found["trials"][found["best"]["trial"]]["values"]["optimizer.learning_rate"]


def test_another_search_in_the_directory_is_refused(fails, tmp_path):
    (tmp_path / "search.json").write_text(json.dumps({"search": {"metric": "eval/accuracy"}}))
    said = fails("search", *arguments(tmp_path))
    assert "holds another search" in said and "metric: there 'eval/accuracy'" in said


@pytest.mark.parametrize(
    "space, words",
    [
        ("optimizer.learning_rat=log(1e-4,1e-2)", "learning_rat"),
        ("optimizer.learning_rate=log(0,1)", "log"),
        ("optimizer.learning_rate=1e-3", "log(low,high)"),
    ],
)
def test_a_space_that_cannot_be_is_said_before_any_run(fails, tmp_path, space, words):
    said = fails("search", "--config", CONFIG, "--workdir", str(tmp_path / "s"), "--space", space)
    assert words in said and not (tmp_path / "s").exists()


def test_the_search_of_another_script_is_refused(fails, tmp_path):
    said = fails("search", *arguments(tmp_path / "s"), "--script", "grpo")
    assert "is run by pretrain" in said
