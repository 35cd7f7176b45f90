"""Runs whose completions are computed in few widths: the numbers of the whole width."""

import dataclasses
import functools

import pytest

from rljax.training.optimizer import OptimizerConfig
from rljax.training.writer import read_jsonl
from tests.experiments.conftest import unoptimised
from tests.training.fused_cases import METHODS, assert_same_numbers, make_experiment, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def quick_programs():
    """Every second token ends a completion, so that lengths differ."""
    ends = "rljax.training.setup.stop_token_ids"
    with unoptimised(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(ends, lambda *unused: tuple(range(0, 4096, 2)))
        yield


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Run a method and return its numbers and what it says of its speed."""
    make = functools.partial(make_experiment, tmp_path_factory.mktemp("buckets"))

    def started(method, workdir, widths, fused=0, steps=4, **changes):
        algorithm = dataclasses.replace(
            METHODS[method], batch_size=8, gradient_accumulation=2, length_buckets=widths,
            **changes,
        )  # fmt: skip
        field = "ppo" if method == "ppo" else "grpo"
        config = make(method, workdir, steps=steps, fused_steps=fused, **{field: algorithm})
        sampling = dataclasses.replace(config.sampling, max_new_tokens=4)
        constant = OptimizerConfig(learning_rate=0.01, schedule="constant")
        config = dataclasses.replace(config, sampling=sampling, optimizer=constant)
        return run(config), read_jsonl(f"{config.workdir}/metrics.jsonl")

    return started


# A minibatch of equal scores, whitened twice, would be rounding errors of size 1.
PPO = {"critic": "separate", "whiten_rewards": False, "whiten_advantages": False}


@pytest.mark.parametrize("method, changes", [("ppo", PPO), ("grpo", {}), ("remax", {})])
def test_a_run_has_the_numbers_of_the_whole_width(start, method, changes):
    plain, whole = start(method, f"{method}-1", 1, **changes)
    short, speed = start(method, f"{method}-3", 3, **changes)
    assert_same_numbers(short, plain)
    assert len({row["completion/length"] for row in plain}) > 2
    for row, other in zip(speed, whole, strict=True):
        assert 0 < other["perf/token_fill"] < row["perf/token_fill"] <= 1
        assert row["perf/completion_slots"] < other["perf/completion_slots"] == 4
    counts = [row["perf/compile_count"] for row in speed]
    assert counts[1:] == counts[1:2] * 3  # whatever the lengths of the next steps


def test_fused_steps_choose_widths_too(start):
    plain, _ = start("grpo", "loop", 3)
    fused, speed = start("grpo", "fused", 3, fused=2)
    assert_same_numbers(fused, plain)
    assert all(row["perf/completion_slots"] < 4 for row in speed)


def test_a_run_resumes_bit_for_bit(start):
    whole, _ = start("ppo", "whole", 3)
    start("ppo", "parts", 3, steps=2)
    parts, _ = start("ppo", "parts", 3)
    assert parts == whole
