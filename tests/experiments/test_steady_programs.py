"""Runs after their first steps: nothing compiles any more, and updates take their state's place."""

import warnings

import jax
import pytest

from rljax.training.mesh import Placement
from rljax.training.writer import read_jsonl
from tests.experiments.conftest import REWARD, ROOT
from tests.records import write_records

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_programs")]
STEPS = 5


@pytest.fixture
def donations(monkeypatch):
    """Record of every program that is given its state: whether all of its arrays were taken."""
    found: list[tuple[int, int]] = []
    jit = Placement.jit

    def watched(self, function, **options):
        program = jit(self, function, **options)
        if "donate_argnums" not in options:
            return program

        def call(state, *rest):
            result = program(state, *rest)
            gone = [leaf.is_deleted() for leaf in jax.tree.leaves(state)]
            found.append((sum(gone), len(gone)))
            return result

        call.lower = program.lower
        return call

    monkeypatch.setattr(Placement, "jit", watched)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("steady")
    (folder / "reward.py").write_text(REWARD)
    write_records(folder)
    return folder


def flags(folder, name: str) -> dict[str, object]:
    """A run of 5 steps at the smallest size, saved at its end only."""
    common = {"steps": STEPS, "checkpoint-every": STEPS, "workdir": folder / name}
    if name in ("ppo", "grpo", "online_dpo"):
        group = name.replace("_", "-")
        return common | {
            "config": f"{ROOT}/configs/{name}_sentiment.py:smoke",
            "task.prompts": folder / "prompts.jsonl",
            "task.reward": f"{folder}/reward.py:score",
            "task.prompt-tokens": 8,
            "task.min-prompt-tokens": 4,
            "sampling.max-new-tokens": 6,
            f"{group}.batch-size": 8,
            f"{group}.num-minibatches": 1,
            "eval-prompts": 0,
        }
    config, group, data = {
        "sft": ("sft_sentiment", "sft", "texts"),
        "dpo": ("dpo_sentiment", "dpo", "pairs"),
        "reward_model": ("reward_model_sentiment", "reward-model", "pairs"),
    }[name]
    more = {"data.sequence-length": 32} if data == "texts" else {}
    return common | more | {
        "config": f"{ROOT}/configs/{config}.py:smoke",
        "data.source": folder / f"{data}.jsonl",
        f"{group}.batch-size": 4,
        "eval-batches": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["grpo", "ppo", "online_dpo", "sft", "dpo", "reward_model"],
)
def test_nothing_compiles_after_the_second_step(script, folder, donations, name):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Some donated buffers were not usable")
        given = flags(folder, name)
        script(name).main([part for k, v in given.items() for part in (f"--{k}", str(v))])
    counts = [
        row["perf/compile_count"]
        for row in read_jsonl(folder / name / "metrics.jsonl")
        if "perf/compile_count" in row
    ]
    assert len(counts) == STEPS and counts[0] > 0
    assert counts[1:] == counts[1:2] * (STEPS - 1)
    assert len(donations) == STEPS
    assert all(gone == total > 10 for gone, total in donations)
