"""The fused program: the numbers of the unfused loop, and what the host does between programs."""

import dataclasses

import numpy as np
import pytest

from rljax.algorithms import grpo, ppo
from rljax.algorithms.grpo import GRPOConfig
from rljax.algorithms.ppo import PPOConfig
from rljax.errors import UserError
from rljax.experiment import CHANGEABLE, GRPOExperiment, ModelConfig, PPOExperiment
from rljax.kl import KLConfig
from rljax.rewards import RewardError
from rljax.rollout.distribution import SamplingConfig
from rljax.tasks import TaskConfig
from rljax.training.flags import validate
from rljax.training.fused import chunk_length
from rljax.training.on_policy import OnPolicy, train
from rljax.training.optimizer import OptimizerConfig
from rljax.training.run import open_run
from tests.conftest import numbers
from tests.experiments.conftest import unoptimised

REWARD = """
import jax.numpy as jnp
from rljax.rewards import token_reward

@token_reward
def parity(prompts, completions):
    even = completions.mask & (completions.tokens % 2 == 0)
    return even.sum(axis=1) / completions.mask.shape[1]

@token_reward
def sometimes(prompts, completions):
    return jnp.where(completions.tokens[:, 0] % 4 == 0, jnp.nan, 1.0)

def text(prompts, completions):
    return [0.0 for _ in completions]
"""
ADAPTIVE = KLConfig(coef=0.1, controller="openai", horizon=50.0)
METHODS = {
    "ppo": PPOConfig(batch_size=8, num_epochs=2, num_minibatches=2, kl=ADAPTIVE, ref_sync_every=2),
    "grpo": GRPOConfig(batch_size=8, samples_per_prompt=4, num_minibatches=2, entropy_coef=0.01),
    "remax": GRPOConfig(
        batch_size=4, samples_per_prompt=1, advantage="greedy", objective="reinforce",
        clip_eps=None,
    ),
    "nlpo": PPOConfig(batch_size=4, num_epochs=1, mask_top_p=0.9, mask_sync_every=2),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def quick_programs():
    with unoptimised():
        yield


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Return a function that makes the experiment of a method, in a directory of its own."""
    folder = tmp_path_factory.mktemp("fused")
    (folder / "reward.py").write_text(REWARD)

    def experiment(name: str, workdir: str = "", reward: str = "parity", **changes):
        method = METHODS[name]
        kind, field = (
            (PPOExperiment, "ppo") if isinstance(method, PPOConfig) else (GRPOExperiment, "grpo")
        )
        base = kind(
            model=ModelConfig(source="random:tiny-llama"),
            task=TaskConfig(
                prompts="arithmetic:4", prompt_tokens=None, held_out_fraction=0.3,
                reward=(f"{folder}/reward.py:{reward}", "partial_match_tokens"),
                reward_weights=(1.0, 0.5),
            ),
            sampling=SamplingConfig(max_new_tokens=3, temperature=1.0),
            optimizer=OptimizerConfig(learning_rate=0.01),
            steps=6,
            eval_prompts=0,
            workdir=str(folder / workdir),
            **{field: method},
        )  # fmt: skip
        return dataclasses.replace(base, **changes)

    return experiment


def setup_of(config) -> OnPolicy:
    validate(config)
    is_ppo = isinstance(config, PPOExperiment)
    make_update = (ppo if is_ppo else grpo).make_update
    return OnPolicy(config, make_update, config.ppo.critic if is_ppo else "none")


def run(config) -> list[dict]:
    with open_run(config.workdir, config, ignore=CHANGEABLE) as directory:
        train(setup_of(config), directory)
        return numbers(directory.directory)


def assert_same_numbers(found: list[dict], expected: list[dict], rtol: float = 2e-4) -> None:
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    for row, other in zip(found, expected, strict=True):
        assert row.keys() == other.keys()
        for name in row:
            assert row[name] == pytest.approx(other[name], rel=rtol, abs=1e-6), name


slow = pytest.mark.slow


@pytest.mark.parametrize(
    "name",
    ["grpo", *(pytest.param(n, marks=slow) for n in ("ppo", "remax", "nlpo"))],
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
def test_failures_and_disagreement_stop_the_run_with_its_state_saved(make):
    config = make("grpo", "failing", reward="sometimes", fused_steps=3)
    with pytest.raises(RewardError, match=r"failed on \d of 8 completions of step 1, more than"):
        run(config)
    config = make("grpo", "off", fused_steps=3, max_ratio_gap=1e-12)
    with pytest.raises(UserError, match="sampler and learner disagree.*first minibatch"):
        run(config)
    config = make("grpo", "far", fused_steps=3, max_start_kl=1e-15)
    with pytest.raises(UserError, match="nats per token before the first update"):
        run(config)
