"""The per-device programs on 8 virtual devices, against one device and against jax.pmap."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import rljax

ROOT = Path(rljax.__file__).parents[1]


def check(*names: str, module: str = "eight") -> None:
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    result = subprocess.run(
        [sys.executable, "-m", f"tests.parallel.{module}", *names],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0 and result.stdout.endswith("ok\n"), result.stderr[-4000:]


@pytest.mark.slow
def test_the_sampler_of_each_device_ends_by_itself():
    check("sampler")


@pytest.mark.slow
def test_the_update_is_that_of_one_device_and_of_pmap():
    check("update")


@pytest.mark.slow
def test_short_widths_change_no_number_on_a_mesh():
    check("buckets")
