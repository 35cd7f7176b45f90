"""A run and its reference judged on the same prompts: the numbers that the run itself found."""

import json

import numpy as np
import pytest

LANGUAGE_TASK = """
import dataclasses
from rljax.tasks.language import Example, LanguageTask, Report

NAMES = ("zero", "one", "two", "three")

class Rule:
    def act(self, observations):
        return [str(NAMES.index(text.split()[-1])) for text in observations]

@dataclasses.dataclass(frozen=True)
class Digits(LanguageTask):
    def examples(self):
        return [
            Example(f"case {i} {name}", str(NAMES.index(name)),
                    split="held_out" if i % 4 == 0 else "train")
            for i in range(40) for name in NAMES
        ]

    def reward(self, prompts, completions, answer):
        return [float(text == right) for text, right in zip(completions, answer)]

    def report(self, completions, columns):
        right = [t == a for t, a in zip(completions, columns["answer"])]
        return Report({"accuracy": sum(right) / len(right)}, f"the table of {len(right)}")

    def baselines(self, train):
        return {"rule": Rule()}
"""


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
    rule = ["--policy", "random"]
    assert "against is 'rule'; it must be one of" in fails("evaluate", *rule, "--against", "rule")
    assert "give --policy" in fails("evaluate", *run, "--against", "rule")
    assert "names one twice" in fails("evaluate", *rule, "random", *run)
    assert "task.prompt_tokens 16 are those of a model" in fails("evaluate", *rule)
    assert "random learns from right answers" in fails("evaluate", *run, *rule)
    model = ["--policy", "model?temperature=-1"]
    assert "temperature is -1.0; it must be >= 0" in fails("evaluate", *run, *model)
    assert "'run' needs a directory" in fails("evaluate", *run, "--policy", "run")


def test_policies_side_by_side(script, report, tiny_run, tmp_path, capsys):
    own = tmp_path / "own.py"
    own.write_text("def vowels(prompts):\n    return ['aeiou'] * len(prompts)\n")
    file = tmp_path / "report.json"
    names = [f"{own}:vowels", "reference", "model", "model?temperature=0", "template?text=a"]
    argv = ["--run", str(tiny_run.directory), "--json", str(file), "--policy", *names]
    script("evaluate").main([*argv, "--against", "reference"])
    found = json.loads(file.read_text())
    assert list(found["results"]) == names and found["against"] == "reference"
    assert found["results"][names[0]]["score"]["mean"] == pytest.approx(5 / 8 - 1)
    # The same texts as where policy and reference are judged with their KL.
    for side, name in (("policy", "model"), ("reference", "reference")):
        texts = [row[name]["completion"] for row in found["completions"]]
        assert texts == [row[side]["completion"] for row in report["completions"]]
    assert found["differences"]["model"] == pytest.approx(report["difference"], abs=1e-6)
    greedy = [row["model?temperature=0"]["completion"] for row in found["completions"]]
    assert greedy != [row["model"]["completion"] for row in found["completions"]]
    assert "paired difference from reference" in capsys.readouterr().out


def test_a_language_task_without_any_model(script, tmp_path, capsys):
    pytest.importorskip("rank_bm25")
    (tmp_path / "digits.py").write_text(LANGUAGE_TASK)
    file = tmp_path / "report.json"
    flags = {
        "task.prompts": f"{tmp_path}/digits.py:Digits",
        "task.reward": "task",
        "task.prompt-tokens": "None",
        "num-prompts": 20,
        "json": file,
    }
    argv = [part for k, v in flags.items() for part in (f"--{k}", str(v))]
    script("evaluate").main([*argv, "--policy", "random", "retrieval", "rule"])
    found = json.loads(file.read_text())
    assert found["results"]["rule"]["score"]["mean"] == 1.0
    assert found["results"]["retrieval"]["report/accuracy"]["mean"] == 1.0
    low = found["results"]["random"]["report/accuracy"]
    assert low["low"] <= low["mean"] <= low["high"] < 1
    assert found["differences"]["rule"]["low"] > 0
    assert "the table of 20" in capsys.readouterr().out
