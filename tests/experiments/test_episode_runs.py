"""Training in a text environment: what PPO and GRPO learn, and that a run resumes exactly."""

import json

import numpy as np
import pytest

from tests.conftest import numbers
from tests.experiments.conftest import ROOT

pytestmark = pytest.mark.slow  # whole runs, each with programs of its own to compile

ENVIRONMENT = """
import random

class Kind:
    '''Two turns: a letter is wanted after "a", and none after "1".'''

    def __init__(self, turns: int = 2):
        self.turns = turns

    def reset(self, *, seed):
        self.random, self.count = random.Random(seed), 0
        return self._ask(), {}

    def _ask(self):
        self.wanted = self.random.choice("a1")
        return self.wanted

    def step(self, text):
        right = float(text[:1].isalpha() == self.wanted.isalpha())
        self.count += 1
        return self._ask(), right, self.count == self.turns, False, {}
"""


@pytest.fixture(scope="module")
def start(tmp_path_factory, script):
    """Return a function that runs a script in the environment: its directory."""
    folder = tmp_path_factory.mktemp("acting")
    (folder / "kind.py").write_text(ENVIRONMENT)

    def run(name, workdir, **flags):
        given = {
            "config": f"{ROOT}/configs/{name}_sentiment.py:smoke",
            "workdir": folder / workdir,
            "environment.name": f"{folder}/kind.py:Kind",
            "environment.max-turns": 2,
            "environment.max-turn-tokens": 2,
            "environment.max-observation-tokens": 4,
            "environment.separator": " ",
            "sampling.max-new-tokens": 8,
            "sampling.temperature": 1.0,
            "prompt-multiple": 4,
            "optimizer.schedule": "constant",
        } | flags
        script(name).main([part for k, v in given.items() for part in (f"--{k}", str(v))])
        return folder / workdir

    return run


LEARNING = {
    "grpo": {"grpo.batch-size": 64, "grpo.samples-per-prompt": 8, "grpo.kl.coef": 0.001},
    "ppo": {"ppo.batch-size": 64, "ppo.kl.coef": 0.001, "ppo.gae-lambda": 0.9},
}


@pytest.mark.parametrize("name", LEARNING)
def test_it_learns_to_answer_the_last_observation(start, name):
    directory = start(
        name,
        name,
        **LEARNING[name],
        **{"steps": 60, "eval-prompts": 64, "optimizer.learning-rate": 0.003},
    )
    result = json.loads((directory / "result.json").read_text())
    assert result["score_before"]["mean"] < 1.4 and result["score_after"]["mean"] > 1.8
    rows = numbers(directory)
    steps = [row for row in rows if "episode/turns" in row]
    assert len(steps) == 60 and all(row["episode/turns"] == 2 for row in steps)
    assert all(row["episode/return"] == pytest.approx(row["objective/scores"]) for row in steps)
    assert max(row["health/sampler_logprob_gap"] for row in steps) < 1e-4
    compiled = [json.loads(line) for line in (directory / "metrics.jsonl").open()]
    counts = [row["perf/compile_count"] for row in compiled if "perf/compile_count" in row]
    assert counts[-1] == counts[2]
    judged = [row for row in rows if "eval/scores" in row]
    assert len(judged) == 2 and all(row["eval/episode/turns"] == 2 for row in judged)
    shown = json.loads((directory / "completions.jsonl").read_text().splitlines()[-1])
    assert shown["completion"].count("> ") == 2


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("grpo", {"grpo.batch-size": 8, "grpo.length-buckets": 2}),
        ("ppo", {"ppo.batch-size": 8, "ppo.critic": "separate", "ppo.samples-per-prompt": 2}),
    ],
)
def test_a_run_resumes_bit_for_bit(start, name, flags):
    few = flags | {"eval-prompts": 4, "checkpoint-every": 1}
    whole = start(name, f"{name}-whole", steps=3, **few)
    start(name, f"{name}-parts", steps=1, **few)
    parts = start(name, f"{name}-parts", steps=3, **few)

    def learnt(directory):
        return [row for row in numbers(directory) if "policy/loss" in row]

    assert learnt(whole) == learnt(parts) and len(learnt(whole)) == 3
    results = [json.loads((d / "result.json").read_text()) for d in (whole, parts)]
    assert results[0]["score_after"] == results[1]["score_after"]
    assert np.isfinite(results[0]["kl"])
