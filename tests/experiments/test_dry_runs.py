"""--dry-run of every training script: what it says, that it writes nothing, and what it refuses."""

import contextlib
import re

import pytest

from rljax.doctor.memory import Room
from tests.experiments.conftest import REWARD, ROOT
from tests.records import write_records

pytestmark = pytest.mark.usefixtures("quick_programs")
slow = pytest.mark.slow
POLICIES = ("grpo", "ppo", "online_dpo")
SUPERVISED = ("sft", "pretrain", "dpo", "reward_model", "distill")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, cache):
    folder = tmp_path_factory.mktemp("dry")
    (folder / "reward.py").write_text(
        REWARD
        + """
def constant(prompts, completions):
    return [0.5] * len(completions)

def broken(prompts, completions):
    return [float("nan") for _ in completions]
"""
    )
    write_records(folder)
    return folder


def flags(folder, name: str) -> dict[str, object]:
    """The smallest run of a script; what it would write goes into a directory that is not there."""
    common = {"workdir": folder / "run"}
    if name in POLICIES:
        return common | {
            "config": f"{ROOT}/configs/{name}_sentiment.py:smoke",
            "task.prompts": folder / "prompts.jsonl",
            "task.reward": f"{folder}/reward.py:score",
            "task.prompt-tokens": 8,
            "task.min-prompt-tokens": 4,
            "task.held-out-fraction": 0.3,
            "sampling.max-new-tokens": 6,
            f"{name.replace('_', '-')}.batch-size": 8,
        }
    kinds = {"dpo": "pairs", "reward_model": "pairs"}
    config = {"pretrain": "pretrain_arithmetic", "distill": "distill_arithmetic"}.get(
        name, f"{name}_sentiment"
    )
    more = {"reward_model": {"reward-model.normalise-samples": 40}}.get(name, {})
    return (
        common
        | {
            "config": f"{ROOT}/configs/{config}.py:smoke",
            "data.source": folder / f"{kinds.get(name, 'texts')}.jsonl",
            "data.held-out-fraction": 0.2,
        }
        | more
    )


@pytest.fixture
def dry_run(script, folder, capsys, monkeypatch):
    """Return a function that makes a script's dry run: its exit code and what it printed."""
    monkeypatch.chdir(folder)

    def run(name: str, **changes: object) -> tuple[int, str]:
        given = flags(folder, name) | {k.replace("__", "."): v for k, v in changes.items()}
        arguments = [part for flag, value in given.items() for part in (f"--{flag}", str(value))]
        before = sorted(folder.rglob("*"))
        code = 0
        try:
            script(name).main([*arguments, "--dry-run"])
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        assert [p for p in sorted(folder.rglob("*")) if "__pycache__" not in p.parts] == [
            p for p in before if "__pycache__" not in p.parts
        ]
        assert "Traceback" not in captured.err
        return code, captured.out

    return run


@slow
@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_script_says_what_it_would_do(dry_run, name):
    code, text = dry_run(name)
    assert code == 0 and text.rstrip().endswith("verdict: ready"), text
    assert re.search(r"optimizer\.learning_rate +\d", text)
    assert re.search(r"model +random:tiny-llama: [\d,]+ parameters; [\d,]+ are trained", text)
    assert re.search(r"the longest of \d+ has 8 tokens; with 6 of a completion 14 of a", text)
    assert re.search(r"memory +[\d.]+ [GM]B of a device at most", text)
    assert "8 of 8 completions (reward.score: list of float" in text
    assert re.search(r"ends +'.*': \d of 8 completions ended", text)
    assert re.search(r"agreement +sampler and learner: largest difference (0|\S+e-\d+) nats", text)
    assert re.search(r"time +[\d.]+ s a step, measured on one real step", text)


@slow
@pytest.mark.parametrize("name", SUPERVISED)
def test_a_supervised_script_says_what_it_would_do(dry_run, folder, script, name, tmp_path):
    more = {}
    if name == "distill":
        config = f"{ROOT}/configs/pretrain_arithmetic.py:smoke"
        teacher = tmp_path / "teacher"
        script("pretrain").main(["--config", config, "--workdir", str(teacher), "--steps", "1"])
        more = {"teacher.source": teacher, "data.source": "arithmetic:30"}
    code, text = dry_run(name, **more)
    assert code == 0 and text.rstrip().endswith("verdict: ready"), text
    assert re.search(r"model +[\d,]+ parameters; [\d,]+ are trained", text)
    longest = "the longest prompt has" if name in ("dpo", "reward_model") else "the longest has"
    assert longest in text
    assert re.search(r"memory +[\d.]+ [GM]B of a device at most", text)
    assert re.search(r"time +[\d.]+ s a step, measured on one real step after a first one", text)
    assert "ends " in text
    if name == "reward_model":
        assert re.search(r"rewards +of \d+ completions \(float32\): [+-]\d", text)
    if name == "distill":
        assert "update, batch of kind 2" in text and "completion/truncated_fraction" in text


@slow
@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"task__reward": "reward.py:constant"}, "have the score 0.5: nothing can be learnt"),
        ({"task__reward": "reward.py:broken"}, "gave no finite number for 8 of 8 completions"),
        (
            {"sampling__min-new-tokens": 6, "alarms__truncated": 0.5},
            "no completion of 6 tokens can end",
        ),
    ],
    ids=["constant", "nan", "endless"],
)
def test_what_stands_in_the_way_is_listed_with_a_remedy(dry_run, changes, problem):
    code, text = dry_run("grpo", **changes)
    assert code == 1 and "verdict: not ready" in text
    listed = text.partition("verdict: not ready")[2]
    assert problem in listed and re.search(r"\n  1\. ", listed)


@slow
def test_too_little_memory_is_said_before_anything_runs(dry_run, monkeypatch):
    monkeypatch.setattr("rljax.doctor.policy.room", lambda: Room(1e5, "of a toy"))
    code, text = dry_run("grpo")
    assert code == 1
    assert "of 0.1 MB of a toy" in text and "--model.remat layers" in text
    assert "rewards  " not in text


def test_bad_data_is_a_problem_and_not_the_end(dry_run, folder):
    code, text = dry_run("grpo", task__prompts="nowhere.jsonl")
    assert code == 1 and "verdict: not ready, 1 to put right" in text and "nowhere.jsonl" in text
    code, text = dry_run("sft", data__source="nowhere.jsonl")
    assert code == 1 and "nowhere.jsonl" in text


@slow
def test_fused_steps_are_measured_as_such(dry_run):
    code, text = dry_run(
        "grpo", **{"fused-steps": 3}, task__prompts="arithmetic:20",
        task__reward="partial_match_tokens", **{"task__prompt-tokens": "None"},
    )  # fmt: skip
    assert "fused steps" in text and "measured on two fused steps after a first one" in text
    assert code in (0, 1)  # a random model may answer nothing right


def test_the_flag_is_explained(script, capsys):
    with pytest.raises(SystemExit):
        script("grpo").main(["--help"])
    assert "--dry-run makes no run" in " ".join(capsys.readouterr().out.split())


@slow
def test_episodes_are_played(script, capsys):
    """Two turns of a game; whether a random model ever wins is not the point."""
    config = f"{ROOT}/configs/tasks/guess_number.py:smoke"
    with contextlib.suppress(SystemExit):
        script("grpo").main(["--config", config, "--grpo.batch-size", "8", "--dry-run"])
    text = capsys.readouterr().out
    assert "conversations fill" in text and re.search(r"time +[\d.]+ s a step", text)
