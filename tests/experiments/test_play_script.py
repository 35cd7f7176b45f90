"""Playing environments with scripted policies: what is shown, measured and written."""

import json

import pytest

from experiments import play
from rljax.tasks.documents import DocumentConfig, read_documents

SOURCE = """
import random

class Coin:
    def reset(self, *, seed):
        self.side = random.Random(seed).choice(["heads", "tails"])
        self.left = 3
        return f"toss {seed}", {}
    def step(self, text):
        self.left -= 1
        right = text == self.side
        over = right or not self.left
        return "no", float(right), over, False, {"metrics": {"right": float(right)}}
    def scripted(self, noise):
        def guess(messages, rng):
            return rng.choice(["heads", "tails"]) if rng.random() < noise else "heads"
        return {"heads": guess}

class Silent(Coin):
    scripted = None

class Endless(Coin):
    def step(self, text):
        return "on", 0.0, False, False, {}
"""


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "coin.py"
    path.write_text(SOURCE)
    return f"{path}:Coin"


def run(*arguments: str) -> None:
    play.main(list(arguments))


def test_what_is_measured_and_written(spec, tmp_path, capsys):
    out, numbers = tmp_path / "made" / "talks.jsonl", tmp_path / "n.json"
    run(
        "--environment", spec, "--policy", "heads", "--noise", "0.5", "--episodes", "40",
        "--split", "train", "--out", str(out), "--min-score", "1", "--json", str(numbers),
    )  # fmt: skip
    shown = capsys.readouterr().out
    assert "heads: 40 episodes, train, noise 0.5" in shown and "> heads  [+" in shown
    measured = json.loads(numbers.read_text())["heads"]
    mean, low, high = measured["right"]
    assert low < mean < high and measured["turns"][0] > 1
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(records) == round(40 * mean) and all(r["score"] >= 1 for r in records)
    assert all(r["seed"] >= 1_000_000 for r in records)
    read = read_documents(DocumentConfig(str(out), held_out_fraction=0.0)).train
    assert read[0].kind == "messages" and len(read) == len(records)


def test_episodes_are_the_same_and_start_where_told(spec, tmp_path):
    seen = []
    for first, episodes in (("0", "4"), ("2", "2")):
        out = tmp_path / f"{first}.jsonl"
        run(
            "--environment", spec, "--policy", "heads", "--noise", "1", "--out", str(out),
            "--episodes", episodes, "--first", first,
        )  # fmt: skip
        seen.append(out.read_text().splitlines())
    assert seen[0][2:] == seen[1] and json.loads(seen[0][0])["seed"] == 0


@pytest.mark.parametrize(
    ("change", "arguments", "problem"),
    [
        ("Coin", ["--policy", "tails"], "Coin has no policy 'tails'; it has .'heads'."),
        ("Silent", ["--policy", "heads"], "Silent offers no policies"),
        ("Endless", ["--policy", "heads"], "the episode of seed 0 has not ended after 1000"),
        ("Coin", ["--policy", "heads", "--noise", "2"], "noise is 2.0; it must be in"),
        ("Coin", ["--policy", "heads", "--episodes", "0"], "episodes must be at least 1"),
        ("Coin", ["--policy", "heads", "heads", "--out", "x"], "--out writes one policy's"),
        ("Coin", ["--policy", "heads", "--min-score", "1"], "give --out"),
        ("Coin", ["--policy", "heads", "--min-score", "9", "--out", "x"], "nothing to write"),
    ],
)
def test_what_is_wrong_is_named(spec, change, arguments, problem, capsys):
    import re

    with pytest.raises(SystemExit):
        run("--environment", spec.replace("Coin", change), *arguments)
    assert re.search(problem, capsys.readouterr().err)
