"""Tables of a report: final values, claims, what differs, and the cost."""

import json

import pytest

from rljax.reporting.contents import contents_of_runs, contents_of_sweep, final_value
from rljax.reporting.page import page
from rljax.reporting.runs import read_run, read_sweep
from rljax.reporting.tables import Table, duration, interval, number, table_markdown
from tests.reporting.fake_runs import write_run


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (-0.12345, "−0.123"), (0.5, "0.5"), (12.345, "12.3"), (12345.6, "12,346"),
        (1.5e-5, "1.5e-5"), (2e7, "2e7"), (float("nan"), "–"), (None, "–"),
        (float("-inf"), "−∞"), (100.0, "100"), (-0.0, "0"), (999.6, "1,000"), (0.001, "0.001"),
    ],
)  # fmt: skip
def test_numbers_are_spelt_short(value, text):
    assert number(value) == text


def test_intervals_and_times_are_spelt():
    assert interval(0.5, 0.4, 0.65) == "0.5 [0.4, 0.65]"
    assert interval(0.5, None, None) == "0.5" == interval(0.5, 0.5, 0.5)
    assert [duration(s) for s in (0.123, 48, 200.4, 7500)] == [
        "0.123 s", "48 s", "3 min 20 s", "2 h 5 min"
    ]  # fmt: skip


@pytest.fixture
def records(tmp_path):
    """Two seeds of one config, the second of which ends 1 higher, and a run of another script."""
    for seed in (0, 1):
        rows = {
            step: {
                "objective/scores": float(step <= 18) * 9 + (step > 18) * (2 + seed),
                "eval/scores": 0.1 * step + seed,
                "time/rollout_s": 1.0 + seed, "time/update_s": 3.0, "perf/tokens_per_s": 10.0,
            }
            for step in range(1, 21)
        }  # fmt: skip
        change = {"change": {"mean": 0.2 + seed, "low": 0.1, "high": 0.3}}
        config = {"ppo": {"clip_eps": 0.2}, "steps": 20}
        write_run(tmp_path / f"ppo{seed}", seed=seed, config=config, rows=rows, result=change)
    rows = {1: {"train/loss": 2.5}}
    write_run(tmp_path / "sft", config={"sft": {"batch_size": 4}, "steps": 1}, rows=rows)
    return [read_run(tmp_path / name) for name in ("ppo0", "ppo1", "sft")]


def test_final_values_are_the_last_tenth_and_the_last_evaluation(records):
    assert final_value(records[1], "objective/scores") == 3.0  # steps 19 and 20
    assert final_value(records[0], "eval/scores") == pytest.approx(2.0)
    made = contents_of_runs(records)
    assert made.results.header == ("metric", "clip_eps=0.2, steps=20", "sft")
    assert made.results.rows == (
        ("held-out change", "0.7 [0.2, 1.2]", "–"), ("eval/scores", "2.5 [2, 3]", "–"),
        ("objective/scores", "2.5 [2, 3]", "–"), ("train/loss", "–", "2.5"),
    )  # fmt: skip


def test_only_what_differs_is_told_and_shared_fields_come_first(records):
    table = contents_of_runs(records).config
    assert table.header[0] == "field"
    assert table.rows == (
        ("algorithm", "ppo", "sft"), ("steps", "20", "1"), ("algorithm.clip_eps", "0.2", "–"),
        ("algorithm.batch_size", "–", "4"),
    )  # fmt: skip
    assert contents_of_runs(records[:2]).config is None


def test_the_cost_is_the_mean_over_runs(records):
    (row, other) = contents_of_runs(records).cost.rows
    header = contents_of_runs(records).cost.header
    told = dict(zip(header, row, strict=True))
    assert (told["runs"], told["steps took"], told["median step"]) == ("2", "90 s", "4.5 s")
    assert (told["rollout"], told["update"], told["tokens"]) == ("32%", "68%", "900")
    assert dict(zip(header, other, strict=True))["steps took"] == "–"


def test_alarms_are_told_with_when_and_what_they_may_mean(tmp_path):
    for seed in (0, 1):
        rows = {
            step: {"health/alarm_truncated": float(seed and step in (3, 4)), "health/alarms": 1.0}
            for step in (1, 2, 3, 4)
        }
        write_run(tmp_path / f"a-{seed}", seed=seed, rows=rows)
    records = [read_run(tmp_path / f"a-{seed}") for seed in (0, 1)]
    ((*told, meaning),) = contents_of_runs(records).alarms.rows
    assert told == ["truncated", "a", "1 of 2", "3", "2"] and "too little room" in meaning
    assert contents_of_runs(records[:1]).alarms is None


@pytest.fixture
def swept(tmp_path):
    for arm in ("a", "b"):
        write_run(tmp_path / "cells" / arm / "seed0", config={"arm": arm})
    bounds = {"mean": 1.0, "mean_low": 0.5, "mean_high": 1.5, "iqm": 1.1}
    claim = {
        "text": "a | b <script>", "metric": "score", "left": "a", "relation": ">", "right": "b",
        "verdict": "not reproduced", "difference": -0.5, "low": -1.0, "high": 0.25,
        "margin_used": 0.0, "probability_of_improvement": 0.25, "note": "",
    }  # fmt: skip
    results = {
        "name": "pair",
        "arms": {"a": {}, "b": {}},
        "metrics": {
            "score": {
                "a": {"values": [0.5, 0.5, 1.5, 1.5], **bounds},
                "b": {"values": [None], "mean": None, "mean_low": None, "mean_high": None},
            }
        },
        "claims": [claim],
    }
    (tmp_path / "sweep.json").write_text(json.dumps({"name": "pair", "arms": {"a": {}}}))
    (tmp_path / "results.json").write_text(json.dumps(results))
    return read_sweep(tmp_path)


def test_a_sweep_brings_its_own_metrics_and_verdicts(swept):
    made = contents_of_sweep(swept)
    assert made.title == "pair"
    assert made.results.rows == (("a", "1 [0.5, 1.5] · IQM 1.1"), ("b", "–"))
    assert made.claims.rows == (
        ("a | b <script>", "✗ not reproduced", "score: a > b", "−0.5 [−1, 0.25]", "0", "0.25"),
    )
    ((name, finals),) = made.finals
    assert name == "score" and [(row.label, row.low) for row in finals] == [("a", 0.5)]


def test_markdown_shows_what_models_wrote_as_it_is(swept):
    text = table_markdown(contents_of_sweep(swept).claims)
    row = next(line for line in text.splitlines() if "script" in line)
    assert "<script>" not in row and row.count("|") == 7
    wide = Table("t", ("held-out", "b|c"), (("x\ny", "1.5 [1, 2]"), ("_a_ b", "[b](c)")), "note")
    assert table_markdown(wide).splitlines()[2:6] == [
        "| held-out | b&#124;c |", "| --- | ---: |", "| x<br>y | 1.5 [1, 2] |",
        "| &#95;a&#95; b | &#91;b&#93;&#40;c&#41; |",
    ]  # fmt: skip


def test_results_that_were_kept_need_no_runs(swept, tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "results.json").write_text((swept.directory / "results.json").read_text())
    made = contents_of_sweep(read_sweep(kept))
    assert made.results == contents_of_sweep(swept).results and made.claims is not None
    assert made.cost is None and not made.sections and "runs are not here" in made.facts
    assert "Claims" in page(made) and "<h2>Curves" not in page(made)
