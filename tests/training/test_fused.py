"""The fused program: the numbers of the unfused loop, and what the host does between programs."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from rljax.errors import UserError
from rljax.experiment import ModelConfig
from rljax.rewards import RewardError
from rljax.training.fused import chunk_length
from rljax.training.optimizer import OptimizerConfig
from rljax.training.setup import OnPolicy
from tests.experiments.conftest import unoptimised
from tests.training.fused_cases import METHODS, assert_same_numbers, make_experiment, run, setup_of


@pytest.fixture(scope="module", autouse=True)
def quick_programs():
    with unoptimised():
        yield


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Return a function that makes the experiment of a method, in a directory of its own."""
    return functools.partial(make_experiment, tmp_path_factory.mktemp("fused"))


slow = pytest.mark.slow


@slow
@pytest.mark.parametrize(
    "name",
    ["grpo", "ppo", "remax", "nlpo"],
)
def test_the_numbers_are_those_of_the_unfused_loop(make, name):
    """Programs of 1, 2, 1 and 2 steps; 11 prompts, so that epochs end within batches."""
    evaluated = {"eval_prompts": 3, "eval_every": 4, "checkpoint_every": 3} if name == "ppo" else {}
    fused, plain = (
        run(make(name, f"{name}-{steps}", fused_steps=steps, **evaluated)) for steps in (4, 0)
    )
    assert_same_numbers(fused, plain)
    exact = {name for name in plain[1] if fused[1][name] == plain[1][name]}
    assert {"objective/scores", "completion/length", "rewards/reward.parity"} <= exact
    trained = [row for row in plain if "policy/loss" in row]
    assert len(trained) == 6 and len({row["objective/scores"] for row in trained}) > 3
    texts = [make(name, f"{name}-{steps}").workdir + "/completions.jsonl" for steps in (4, 0)]
    lines = [[line.split('"score"')[0] for line in open(path)] for path in texts]  # noqa: SIM115
    assert lines[0] == lines[1] and len(lines[0]) >= 6 * 4


@slow
def test_a_fused_run_resumes_bit_for_bit(make):
    changes = {"fused_steps": 2, "checkpoint_every": 4}
    changes["optimizer"] = OptimizerConfig(learning_rate=0.01, schedule="constant")
    whole = run(make("ppo", "whole", **changes))
    run(make("ppo", "parts", **changes, steps=3))
    assert run(make("ppo", "parts", **changes)) == whole


def test_programs_end_where_the_host_has_something_to_do(make):
    class Setup:
        config = make("grpo", fused_steps=5, steps=23, checkpoint_every=10, eval_every=4)

    steps, lengths = 0, []
    Setup.config = dataclasses.replace(Setup.config, eval_prompts=1)
    while steps < 23:
        lengths.append(chunk_length(Setup, steps))
        steps += lengths[-1]
    assert np.cumsum(lengths).tolist() == [4, 8, 10, 12, 16, 20, 23]
    Setup.config = dataclasses.replace(Setup.config, eval_every=0, checkpoint_every=100)
    assert chunk_length(Setup, 4) == 5


def test_what_cannot_be_fused_is_said_before_a_model_is_loaded(make):
    config = make("grpo", fused_steps=2, reward="text", model=ModelConfig(source="nowhere"))
    with pytest.raises(RewardError, match=r"text judges texts on the host.*@rljax.*--fused-steps"):
        setup_of(config)
    dynamic = dataclasses.replace(METHODS["grpo"], dynamic_sampling=1)
    with pytest.raises(UserError, match="set dynamic_sampling to 0"):
        setup_of(make("grpo", fused_steps=2, grpo=dynamic))
    with pytest.raises(UserError, match="fused_steps is -1"):
        setup_of(make("grpo", fused_steps=-1))


@slow
def test_failures_and_disagreement_stop_the_run_with_its_state_saved(make, monkeypatch):
    config = make("grpo", "failing", reward="sometimes", fused_steps=3)
    with pytest.raises(RewardError, match=r"failed on \d of 8 completions of step 1, more than"):
        run(config)
    config = make("grpo", "off", fused_steps=3, max_ratio_gap=1e-12)
    with pytest.raises(UserError, match="sampler and learner disagree.*first minibatch"):
        run(config)
    first_state = OnPolicy.first_state

    def another_reference(setup):
        state = first_state(setup)
        return state._replace(ref_params=jax.tree.map(lambda x: 1.5 * x, state.ref_params))

    monkeypatch.setattr(OnPolicy, "first_state", another_reference)
    config = make("grpo", "far", fused_steps=3)
    with pytest.raises(UserError, match="nats per token before the first update"):
        run(config)
