"""What is read back of runs: exact curves, costs, and what is not a run."""

import json
import time

import numpy as np
import pytest

from rljax.errors import UserError
from rljax.reporting.runs import differing, flat_config, read_run
from rljax.training.writer import MetricsWriter


@pytest.fixture
def run(tmp_path):
    """A run of 3 steps, with an evaluation before and after."""
    config = {"seed": 3, "workdir": str(tmp_path), "ppo": {"clip_eps": 0.2}, "rewards": ["a"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with MetricsWriter(tmp_path) as writer:
        writer.scalars(0, {"eval/scores": 0.1})
        for step in (1, 2, 3):
            seconds = {1: 5.0, 2: 1.0, 3: 1.5}[step]
            values = {
                "objective/scores": step / 3,
                "value/loss": float("nan") if step == 2 else -float("inf"),
                "time/rollout_s": seconds * 0.25,
                "time/update_s": seconds * 0.75,
                "perf/tokens_per_s": 60 / seconds,
                "perf/compile_count": 7,
            }
            writer.scalars(step, values)
        writer.scalars(3, {"eval/scores": 0.7})
        writer.completions(3, [{"prompt": "p", "completion": "é\u2028", "score": float("nan")}])
    return tmp_path


def test_curves_come_back_bit_for_bit(run):
    record = read_run(run)
    assert record.metrics["objective/scores"].values.tolist() == [1 / 3, 2 / 3, 1.0]
    assert record.metrics["objective/scores"].steps.tolist() == [1, 2, 3]
    assert record.metrics["eval/scores"].steps.tolist() == [0, 3]
    np.testing.assert_array_equal(record.metrics["value/loss"].values, [-np.inf, np.nan, -np.inf])
    assert record.seed == 3 and record.last_step == 3
    assert record.completions[0]["completion"] == "é\u2028"
    assert np.isnan(record.completions[0]["score"])


def test_what_a_run_took(run):
    cost = read_run(run).cost
    assert cost.seconds == pytest.approx(7.5) and cost.step_s == pytest.approx(1.5)
    assert cost.tokens == pytest.approx(180) and cost.tokens_per_s == pytest.approx(40)
    assert cost.compile_s == pytest.approx(5.0 - 1.25)  # beyond the median of the later steps
    assert cost.programs == 7
    assert cost.parts == {"rollout": pytest.approx(1.875), "update": pytest.approx(5.625)}


def test_a_whole_step_is_not_counted_twice(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.scalars(1, {"time/step_s": 2.0, "time/data_s": 0.5, "perf/tokens_per_s": 10.0})
        writer.scalars(2, {"time/step_s": 1.0, "time/data_s": 0.5, "perf/tokens_per_s": 20.0})
    cost = read_run(tmp_path).cost
    assert (cost.seconds, cost.tokens) == (3.0, 40.0)


def test_a_run_without_times_has_no_cost(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.scalars(1, {"loss": 2.0})
    cost = read_run(tmp_path).cost
    assert np.isnan([cost.seconds, cost.tokens, cost.step_s, cost.compile_s, cost.programs]).all()


def test_a_killed_run_is_read_without_its_half_line(run):
    for name in ("metrics.jsonl", "completions.jsonl"):
        with (run / name).open("a") as file:
            file.write('{"step": 4, "objective/sco')
    record = read_run(run)
    assert record.last_step == 3 and len(record.completions) == 1


def test_what_is_not_a_run_is_said(run, tmp_path):
    with pytest.raises(UserError, match="nowhere is not there: give the directory of a run"):
        read_run(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match=r"other holds no metrics.jsonl"):
        read_run(tmp_path / "other")
    (tmp_path / "other" / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="is empty: the run has not ended its first step"):
        read_run(tmp_path / "other")
    for line, message in {
        '{"step": 1, "a": [1]}': r"a is \[1\], not a number",
        '{"a": 1}': "line 1: step is None, not a whole number",
        "[1]\n[2]": "line 1 is not JSON .a list, not an object",
    }.items():
        (tmp_path / "other" / "metrics.jsonl").write_text(line + "\n")
        with pytest.raises(UserError, match=message):
            read_run(tmp_path / "other")
    (run / "config.json").write_text("[]")
    with pytest.raises(UserError, match=r"config.json is a list, not an object"):
        read_run(run)


def test_a_missing_metric_names_its_neighbours(run):
    with pytest.raises(UserError, match="no metric 'objective/score'; there are objective/scores"):
        read_run(run).series("objective/score")


def test_only_what_differs_is_listed(run, tmp_path):
    first = read_run(run)
    other = tmp_path / "other"
    other.mkdir()
    (other / "metrics.jsonl").write_text('{"step": 1, "a": 1}\n')
    changed = first.config | {"seed": 4, "ppo": {"clip_eps": 0.3, "gamma": 1.0}}
    (other / "config.json").write_text(json.dumps(changed | {"workdir": "elsewhere"}))
    records = [flat_config(record) for record in (first, read_run(other))]
    assert differing(records) == ["seed", "ppo.clip_eps", "ppo.gamma"]
    assert differing(records, ignore=["seed"]) == ["ppo.clip_eps", "ppo.gamma"]
    assert differing(records[:1]) == []


def test_long_runs_are_read_fast(tmp_path):
    """10,000 steps of 60 tags, 13 MB: under a second here; the bound is for slow, busy machines."""
    values = np.random.default_rng(0).normal(size=(10_000, 60))
    tags = [f"group{i % 6}/metric_{i}" for i in range(60)]
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for step, row in enumerate(values.tolist(), start=1):
            file.write(json.dumps({"step": step, **dict(zip(tags, row, strict=True))}) + "\n")
    started = time.process_time()
    record = read_run(tmp_path)
    assert time.process_time() - started < 5
    np.testing.assert_array_equal(record.metrics[tags[7]].values, values[:, 7])
