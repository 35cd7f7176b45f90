"""A run and its reference judged on the same prompts: the numbers that the run itself found."""

import json

import numpy as np
import pytest

from rljax.tasks.evaluation import Evaluation


@pytest.fixture(scope="module")
def report(script, tiny_run, tmp_path_factory):
    file = tmp_path_factory.mktemp("evaluate") / "report.json"
    script("evaluate").main(["--run", str(tiny_run.directory), "--json", str(file)])
    return json.loads(file.read_text())


def test_the_run_is_judged_as_it_judged_itself(report, tiny_run):
    expected = json.loads((tiny_run.directory / "result.json").read_text())
    results = report["results"]
    assert results["policy"]["score"] == pytest.approx(expected["score_after"], abs=1e-6)
    assert results["reference"]["score"] == pytest.approx(expected["score_before"], abs=1e-6)
    assert report["difference"] == pytest.approx(expected["change"], abs=1e-6)
    assert results["policy"]["kl"]["mean"] == pytest.approx(expected["kl"], abs=1e-4)
    assert results["policy"]["kl"]["mean"] != 0 and results["reference"]["kl"]["mean"] == 0
    assert report["prompts"] == expected["prompts"] == 10
    assert report["step"] == 2


def test_every_completion_is_in_the_report(report):
    rows = report["completions"]
    assert len(rows) == 10
    for side in ("policy", "reference"):
        of_side = [row[side] for row in rows]
        summary = report["results"][side]
        assert np.mean([row["score"] for row in of_side]) == pytest.approx(summary["score"]["mean"])
        assert np.mean([row["tokens"] for row in of_side]) == pytest.approx(summary["length"])
        assert np.mean([row["ended"] for row in of_side]) == pytest.approx(summary["eos_fraction"])
        assert all(row["ended"] or row["tokens"] == 8 for row in of_side)


def test_several_rewards_are_described_one_by_one(script):
    module = script("evaluate")
    parts = {"a": np.array([1.0, 3.0]), "b": np.array([np.nan, 5.0]), "c": np.full(2, np.nan)}
    made = {"prompts": ["p", "q"], "completions": ["x y", "z"], "lengths": np.array([2, 1])}

    def describe(components):
        evaluation = Evaluation(
            **made, scores=np.array([1.0, 3.0]), components=components, kl=np.zeros(2)
        )
        return module.describe(module.Judged(evaluation, np.ones(2, bool)), with_kl=False)

    found = describe(parts)
    assert (found["rewards/a"]["mean"], found["rewards/b"]["mean"]) == (2.0, 5.0)
    assert "rewards/c" not in found  # it could judge nothing
    assert not any(key.startswith("rewards/") for key in describe({"a": parts["a"]}))


def test_table_and_examples(script, tiny_run, capsys):
    argv = ["--run", str(tiny_run.directory), "--checkpoint", "1", "--num-prompts", "6"]
    script("evaluate").main([*argv, "--examples", "2"])
    out = capsys.readouterr().out
    assert f"policy: step 1 of {tiny_run.directory}" in out
    assert "reference: random:tiny-llama" in out and "6 held-out prompts" in out
    assert "score, paired difference" in out and "distinct-2" in out
    assert out.count(" is a '\n") == 2


@pytest.mark.slow
def test_a_model_without_a_run(script, tiny_run, tmp_path, capsys):
    file = tmp_path / "new" / "report.json"
    flags = {
        "model": "random:tiny-llama",
        "task.prompts": tiny_run.prompts,
        "task.reward": tiny_run.reward,
        "task.held-out-fraction": 0.3,
        "sampling.max-new-tokens": 8,
        "num-prompts": 5,
        "json": file,
    }
    argv = [part for k, v in flags.items() for part in (f"--{k}", str(v))]
    script("evaluate").main(argv)
    report = json.loads(file.read_text())
    assert set(report["results"]) == {"policy"} and "difference" not in report
    assert "kl" not in report["results"]["policy"]
    assert "KL" not in capsys.readouterr().out
    script("evaluate").main([*argv, "--reference", "random:tiny-llama"])
    report = json.loads(file.read_text())
    assert report["difference"] == {"mean": 0, "low": 0, "high": 0}
    assert report["results"]["policy"]["kl"]["mean"] == pytest.approx(0, abs=1e-4)


def test_what_is_wrong_is_said(fails, tiny_run, tmp_path):
    run = ["--run", tiny_run.directory]
    assert "is no run directory" in fails("evaluate", "--run", tmp_path)
    assert "no checkpoint of step 9" in fails("evaluate", *run, "--checkpoint", 9)
    assert "num_prompts is 99, but only" in fails("evaluate", *run, "--num-prompts", 99)
    assert "no prompt is held out" in fails("evaluate", *run, "--task.held-out-fraction", 0)
    assert "give one of --model" in fails("evaluate")
