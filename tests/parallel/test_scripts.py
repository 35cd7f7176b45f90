"""Every training script on 8 virtual devices: the numbers and completions of one device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import rljax
from rljax.training.writer import read_jsonl
from tests.records import write_records

pytestmark = pytest.mark.slow  # whole runs in processes of their own

ROOT = Path(rljax.__file__).parents[1]
REWARD = """
def score(prompts, completions):
    return [sum(char in "aeiou etn" for char in text) / 8 - 1 for text in completions]
"""
TOKEN_REWARD = """
from rljax.rewards import token_reward

@token_reward
def score(prompts, completions):
    return (completions.mask & (completions.tokens % 2 == 0)).sum(axis=1) / 8 - 1
"""
Flags = dict[str, Any]


def arguments(flags: Flags) -> list[str]:
    """Write flags for the command line; None is the value of one that takes none."""
    given = (
        [f"--{name}"] if value is None else [f"--{name}", str(value)]
        for name, value in flags.items()
    )
    return [part for parts in given for part in parts]


def mesh(data: int, fsdp: int, tensor: int) -> Flags:
    return {"mesh.data": data, "mesh.fsdp": fsdp, "mesh.tensor": tensor}


def run_jobs(jobs: list[tuple[str, Flags]], devices: int, cache: Path) -> None:
    """Run scripts in one process with so many devices."""
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": str(ROOT),
        "RLJAX_CACHE_DIR": str(cache),
    }
    result = subprocess.run(
        [sys.executable, Path(__file__).with_name("child.py")],
        input=json.dumps([(name, arguments(flags)) for name, flags in jobs]),
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]


def same_numbers(one: Path, many: Path, relative: float = 1e-4) -> None:
    """Compare all that two runs measured, but for times, and what they sampled."""
    first, second = (read_jsonl(path / "metrics.jsonl") for path in (one, many))
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        tied = abs(a.get("rewards/margin", 1.0)) < 1e-5  # by rounding who is right
        for name in a.keys() - {"step"} - ({"rewards/accuracy"} if tied else set()):
            if not name.startswith(("time/", "perf/")):
                assert b[name] == pytest.approx(a[name], rel=relative, abs=1e-5), (a["step"], name)
    rows = [read_jsonl(path / "completions.jsonl") for path in (one, many)]
    assert [row["completion"] for row in rows[0]] == [row["completion"] for row in rows[1]]


def nothing_recompiles(one: Path, many: Path) -> None:
    """The last step builds no more programs than it does on one device.

    The first checkpoint builds some: Orbax slices what stands on several devices, so that each
    writes a part of it.
    """
    growths = []
    for directory in (one, many):
        rows = read_jsonl(directory / "metrics.jsonl")
        counts = [row["perf/compile_count"] for row in rows if "perf/compile_count" in row]
        growths.append(counts[-1] - counts[-2])
    assert growths[1] <= growths[0]


def shared_out(directory: Path, ways: int, slack: float = 1.1) -> None:
    """Every device holds its share of parameters and optimizer; vectors may be whole."""
    for name, size in json.loads((directory / "shares.json").read_text()).items():
        assert size["devices"] == 8
        assert size["fullest"] <= slack * size["whole"] / ways, (name, size)
        if ways == 1:
            assert size["fullest"] == size["whole"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Data for every script."""
    folder = tmp_path_factory.mktemp("mesh")
    (folder / "reward.py").write_text(REWARD)
    (folder / "tokens.py").write_text(TOKEN_REWARD)
    write_records(folder)
    return folder


def on_policy(folder: Path, name: str) -> Flags:
    group = name.replace("_", "-")
    return {
        "config": f"{ROOT}/configs/{name}_sentiment.py:smoke",
        "task.prompts": folder / "prompts.jsonl",
        "task.reward": f"{folder}/reward.py:score",
        "task.prompt-tokens": 8,
        "task.min-prompt-tokens": 4,
        "task.held-out-fraction": 0.3,
        "sampling.max-new-tokens": 8,
        f"{group}.batch-size": 16,
        "optimizer.learning-rate": 0.003,
        "steps": 3,
        "checkpoint-every": 1,
        "eval-prompts": 10,
    }


def supervised(folder: Path, name: str) -> Flags:
    config, group, data = {
        "sft": ("sft_sentiment", "sft", "texts"),
        "pretrain": ("pretrain_reviews", "sft", "texts"),
        "dpo": ("dpo_sentiment", "dpo", "pairs"),
        "reward_model": ("reward_model_sentiment", "reward-model", "pairs"),
    }[name]
    more: Flags = {"data.sequence-length": 32} if data == "texts" else {}
    return more | {
        "config": f"{ROOT}/configs/{config}.py:smoke",
        "data.source": folder / f"{data}.jsonl",
        "data.held-out-fraction": 0.2,
        f"{group}.batch-size": 8,
        "eval-batches": 2,
        "checkpoint-every": 2,
        "steps": 4,
    }


def compare(
    folder: Path,
    name: str,
    base: Flags,
    meshes: list[tuple[int, int, int]],
    slack: float = 1.3,
) -> None:
    """Run a script on one device and on meshes of 8, and compare.

    slack: how much more than its share a device holds with `tensor`: 259 tokens are not even, so
    that embeddings are whole there.
    """
    label = f"{name}-{len(list(folder.iterdir()))}"
    jobs = [(name, base | {"workdir": folder / f"{label}-one"})]
    jobs += [(name, base | {"workdir": folder / f"{label}-{m}"} | mesh(*m)) for m in meshes]
    run_jobs(jobs, 8, folder / "cache")
    for sizes in meshes:
        many = folder / f"{label}-{sizes}"
        same_numbers(folder / f"{label}-one", many)
        nothing_recompiles(folder / f"{label}-one", many)
        shared_out(many, sizes[1] * sizes[2], slack=1.1 if sizes[2] == 1 else slack)


def test_ppo(folder):
    compare(folder, "ppo", on_policy(folder, "ppo"), [(1, 8, 1), (2, 2, 2)])


def test_ppo_with_adapters_and_a_critic_of_its_own(folder):
    more = {"lora.rank": 4, "ppo.critic": "separate", "ppo.num-minibatches": 1}
    more |= {"ppo.gradient-accumulation": 2}
    # of the two halves of an adapter `tensor` shares out one
    compare(folder, "ppo", on_policy(folder, "ppo") | more, [(2, 2, 2)], slack=1.7)


def test_ppo_under_an_action_mask(folder):
    config = {"config": f"{ROOT}/configs/ppo_sentiment.py:smoke-nlpo"}
    compare(folder, "ppo", on_policy(folder, "ppo") | config, [(2, 4, 1)])


def test_grpo_with_a_moving_reference(folder):
    more = {"grpo.samples-per-prompt": 4, "grpo.ref-sync-every": 1, "grpo.dynamic-sampling": 1}
    compare(folder, "grpo", on_policy(folder, "grpo") | more, [(2, 2, 2)])


def test_grpo_sampled_ahead_of_its_rewards(folder):
    more = {"grpo.samples-per-prompt": 4, "grpo.importance-cap": 2.0, "overlap": None}
    compare(folder, "grpo", on_policy(folder, "grpo") | more, [(2, 2, 2)])


def test_fused_steps(folder):
    more = {"task.reward": f"{folder}/tokens.py:score", "fused-steps": 2, "checkpoint-every": 10}
    more |= {"grpo.samples-per-prompt": 4, "steps": 5}
    compare(folder, "grpo", on_policy(folder, "grpo") | more, [(4, 2, 1)])


def test_online_dpo(folder):
    compare(folder, "online_dpo", on_policy(folder, "online_dpo"), [(2, 2, 2)])


def test_sft(folder):
    more = {"sft.gradient-accumulation": 2}
    compare(folder, "sft", supervised(folder, "sft") | more, [(1, 4, 2)])


def test_pretrain(folder):
    compare(folder, "pretrain", supervised(folder, "pretrain"), [(2, 2, 2)])


def test_reward_model(folder):
    compare(folder, "reward_model", supervised(folder, "reward_model"), [(2, 4, 1)])


def test_every_script_in_bfloat16(folder):
    """Masters are shared out as in float32, and what is measured is near float32's."""
    names = ("sft", "pretrain", "reward_model", "dpo")
    jobs = [(name, on_policy(folder, name)) for name in ("ppo", "grpo", "online_dpo")]
    jobs += [(name, supervised(folder, name)) for name in names]
    teacher = {"config": f"{ROOT}/configs/pretrain_arithmetic.py:smoke", "steps": 1}
    run_jobs([("pretrain", teacher | {"workdir": folder / "half-teacher"})], 1, folder / "cache")
    jobs.append((
        "distill",
        {
            "config": f"{ROOT}/configs/distill_arithmetic.py:smoke", "distill.batch-size": 8,
            "teacher.source": folder / "half-teacher", "teacher.dtype": "bfloat16",
        },
    ))  # fmt: skip
    half: Flags = {"model.dtype": "bfloat16"} | mesh(2, 2, 2)
    run_jobs(
        [(name, base | half | {"workdir": folder / f"half-{name}"}) for name, base in jobs]
        + [(name, base | {"workdir": folder / f"full-{name}"}) for name, base in jobs],
        8,
        folder / "cache",
    )
    for name, _ in jobs:
        shared_out(folder / f"half-{name}", 4, slack=1.3)
        first, *_ = read_jsonl(folder / f"half-{name}" / "metrics.jsonl")
        full, *_ = read_jsonl(folder / f"full-{name}" / "metrics.jsonl")
        assert first.keys() == full.keys()
        for key in ("eval/loss", "eval/score", "eval/kl"):
            if key in full:
                assert first[key] == pytest.approx(full[key], rel=0.05, abs=0.05), (name, key)


@pytest.mark.parametrize("variant, sizes", [("smoke", (2, 2, 2)), ("smoke-kto", (8, 1, 1))])
def test_dpo(folder, variant, sizes):
    config = {"config": f"{ROOT}/configs/dpo_sentiment.py:{variant}"}
    compare(folder, "dpo", supervised(folder, "dpo") | config, [sizes])


def test_distill(folder):
    """The teacher has another size; half of the batches are the student's own."""
    teacher = {"config": f"{ROOT}/configs/pretrain_arithmetic.py:smoke", "steps": 1}
    run_jobs([("pretrain", teacher | {"workdir": folder / "teacher"})], 1, folder / "cache")
    base = {"config": f"{ROOT}/configs/distill_arithmetic.py:smoke", "distill.batch-size": 8}
    compare(folder, "distill", base | {"teacher.source": folder / "teacher"}, [(2, 2, 2)])
