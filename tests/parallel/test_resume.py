"""A run that was saved under one mesh goes on under another, and its policy is found by others."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from rljax.training.trained import load_trained
from rljax.training.writer import read_jsonl
from tests.parallel.test_scripts import folder as folder
from tests.parallel.test_scripts import (
    mesh,
    on_policy,
    run_jobs,
    same_numbers,
    shared_out,
    supervised,
)

pytestmark = pytest.mark.slow  # whole runs in processes of their own


@pytest.mark.parametrize("name", ["grpo", "sft"])
def test_a_run_goes_on_under_another_mesh(folder, name):
    """Saved on 8 devices, resumed on 1 and on 2 x 4; each reads what the other wrote."""
    base = on_policy(folder, "grpo") if name == "grpo" else supervised(folder, name)
    base |= {"optimizer.schedule": "constant", "steps": 4, "checkpoint-every": 1}
    begun, whole = folder / f"{name}-begun", folder / f"{name}-whole"
    run_jobs(
        [
            (name, base | {"workdir": begun, "steps": 2} | mesh(1, 8, 1)),
            (name, base | {"workdir": whole}),
        ],
        8,
        folder / "cache",
    )
    shared_out(begun, 8)
    places = {"one": mesh(1, 1, 1), "many": mesh(2, 4, 1), "tensor": mesh(2, 2, 2)}
    for place in places:
        shutil.copytree(begun, folder / f"{name}-{place}")
    jobs = [(name, base | {"workdir": folder / f"{name}-{p}"} | m) for p, m in places.items()]
    run_jobs(jobs, 8, folder / "cache")
    expected = load_trained(whole).pretrained.params
    for place in places:
        directory = folder / f"{name}-{place}"
        if name == "grpo":
            same_numbers(whole, directory)
        else:  # an evaluation stands at the end of the first part, too
            lasts = [read_jsonl(path / "metrics.jsonl")[-1] for path in (whole, directory)]
            assert lasts[1]["eval/loss"] == pytest.approx(lasts[0]["eval/loss"], rel=1e-4)
        trained = load_trained(directory)
        assert trained.step == 4
        found = trained.pretrained.params["layers"]["0"]["mlp"]["up"]["kernel"]
        np.testing.assert_allclose(
            found, expected["layers"]["0"]["mlp"]["up"]["kernel"], rtol=1e-3, atol=1e-5
        )
