"""Runs that explore: fused and not, resumed, evaluated without it, and refused where senseless."""

import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rljax
from rljax.algorithms import grpo
from rljax.errors import UserError
from rljax.rollout.exploration import ExplorationConfig
from rljax.training.fused_runs import run_fused
from rljax.training.optimizer import OptimizerConfig
from rljax.training.writer import read_jsonl
from tests.experiments.conftest import unoptimised
from tests.training.fused_cases import METHODS, assert_same_numbers, make_experiment, run, setup_of

EXPLORE = ExplorationConfig(
    temperature_start=1.6, top_p_start=0.8, epsilon=0.3, epsilon_end=0.1, decay_steps=3
)
STEERED = {"entropy_coef": 0.01, "target_entropy": 2.0}
CHANGES = {
    "exploration": EXPLORE,
    "grpo": dataclasses.replace(METHODS["grpo"], importance_cap=2.0, **STEERED),
    "optimizer": OptimizerConfig(learning_rate=0.01, schedule="constant"),
    "eval_prompts": 3,
}
slow = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def quick_programs():
    with unoptimised():
        yield


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exploring")
    return functools.partial(make_experiment, folder, "grpo")


@pytest.fixture(scope="module")
def plain(make):
    config = make("plain", **CHANGES)
    return config, run(config)


def trained(rows):
    return [row for row in rows if "policy/loss" in row]


@slow
def test_the_sampling_of_every_step_is_what_the_schedule_says(plain):
    """Sampler and learner agree at every step, and no program is compiled again."""
    config, rows = plain
    steps = trained(rows)
    shares = np.minimum(np.arange(6) / 3, 1)
    for name, start, end in (("temperature", 1.6, 1.0), ("top_p", 0.8, 1.0), ("epsilon", 0.3, 0.1)):
        found = [row[f"exploration/{name}"] for row in steps]
        np.testing.assert_allclose(found, (1 - shares) * start + shares * end, rtol=1e-6)
    assert all(row["health/sampler_logprob_gap"] < 1e-4 for row in steps)
    assert abs(steps[0]["objective/kl"]) < 1e-5
    weights = [row["importance/ratio_max"] for row in steps]
    assert all(1 < x <= 1 / 0.7 + 1e-5 for x in weights)
    coefs = [row["objective/entropy_coef"] for row in steps]
    assert coefs[0] == pytest.approx(0.01) and len(set(coefs)) == 6
    counts = [
        row["perf/compile_count"]
        for row in read_jsonl(f"{config.workdir}/metrics.jsonl")
        if "policy/loss" in row
    ]
    assert counts[1] == counts[-1]


@slow
def test_the_fused_program_has_the_same_numbers(make, plain):
    assert_same_numbers(run(make("fused", fused_steps=4, **CHANGES)), plain[1])


@slow
def test_a_run_goes_on_bit_for_bit(make, plain):
    run(make("parts", steps=4, **CHANGES))
    assert run(make("parts", **CHANGES)) == plain[1]
    run(make("chunks", steps=4, fused_steps=2, checkpoint_every=4, **CHANGES))
    whole = run(make("fused_whole", fused_steps=2, checkpoint_every=4, **CHANGES))
    assert run(make("chunks", fused_steps=2, checkpoint_every=4, **CHANGES)) == whole


@slow
def test_evaluations_do_not_explore(make, plain):
    """The first one is that of a run without: same policy, noise, temperature and KL."""
    usual = run(make("usual", eval_prompts=3, steps=1))
    first, explored = usual[0], plain[1][0]
    assert first["step"] == explored["step"] == 0
    names = ("eval/scores", "eval/kl", "eval/length")
    assert [first[name] for name in names] == [explored[name] for name in names]


@slow
def test_many_runs_of_one_program_have_settings_of_their_own(make, plain):
    config = make("many", **{**CHANGES, "eval_prompts": 0})
    numbers = {"exploration.temperature_start": (0.5, 1.6), "grpo.target_entropy": (1.0, 2.0)}
    runs = run_fused(config, grpo.make_update, "none", numbers=numbers)
    expected = trained(plain[1])
    assert runs.settings[-1]["exploration.temperature_start"] == 1.6
    for name in ("objective/scores", "policy/loss", "exploration/temperature", "objective/kl",
                 "objective/entropy_coef", "importance/ratio_max"):  # fmt: skip
        script = [row[name] for row in expected]
        np.testing.assert_allclose(runs.metrics[name][-1], script, rtol=1e-3, atol=2e-6)
    scores = runs.metrics["policy/loss"]
    assert len({tuple(row) for row in scores}) == 4


def test_what_cannot_be_is_said_before_a_model_is_loaded(make):
    def fails(problem, **changes):
        with pytest.raises(UserError, match=problem):
            setup_of(make(**changes))

    fails("exploration.epsilon samples from another policy.*importance_cap",
          exploration=ExplorationConfig(epsilon=0.1))  # fmt: skip
    weighted = dataclasses.replace(METHODS["grpo"], importance_cap=2.0)
    fails("overlap does not go with exploration", overlap=True, grpo=weighted,
          exploration=ExplorationConfig(temperature_start=2.0))  # fmt: skip
    fails(
        "decay_steps is 6", exploration=dataclasses.replace(EXPLORE, decay_steps=6), grpo=weighted
    )


@slow
def test_more_entropy_than_there_is_is_refused(make):
    too_much = dataclasses.replace(METHODS["grpo"], entropy_coef=0.1, target_entropy=20.0)
    with pytest.raises(UserError, match="target_entropy is 20.0 nats, but tokens of a vocabulary"):
        setup_of(make(grpo=too_much))


CHILD = """
import dataclasses, sys
from pathlib import Path
import jax
from rljax.algorithms import grpo
from rljax.training.mesh import MeshConfig, open_mesh
from rljax.training.on_policy import train
from rljax.training.run import open_run
from rljax.training.setup import OnPolicy
from tests.conftest import numbers
from tests.training.fused_cases import assert_same_numbers, make_experiment
from tests.training.test_exploration_runs import CHANGES

jax.config.update("jax_disable_most_optimizations", True)
rows = {}
for devices in (1, 2):
    mesh = MeshConfig(data=devices)
    config = make_experiment(Path(sys.argv[1]), "grpo", f"on{devices}", **CHANGES)
    config = dataclasses.replace(config, steps=4, eval_prompts=4, mesh=mesh)
    with open_run(config.workdir, config) as directory:
        train(OnPolicy(config, grpo.make_update, "none", open_mesh(mesh)), directory)
    rows[devices] = numbers(Path(config.workdir))
assert_same_numbers(rows[2], rows[1], rtol=2e-3)
"""


@slow
def test_devices_share_the_rows_of_a_run_that_explores(tmp_path):
    root = Path(rljax.__file__).parents[1]
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "PYTHONPATH": str(root)
    }  # fmt: skip
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
