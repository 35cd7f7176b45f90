"""What a dry run says and how it ends, without running anything."""

import dataclasses

import numpy as np
import pytest

from rljax.doctor import memory
from rljax.doctor.findings import Findings
from rljax.doctor.memory import Needs, Room, gigabytes, report_memory
from rljax.doctor.rewards import returned_type
from rljax.doctor.supervised import shortened
from rljax.errors import UserError
from rljax.experiment import PreferenceExperiment


def test_nothing_wrong_is_ready(capsys):
    findings = Findings()
    findings.say("model", "two\nlines")
    findings.verdict()
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["model       two", "            lines"]
    assert lines[-1] == "verdict: ready"


def test_what_is_wrong_is_numbered_and_ends_with_1(capsys):
    findings = Findings()
    findings.wrong("it is too large", "make it smaller")
    with findings.catching():
        raise UserError("there is no file; make one")
    with pytest.raises(SystemExit) as stop:
        findings.verdict()
    assert stop.value.code == 1
    text = capsys.readouterr().out
    assert "not ready, 2 to put right" in text
    assert "  1. it is too large: make it smaller\n  2. there is no file; make one\n" in text


def test_errors_of_the_program_are_not_findings():
    with pytest.raises(KeyError), Findings().catching():
        raise KeyError("a mistake")


@pytest.mark.parametrize(("size", "fits"), [(20_000_000, True), (19_000_000, False)])
def test_the_largest_program_decides_whether_it_fits(size, fits, capsys):
    """State of 16 MB; beside it one of two programs, of 4 MB at most."""
    state = {"params": np.zeros(4_000_000, np.float32)}
    programs = {"sampler": Needs(1_000_000, 0), "update": Needs(3_000_000, 1_000_000)}
    findings = Findings()
    assert report_memory(findings, state, programs, Room(size, "of a toy")) is fits
    assert len(findings.problems) == (not fits)
    assert "0.02 GB of a device at most, in the update" in capsys.readouterr().out
    if not fits:
        assert "needs 0.02 GB" in findings.problems[0].what
        assert "--model.remat layers" in findings.problems[0].remedy


def test_a_device_that_does_not_tell_is_no_problem(capsys):
    findings = Findings()
    assert report_memory(findings, {}, {"update": Needs(5, 0)}, None)
    assert not findings.problems


def test_memory_is_spelled_in_sizes_that_can_be_read():
    assert (gigabytes(1.234e9), gigabytes(2.5e5)) == ("1.23 GB", "0.25 MB")


def test_the_machine_says_how_much_memory_is_free():
    found = memory.room()
    assert found is not None and 1e8 < found.size < 1e14


@pytest.mark.parametrize(
    ("scores", "name"),
    [
        ([0.5, 1.0], "list of float"),
        ([True, 0.5], "list of bool and float"),
        (np.zeros(2, np.int64), "ndarray of int64"),
    ],
    ids=str,
)
def test_what_a_reward_returned_is_named(scores, name):
    assert returned_type(scores) == name


def test_a_dry_run_reads_little():
    whole = PreferenceExperiment(steps=500, eval_batches=None, eval_every=50)
    short = shortened(whole)
    assert (short.steps, short.eval_batches, short.eval_every) == (2, 1, 0)
    assert dataclasses.replace(short, steps=500, eval_batches=None, eval_every=50) == whole
    assert shortened(PreferenceExperiment(eval_batches=0)).eval_batches == 0
