"""Which runs stand together, what they are called, and what a sweep's directory holds."""

import json

import pytest

from rljax.errors import UserError
from rljax.reporting.groups import find_runs, group_runs, groups_of_sweep, is_sweep
from rljax.reporting.runs import read_run, read_sweep
from tests.reporting.fake_runs import write_run


def test_seeds_stand_together_and_configs_apart(tmp_path):
    for name, seed, coef in (("a", 0, 0.1), ("b", 1, 0.1), ("c", 0, 0.3)):
        write_run(tmp_path / name, seed=seed, config={"ppo": {"kl": {"coef": coef}}})
    groups = group_runs([read_run(path) for path in find_runs([tmp_path])])
    assert [(group.label, group.seeds) for group in groups] == [("coef=0.1", [0, 1]), ("c", [0])]


def test_runs_without_a_config_stand_alone(tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / name, seed=None)
    groups = group_runs([read_run(tmp_path / name) for name in ("a", "b")])
    assert [group.label for group in groups] == ["a", "b"]


def test_equal_names_are_told_apart_by_their_folders(tmp_path):
    runs = [
        write_run(tmp_path / parent / "run", config={"steps": steps})
        for parent, steps in (("x", 1), ("y", 2))
    ]
    assert [g.label for g in group_runs([read_run(run) for run in runs])] == ["x/run", "y/run"]


def test_a_folder_stands_for_the_runs_in_it_once(tmp_path):
    write_run(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    assert [path.name for path in find_runs([tmp_path, tmp_path / "a"])] == ["a"]
    with pytest.raises(UserError, match=r"empty holds no run with a metrics.jsonl: give"):
        find_runs([tmp_path / "empty"])
    with pytest.raises(UserError, match="nothing is not there"):
        find_runs([tmp_path / "nothing"])


@pytest.fixture
def sweep(tmp_path):
    """Arms b and a (in this order), of which a second seed has not measured anything yet."""
    for arm in ("a", "b"):
        for seed in (2, 10):
            write_run(tmp_path / "cells" / arm / f"seed{seed}", seed=seed)
    (tmp_path / "cells" / "a" / "seed10" / "metrics.jsonl").write_text('{"step": 1, "obj')
    (tmp_path / "sweep.json").write_text(json.dumps({"arms": {"b": {}, "a": {}, "never": {}}}))
    return tmp_path


def test_a_sweep_that_is_going_on_is_read(sweep):
    assert is_sweep(sweep) and not is_sweep(sweep / "cells")
    record = read_sweep(sweep)
    groups = groups_of_sweep(record)
    assert [(group.label, group.seeds) for group in groups] == [("b", [2, 10]), ("a", [2])]
    assert record.missing == ("a/seed10",) and record.results == {}
    assert record.name == sweep.name


def test_what_is_no_sweep_is_said(sweep, tmp_path):
    with pytest.raises(UserError, match=r"holds neither cells/ nor a sweep's results.json"):
        read_sweep(sweep / "cells")
    (sweep / "results.json").write_text("{")
    with pytest.raises(UserError, match=r"results.json is not JSON"):
        read_sweep(sweep)
    (tmp_path / "other" / "cells" / "a").mkdir(parents=True)
    with pytest.raises(UserError, match="no cell has measured anything yet"):
        read_sweep(tmp_path / "other")
