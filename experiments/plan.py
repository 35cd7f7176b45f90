"""Plan a training step for devices that are not here: memory, operations, traffic, time.

    python experiments/plan.py --model meta-llama/Llama-3.1-8B --mesh.fsdp 64 --chip h100
    python experiments/plan.py --model my-model/config.json --chip rtx4090 --lora.rank 16
    python experiments/plan.py --model Qwen/Qwen2.5-7B --algorithm grpo --dtype bfloat16 \\
        --mesh.fsdp 8 --batch 64 --json plan.json

The programs of experiments/ppo.py and experiments/grpo.py are compiled for so many virtual devices
with the shapes of arrays only: no weights are read or made. Deep models are compiled with few
layers at two depths, and the line through them continued, which is exact as all layers are alike.
The compiler is that of the CPU: another one's temporaries differ by what it fuses. Parameters in
bfloat16 are compiled in float32, their temporaries halved. The optimizer is Adam, as the scripts
make it. TFLOP are those of the compiled program (recomputation is in it), the formula's are not.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import tyro

from rljax.planning.config import PlanConfig
from rljax.planning.plan import make_plan
from rljax.planning.report import numbers, table
from rljax.reporting.files import write_json
from rljax.training.flags import plain_errors, validate


def environment(devices: int) -> dict[str, str]:
    """Return what makes a process see so many virtual devices: set before JAX looks for any."""
    flag = "--xla_force_host_platform_device_count"
    kept = [part for part in os.environ.get("XLA_FLAGS", "").split() if not part.startswith(flag)]
    return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join([*kept, f"{flag}={devices}"])}


def run_with_devices(arguments: list[str], devices: int) -> None:
    """Run this script again where there are so many devices; end as it ends."""
    wanted = os.environ | environment(devices)
    root = str(Path(__file__).resolve().parents[1])
    wanted["PYTHONPATH"] = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    code = subprocess.call([sys.executable, __file__, *arguments], env=wanted)
    if code:
        raise SystemExit(code)


def main(argv: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if argv is None else argv
    config = tyro.cli(PlanConfig, args=arguments, description=__doc__)
    with plain_errors():
        validate(config)
        needed = environment(config.mesh.size)
        if any(os.environ.get(name) != value for name, value in needed.items()):
            run_with_devices(arguments, config.mesh.size)
            return
        plan = make_plan(config)
        print(table(config, plan))
        if config.json is not None:
            write_json(Path(config.json), numbers(config, plan))


if __name__ == "__main__":
    main()
