"""Many runs in one program: each has the numbers of its own script's run."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rljax
from rljax.algorithms import grpo, ppo
from rljax.errors import UserError
from rljax.traced import check, set_numbers
from rljax.training.fused_runs import NUMBERS, Runs, run_fused
from tests.experiments.conftest import unoptimised
from tests.training.fused_cases import METHODS, make_experiment, run

slow = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def quick_programs():
    with unoptimised():
        yield


def run_of(runs: Runs, index: int) -> dict[str, np.ndarray]:
    """A run's metrics, without what the script reports of its speed (`fused_cases.run`)."""
    metrics = {name: values[index] for name, values in runs.metrics.items()}
    return {name: values for name, values in metrics.items() if not name.startswith("perf/")}


def assert_close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], rtol=1e-3) -> None:
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], rtol, 2e-6, err_msg=name)


@slow
@pytest.mark.parametrize("over", ["vmap", "map"])
def test_a_run_has_the_numbers_of_the_script(tmp_path, over):
    """Two seeds, rates and temperatures; the script is run with the last of each."""
    config = make_experiment(tmp_path, "grpo", "script", steps=4)
    numbers = {"optimizer.learning_rate": (0.001, 0.01), "sampling.temperature": (0.5, 1.0)}
    runs = run_fused(config, grpo.make_update, "none", seeds=(3, 5), numbers=numbers, over=over)
    assert len(runs.settings) == 8
    assert runs.settings[-1] == {
        "seed": 5, "optimizer.learning_rate": 0.01, "sampling.temperature": 1.0
    }  # fmt: skip
    rows = run(dataclasses.replace(config, seed=5))
    script = {name: np.array([row[name] for row in rows]) for name in rows[0] if name != "step"}
    assert_close(run_of(runs, -1), script)
    scores = runs.metrics["objective/scores"]
    assert scores.shape == (8, 4) and len({tuple(row) for row in scores}) == 8
    np.testing.assert_array_equal(scores[2:4, 0], scores[6:8, 0])  # the rate acts later
    state = runs.state(-1)
    assert int(state.step) == 4 and state.params["policy"]["embed"]["embedding"].ndim == 2


@slow
def test_every_number_of_ppo_acts_as_its_flag_does(tmp_path):
    """Runs that differ in one number differ; one of them is the static program with its flags."""
    method = dataclasses.replace(METHODS["ppo"], batch_size=4, clip_eps_high=0.3, ref_sync_every=0)
    config = make_experiment(tmp_path, "ppo", steps=2, ppo=method)
    config = set_numbers(config, {"optimizer.critic_learning_rate": 0.02})
    pairs = {
        "ppo.clip_eps": (1e-3, 0.2), "ppo.clip_eps_high": (1e-3, 0.3), "ppo.gamma": (0.5, 1.0),
        "ppo.gae_lambda": (0.0, 0.95), "ppo.value_coef": (1.0, 0.1), "ppo.kl.coef": (1.0, 0.1),
        "ppo.value_clip_eps": (1e-4, 0.2), "optimizer.critic_learning_rate": (0.1, 0.02),
    }  # fmt: skip
    runs = run_fused(config, ppo.make_update, "shared", numbers=pairs)
    usual = {name: second for name, (_, second) in pairs.items()}

    def index(**changed: float) -> int:
        return runs.settings.index({"seed": 0} | usual | changed)

    heads = np.asarray(runs.states.params["value_head"]["kernel"])
    kernels = np.asarray(runs.states.params["policy"]["layers"]["0"]["mlp"]["up"]["kernel"])
    for name, (first, _) in pairs.items():
        one, other = index(), index(**{name: first})
        same = [np.array_equal(x[one], x[other]) for x in (heads, kernels)]
        assert not all(same), name
    changed = {"ppo.clip_eps": 1e-3, "ppo.gamma": 0.5}
    static = run_fused(set_numbers(config, usual | changed), ppo.make_update, "shared")
    assert_close(run_of(runs, index(**changed)), run_of(static, 0))


def test_what_cannot_be_run_is_said_before_anything_is_compiled(tmp_path):
    config = make_experiment(tmp_path, "grpo")

    def fails(problem, config=config, **arguments):
        with pytest.raises(UserError, match=problem):
            run_fused(config, grpo.make_update, "none", **arguments)

    fails("at least one seed", seeds=())
    fails("grpo.num_epochs cannot differ.*grpo.clip_eps", numbers={"grpo.num_epochs": (1, 2)})
    fails("ppo.gamma cannot differ", numbers={"ppo.gamma": (1.0,)})
    fails("sampling.temperature cannot differ.*no values", numbers={"sampling.temperature": ()})
    fails("clip_eps is -1.0; it must be positive", numbers={"grpo.clip_eps": (0.1, -1.0)})
    fails("learning_rate must be positive", numbers={"optimizer.learning_rate": (0.0,)})
    fails("temperature is 0", numbers={"sampling.temperature": (0.0,)})
    fails("judges texts", make_experiment(tmp_path, "grpo", reward="text"))
    dynamic = dataclasses.replace(METHODS["grpo"], dynamic_sampling=1)
    buckets = dataclasses.replace(METHODS["grpo"], length_buckets=2)
    fails("length_buckets is 2.*take over='map'", make_experiment(tmp_path, "grpo", grpo=buckets))
    fails("no dynamic_sampling", make_experiment(tmp_path, "grpo", grpo=dynamic))


def test_the_named_numbers_exist_and_rules_hold_for_plain_ones(tmp_path):
    experiments = {name: make_experiment(tmp_path, name) for name in ("ppo", "grpo")}
    for name in NUMBERS:
        owner = name.partition(".")[0]
        set_numbers(experiments.get(owner, experiments["ppo"]), {name: 0.5})
    with pytest.raises(ValueError, match="GRPOConfig has no field 'gamma'"):
        set_numbers(experiments["grpo"], {"grpo.gamma": 0.5})
    with pytest.raises(ValueError, match="clip_eps is 2"):
        check(dataclasses.replace(METHODS["ppo"], clip_eps=2.0))


CHILD = """
import sys
from pathlib import Path
import jax
import numpy as np
from rljax.algorithms import grpo
from rljax.training.fused_runs import run_fused
from tests.training.fused_cases import make_experiment

jax.config.update("jax_disable_most_optimizations", True)
config = make_experiment(Path(sys.argv[1]), "grpo", steps=3)
assert jax.device_count() == 2
split = run_fused(config, grpo.make_update, "none", seeds=(0, 1))
assert len(jax.tree.leaves(split.states)[0].sharding.device_set) == 2
whole = run_fused(config, grpo.make_update, "none", seeds=(0, 1, 2))  # 3 runs do not divide
assert len(jax.tree.leaves(whole.states)[0].sharding.device_set) == 1
for name, values in split.metrics.items():
    np.testing.assert_allclose(values, whole.metrics[name][:2], 1e-3, 2e-6, err_msg=name)
"""


@slow
def test_devices_share_the_runs(tmp_path):
    root = Path(rljax.__file__).parents[1]
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "PYTHONPATH": str(root)
    }  # fmt: skip
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
