"""Policies side by side: intervals of a report's metrics, paired differences, tables."""

import time

import numpy as np
import pytest

from rljax.reporting.evaluations import (
    compare,
    describe_texts,
    print_comparison,
    report_intervals,
    short_names,
)
from rljax.reporting.statistics import bootstrap_mean, bootstrap_paired_difference
from rljax.tasks.evaluation import TextEvaluation
from rljax.tasks.language import Report


def accuracy(completions, columns):
    right = [t == a for t, a in zip(completions, columns["answer"], strict=True)]
    rare = [r for r, a in zip(right, columns["answer"], strict=True) if a == "rare"]
    metrics = {"accuracy": float(np.mean(right))}
    return Report(metrics | ({"recall_rare": float(np.mean(rare))} if rare else {}), "a table")


ANSWERS = ["a", "b"] * 50 + ["rare"]
WRITTEN = ["a"] * 100 + ["rare"]


def test_a_metric_of_all_examples_has_the_interval_of_its_resamples():
    found = report_intervals(accuracy, WRITTEN, {"answer": ANSWERS}, num_resamples=400)
    expected = bootstrap_mean([t == a for t, a in zip(WRITTEN, ANSWERS, strict=True)])
    assert found["accuracy"].mean == pytest.approx(expected.mean)
    assert found["accuracy"].low == pytest.approx(expected.low, abs=0.03)
    assert found["accuracy"].high == pytest.approx(expected.high, abs=0.03)
    assert "recall_rare" not in found  # some resamples hold no such example
    assert report_intervals(accuracy, WRITTEN, {"answer": ANSWERS}, num_resamples=0) == {}


def test_a_slow_report_has_no_intervals():
    calls = []

    def slow(completions, columns):
        calls.append(1)
        time.sleep(0.02)
        return Report({"x": 1.0})

    assert report_intervals(slow, ["a"], {}, num_resamples=100, limit_s=1.0) == {}
    assert len(calls) == 2  # the report itself, and the resample that was timed


def judged(scores, completions, **more):
    return TextEvaluation(
        prompts=["p", "q", "r"],
        completions=completions,
        scores=np.array(scores, np.float32),
        components={},
        **more,
    )


def test_policies_stand_side_by_side(capsys):
    results = {
        "rule": judged([0, 1, 0], ["x", "y", "y"], report=Report({"f1": 0.5}, "the table")),
        "model": judged([1, 1, np.nan], ["x x", "y", "z"], report=Report({"f1": 0.75})),
    }
    intervals = {"model": {"f1": bootstrap_mean([0.5, 1.0])}}
    found = compare(results, "rule", intervals)
    expected = bootstrap_paired_difference([0, 1, 0], [1, 1, np.nan])._asdict()
    assert found["differences"] == {"model": expected}
    assert found["results"]["rule"]["report/f1"] == 0.5
    assert found["results"]["model"]["report/f1"]["mean"] == 0.75
    assert found["completions"][2] == {
        "prompt": "r",
        "rule": {"completion": "y", "score": 0.0},
        "model": {"completion": "z", "score": None},
    }
    print_comparison(found, "three prompts", 1)
    out = capsys.readouterr().out
    assert "paired difference from rule" in out and "the table" in out and "f1" in out
    assert "'p'" in out and "'q'" not in out


def test_long_names_are_cut_and_stay_different():
    names = ["rule", "model:" + "x" * 60, "model:" + "x" * 61]
    short = short_names(names)
    assert list(short) == names and len(set(short.values())) == 3
    assert short["rule"] == "rule" and all(len(name) <= 42 for name in short.values())


def test_several_rewards_are_described_one_by_one():
    parts = {"a": np.array([1.0, 3.0]), "b": np.array([np.nan, 5.0]), "c": np.full(2, np.nan)}

    def describe(components):
        return describe_texts(
            TextEvaluation(
                prompts=["p", "q"],
                completions=["x y", "z"],
                scores=np.array([1.0, 3.0]),
                components=components,
            )
        )

    found = describe(parts)
    assert (found["rewards/a"]["mean"], found["rewards/b"]["mean"]) == (2.0, 5.0)
    assert "rewards/c" not in found  # it could judge nothing
    assert not any(key.startswith("rewards/") for key in describe({"a": parts["a"]}))
