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


def assert_shorter(speed, whole):
    for row, other in zip(speed, whole, strict=True):
        assert 0 < other["perf/token_fill"] < row["perf/token_fill"] <= 1
        assert row["perf/completion_slots"] < other["perf/completion_slots"] == 4


def test_critics_of_their_own_and_several_epochs(start):
    # a minibatch of equal scores, whitened twice, would be rounding errors of size 1
    changes = {"critic": "separate", "whiten_rewards": False, "whiten_advantages": False}
    (plain, whole), (short, speed) = (start("ppo", f"ppo-{n}", n, **changes) for n in (1, 3))
    assert_same_numbers(short, plain)
    assert_shorter(speed, whole)


def test_groups_fused_steps_and_a_resumed_run(start):
    """Nothing compiles after the first steps, whatever the lengths of the later ones."""
    (plain, whole), (short, speed) = (start("grpo", f"grpo-{n}", n) for n in (1, 3))
    assert_same_numbers(short, plain)
    assert_shorter(speed, whole)
    assert len({row["completion/length"] for row in plain}) > 2
    counts = [row["perf/compile_count"] for row in speed]
    assert counts[1:] == counts[1:2] * 3
    fused, fused_speed = start("grpo", "fused", 3, fused=2)
    assert_same_numbers(fused, plain)
    assert_shorter(fused_speed, whole)
    start("grpo", "parts", 3, steps=2)
    assert start("grpo", "parts", 3)[0] == short
