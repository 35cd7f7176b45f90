"""What came out of a sweep, by hand; the same bytes in whatever order its runs were made."""

import math

import numpy as np
import pytest

from rljax.errors import UserError
from rljax.sweeps.results import read_results, results, summarise, write_results
from rljax.sweeps.worker import make_run
from tests.sweeps.sweep_cases import MEASURING, no_script, open_sweep, sweep_file


@pytest.fixture
def made(tmp_path):
    """Make runs in the order that a test asks for."""
    file = sweep_file(tmp_path)

    def make(directory, order=1, leave_out=()):
        runs = open_sweep(file, tmp_path / directory)
        for name in list(runs.cells)[::order]:
            if name not in leave_out:
                make_run(runs, name, no_script)
        write_results(runs)
        return runs

    return make


def test_numbers_by_hand(made):
    content = read_results(made("a").directory / "results.json")
    assert content["complete"] and content["arms"] == {"fair": {}, "loaded": {"bias": 0.75}}
    fair = content["metrics"]["heads"]["fair"]
    assert fair["values"] == [1.5, 2.5, 3.5] and fair["mean"] == 2.5
    assert 1.5 <= fair["mean_low"] < 2.5 < fair["mean_high"] <= 3.5
    more, not_more = content["claims"]
    assert (more["verdict"], not_more["verdict"]) == ("reproduced", "reversed")
    # seed by seed the difference is 0.75 without any spread
    assert (more["difference"], more["low"], more["high"]) == (0.75, 0.75, 0.75)


def test_the_order_of_the_runs_leaves_no_trace(made):
    first, second = made("a"), made("b", order=-1)
    for name in ("results.json", "table.md"):
        assert (first.directory / name).read_bytes() == (second.directory / name).read_bytes()


def test_missing_runs_are_said(made):
    runs = made("a", leave_out=["cells/fair/seed1"])
    content = read_results(runs.directory / "results.json")
    assert not content["complete"]
    assert content["metrics"]["heads"]["fair"]["values"] == [1.5, None, 3.5]
    assert content["metrics"]["heads"]["fair"]["mean"] == 2.5
    assert content["claims"][0]["verdict"] == "undecided"
    assert "some runs are missing" in (runs.directory / "table.md").read_text()
    make_run(runs, "cells/fair/seed1", no_script)
    assert write_results(runs)["complete"]


def test_the_table_has_a_row_for_each_arm_and_claim(made):
    lines = (made("a").directory / "table.md").read_text().splitlines()
    assert "| arm | heads | most |" in lines
    assert any(line.startswith("| loaded | 3.25 [") for line in lines)
    assert any("| reproduced | 0.75 [0.75, 0.75] |" in line for line in lines)


def test_what_is_not_finite_is_null():
    summary = summarise(np.asarray([1.0, math.nan, 3.0]))
    assert summary["values"] == [1.0, None, 3.0] and summary["mean"] == 2.0
    empty = summarise(np.asarray([math.nan]))
    assert empty["values"] == [None] and empty["mean"] is None and empty["iqm_low"] is None


def test_a_metric_that_no_run_has_is_named(tmp_path):
    text = MEASURING.replace('maximum("heads")', 'maximum("tails")')
    runs = open_sweep(sweep_file(tmp_path, text), tmp_path / "a")
    with pytest.raises(UserError, match=r"metric 'most' of .*fair/seed0.*no 'tails'.*heads"):
        make_run(runs, "cells/fair/seed0", no_script)
    assert results(runs)["complete"] is False
