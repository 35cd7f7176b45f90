"""Rewards in worker processes: whatever one completion does, the others get their scores."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import rljax
from rljax.rewards import RewardError, load_reward
from rljax.rewards.pool import RewardPool
from rljax.rewards.protocol import judge_texts

REWARD = '''
import os, re, signal, sys, time

LOADED = os.getpid()

def score(prompts, completions):
    """Do what the completion says."""
    assert isinstance(prompts, list) and isinstance(completions, list)
    (text,) = completions
    if text == "raise":
        raise KeyError("no such answer")
    if text == "exit":
        sys.exit(3)
    if text == "hang":
        time.sleep(1000)
    if text == "regex":  # holds the interpreter's lock
        re.match("(a+)+$", "a" * 60 + "b")
    if text == "die":
        os._exit(7)
    if text == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if text in ("nan", "inf"):
        return [float(text)]
    return {"none": [None], "two": [1, 2], "number": 1.0}.get(text) or [len(text) / 2]

def answer(prompts, completions, answer):
    return [len(p) + a for p, a in zip(prompts, answer)]

def state(prompts, completions):
    return [float("jax" in sys.modules) + 10 * (LOADED != os.getpid())]

def pid(prompts, completions):
    return [os.getpid()]
'''
BAD = {
    "raise": r"KeyError: 'no such answer' \(.*mine.py, line 11\)",
    "exit": "SystemExit: 3",
    "hang": r"no score after 0.5 seconds \(--task.reward-timeout-s\)",
    "regex": "no score after 0.5 seconds",
    "die": "the reward ended its process: exit code 7",
    "crash": "the reward ended its process: signal SIGSEGV",
    "nan": "the score is nan, not a finite float32",
    "inf": "the score is inf",
    "none": r"not a number: None \(NoneType\)",
    "two": "returned 2 scores for 1 completions",
    "number": "must return a list of numbers, got float",
}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("reward") / "mine.py"
    path.write_text(REWARD)
    return path


@pytest.fixture(scope="module")
def pool(file):
    made = RewardPool(
        [f"{file}:{name}" for name in ("score", "answer", "state", "pid")], workers=2, timeout_s=0.5
    )
    yield made
    made.close()


def judge(pool, completions, columns=None):
    prompts = ["p" * (i + 1) for i in range(len(completions))]
    return pool.judge(prompts, completions, [{}, {"answer": columns or [0] * 99}, {}, {}])


def test_bad_completions_cost_themselves_only(pool):
    completions = [text for bad in BAD for text in (bad, bad + "!!")]
    scores, answers, states, pids = judge(pool, completions, [0.5] * len(completions))
    good = np.arange(len(completions)) % 2 == 1
    assert scores.scores.dtype == np.float32
    np.testing.assert_array_equal(np.isfinite(scores.scores), good)
    expected = [len(text) / 2 for text in completions[1::2]]
    np.testing.assert_array_equal(scores.scores[good], expected)
    np.testing.assert_array_equal(answers.scores, np.arange(len(completions)) + 1.5)
    assert not answers.failures
    assert [failure.row for failure in scores.failures] == list(range(0, len(completions), 2))
    for bad, failure in zip(BAD, scores.failures, strict=True):
        with pytest.raises(AssertionError, match=BAD[bad]):
            raise AssertionError(failure.reason)
    assert np.all(states.scores == 0)  # no JAX in the workers, and they load once
    assert os.getpid() not in pids.scores


def test_processes_live_from_batch_to_batch(pool):
    before = {p for _ in range(5) for p in judge(pool, ["a"] * 8)[3].scores}
    assert len(before) <= 2
    worker = int(next(iter(before)))
    os.kill(worker, signal.SIGKILL)  # between batches: no completion is to blame
    while not any(one.connection.poll(0.01) for one in pool._workers):
        pass
    scores, *_, pids = judge(pool, ["a"] * 8)
    assert not scores.failures and worker not in pids.scores


def _is_zombie(pid: int) -> bool:
    return "\nState:\tZ" in (Path("/proc") / str(pid) / "status").read_text()


def test_inline_is_the_same_where_nothing_hangs(file):
    pool = RewardPool([f"{file}:answer"], workers=1, timeout_s=10)
    prompts, answers = ["a", "bb", "cc"], [1, "no number", float("nan")]
    inline = judge_texts(load_reward(f"{file}:answer"), prompts, [""] * 3, {"answer": answers})
    (apart,) = pool.judge(prompts, [""] * 3, [{"answer": answers}])
    np.testing.assert_array_equal(inline.scores, apart.scores)
    assert inline.failures == apart.failures
    pool.close()


def test_an_interrupted_batch_leaves_nothing_to_the_next(pool, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("rljax.rewards.pool.wait", lambda *args: (_ for _ in ()).throw(OSError()))
        with pytest.raises(OSError):
            judge(pool, ["aaaa", "bbbb", "cccc"])
    scores = judge(pool, ["a", "bb", "ccc"])[0].scores
    np.testing.assert_array_equal(scores, [0.5, 1.0, 1.5])


def test_what_cannot_start_says_why(tmp_path):
    path = tmp_path / "dies.py"
    path.write_text("import os\nos._exit(5)\n")
    with pytest.raises(RewardError, match=r"could not load.*dies.py.*exit code 5"):
        RewardPool([f"{path}:score"], workers=2, timeout_s=1)
    with pytest.raises(RewardError, match="cannot start: .*there is no file"):
        RewardPool([f"{tmp_path}/nowhere.py:score"], workers=1, timeout_s=1)


PARENT = """
import sys
from rljax.rewards.pool import RewardPool
pool = RewardPool([sys.argv[1] + ":" + name for name in ("score", "pid")], workers=3, timeout_s=99)
print(*(worker.process.pid for worker in pool._workers), flush=True)
pool.judge(["p"] * 2, sys.argv[2:4], [{}, {}])
"""


@pytest.mark.slow
@pytest.mark.parametrize("texts", [("hang", "regex"), ("fine", "fine")])
def test_no_process_outlives_its_parent(file, texts):
    environment = os.environ | {"PYTHONPATH": str(Path(rljax.__file__).parents[1])}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(file), *texts], stdout=subprocess.PIPE, env=environment
    )
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 3
    if "hang" in texts:
        time.sleep(0.5)
        parent.send_signal(signal.SIGKILL)
    parent.wait(timeout=30)
    deadline = time.monotonic() + 10
    while any(_runs(worker) for worker in workers):
        assert time.monotonic() < deadline, "a worker is left"
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return not _is_zombie(pid)
    except FileNotFoundError:
        return False
