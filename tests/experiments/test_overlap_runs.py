"""Whole runs that sample ahead of slow rewards: the same numbers, resumed exactly, and faster."""

import json

import numpy as np
import pytest

from rljax.training.writer import read_jsonl
from tests.conftest import numbers
from tests.experiments.conftest import ROOT

pytestmark = pytest.mark.slow  # whole runs, each with programs of its own to compile

REWARD = """
import pathlib
import time

def score(prompts, completions):
    return [sum(map(ord, text)) % 97 / 48 - 1 for text in completions]

def slow(prompts, completions):
    time.sleep({seconds})
    return score(prompts, completions)

def absent(prompts, completions):
    if pathlib.Path("{folder}/absent").exists():
        raise ValueError("no judge is here")
    return score(prompts, completions)
"""
SLEEP = 1.5  # several times what the devices have to do meanwhile
AHEAD = {"overlap": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Prompts and rewards."""
    folder = tmp_path_factory.mktemp("overlap")
    rows = [{"prompt": f"{i:02d} is a prompt"} for i in range(60)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "reward.py").write_text(REWARD.format(seconds=SLEEP, folder=folder))
    return folder


@pytest.fixture(scope="module")
def start(folder, script, quick_programs):
    """Return a function that runs a script for a few tiny steps: its directory."""

    def run(name, workdir, **flags):
        group = name.replace("_", "-")
        given = {
            "config": f"{ROOT}/configs/{name}_sentiment.py:smoke",
            "workdir": folder / workdir,
            "task.prompts": folder / "prompts.jsonl",
            "task.reward": f"{folder}/reward.py:score",
            "task.prompt-tokens": 8,
            "task.min-prompt-tokens": 4,
            "sampling.max-new-tokens": 6,
            "steps": 3,
            "checkpoint-every": 1,
            "eval-prompts": 0,
            "optimizer.learning-rate": 0.01,
            "optimizer.schedule": "constant",
        } | flags
        if name != "online_dpo":
            given[f"{group}.importance-cap"] = 2.0
        overlap = ["--overlap"] if given.pop("overlap", False) else []
        arguments = [part for k, v in given.items() for part in (f"--{k}", str(v))]
        script(name).main(arguments + overlap)
        return folder / workdir

    return run


def steps_of(directory) -> list[dict]:
    return [row for row in read_jsonl(directory / "metrics.jsonl") if "policy/loss" in row]


@pytest.mark.parametrize("name", ["ppo", "online_dpo"])
def test_a_policy_that_stands_still_is_sampled_alike(start, name):
    """At a rate too small to change a float32 the batch of a step ago is the batch of this one."""
    still = {"optimizer.learning-rate": 1e-30}
    one = steps_of(start(name, f"{name}-still", **still))
    other = steps_of(start(name, f"{name}-still-ahead", **still, **AHEAD))
    assert [row.pop("health/staleness") for row in other] == [0, 1, 1]
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for metric in a:  # the weights are computed in another program, and round otherwise
            near = pytest.approx(a[metric], rel=1e-4, abs=1e-5)
            assert b[metric] == near or metric.startswith(("time/", "perf/")), metric


def test_a_run_that_goes_on_learns_the_batch_that_was_sampled(start):
    sync = {"ppo.ref-sync-every": 2}
    start("ppo", "parts", **AHEAD, **sync, steps=2)
    parts = start("ppo", "parts", **AHEAD, **sync, steps=4)
    whole = start("ppo", "whole", **AHEAD, **sync, steps=4)
    assert numbers(parts) == numbers(whole)
    texts = [(run / "completions.jsonl").read_bytes() for run in (parts, whole)]
    assert texts[0] == texts[1]
    rows = steps_of(whole)
    assert [row["health/staleness"] for row in rows] == [0, 1, 1, 1]
    assert abs(rows[0]["importance/weight_mean"] - 1) < 1e-5 and rows[0]["importance/kl"] < 1e-8
    for row in rows[1:]:
        assert row["importance/kl"] > 1e-6 and row["importance/ratio_max"] > 1.001
    plain = steps_of(start("ppo", "plain", **sync, steps=2))
    assert plain[0]["policy/loss"] == rows[0]["policy/loss"]  # batch 0 is the same, batch 1 is not
    assert plain[1]["policy/loss"] != rows[1]["policy/loss"]


def test_a_reward_that_fails_loses_no_batch(start, folder):
    """Before the first update too: what was sampled ahead waits in the checkpoint."""
    reward = {"task.reward": f"{folder}/reward.py:absent"}
    whole = start("ppo", "present", **AHEAD, **reward)
    (folder / "absent").touch()
    with pytest.raises(SystemExit):
        start("ppo", "absent-at-times", **AHEAD, **reward)
    (folder / "absent").unlink()
    assert numbers(start("ppo", "absent-at-times", **AHEAD, **reward)) == numbers(whole)


def test_sampling_hides_behind_the_rewards(start, folder):
    """Of the sampling nothing is left to wait for where the rewards take longer."""
    reward = {"task.reward": f"{folder}/reward.py:slow"}
    large = {"grpo.batch-size": 32, "sampling.max-new-tokens": 32, "steps": 6} | reward
    medians = []
    for name, flags in (("after", {}), ("ahead", AHEAD)):
        rows = steps_of(start("grpo", name, **large, **flags))[2:]
        parts = {p: [row[f"time/{p}_s"] for row in rows] for p in ("rollout", "reward", "update")}
        medians.append({p: float(np.median(seconds)) for p, seconds in parts.items()})
        assert medians[-1]["reward"] >= SLEEP
    after, ahead = medians
    assert ahead["rollout"] < 0.6 * after["rollout"], medians
    assert ahead["reward"] < 1.3 * SLEEP  # nothing of it has moved there
