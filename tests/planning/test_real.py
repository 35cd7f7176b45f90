"""Plans against real runs at small size: the memory of the programs that training ran."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import rljax
from tests.parallel.test_scripts import REWARD

ROOT = Path(rljax.__file__).parents[1]

CASES: dict[str, tuple[str, int, dict[str, Any], dict[str, Any]]] = {
    "ppo": ("ppo", 1, {"ppo.num-minibatches": 2}, {"minibatches": 2}),
    "own critic on 8": (
        "ppo",
        8,
        {"mesh.data": 2, "mesh.fsdp": 4, "ppo.critic": "separate", "ppo.num-minibatches": 1},
        {"mesh.data": 2, "mesh.fsdp": 4, "critic": "separate"},
    ),
    "grpo on 8": (
        "grpo",
        8,
        {
            "mesh.fsdp": 4, "mesh.tensor": 2, "model.remat": "layers", "model.scan-layers": True,
            "grpo.samples-per-prompt": 4, "lora.rank": 2, "grpo.num-minibatches": 1,
        },
        {
            "mesh.fsdp": 4, "mesh.tensor": 2, "remat": "layers", "scan-layers": True, "group": 4,
            "algorithm": "grpo", "lora.rank": 2,
        },
    ),
}  # fmt: skip
"""Name -> script, devices, its flags, those of the plan."""


def arguments(flags: dict[str, Any]) -> list[str]:
    out = []
    for name, value in flags.items():
        out += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return out


def run(command: list[str], devices: int) -> str:
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    made = subprocess.run(
        [sys.executable, *command], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stdout[-2000:] + made.stderr[-4000:]
    return made.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_memory_is_that_of_the_programs_that_training_runs(tmp_path, name):
    script, devices, real_flags, plan_flags = CASES[name]
    (tmp_path / "reward.py").write_text(REWARD)
    prompts = [json.dumps({"prompt": f"{i:02d} is a prompt"}) for i in range(60)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(prompts) + "\n")
    real_flags = {
        "task.prompts": tmp_path / "prompts.jsonl",
        "task.reward": f"{tmp_path}/reward.py:score",
        "task.prompt-tokens": 8,
        "task.min-prompt-tokens": 4,
        "sampling.max-new-tokens": 16,
        "eval-prompts": 0,
        f"{script}.batch-size": 16,
        f"{script}.num-epochs": 2,
    } | real_flags
    real = json.loads(
        run(["-m", "tests.planning.real", script, *arguments(real_flags)], devices).splitlines()[-1]
    )
    plan_flags = {
        "model": "random:tiny-llama",
        "batch": 16,
        "prompt": real["prompt"],
        "new": 16,
        "epochs": 2,
        "json": tmp_path / "plan.json",
    } | plan_flags
    run(["experiments/plan.py", *arguments(plan_flags)], 1)
    plan = json.loads((tmp_path / "plan.json").read_text())
    for part, size in real["state"].items():
        assert plan["state_bytes"][part] == pytest.approx(size, rel=0.01), part
    for program, sizes in real["programs"].items():
        planned = plan["programs"][program]
        assert planned["temporary"] == pytest.approx(sizes["temporary"], rel=0.15), program
        total = sum(real["state"].values()) + sum(sizes.values())
        assert planned["peak_bytes"] == pytest.approx(total, rel=0.15), program
