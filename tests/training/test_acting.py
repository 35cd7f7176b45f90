"""Which flags go with an environment; the seeds of its episodes."""

import dataclasses

import numpy as np
import pytest

from rljax.algorithms.grpo import GRPOConfig
from rljax.algorithms.ppo import PPOConfig
from rljax.environments import HELD_OUT_SEEDS, is_held_out
from rljax.environments.config import EnvironmentConfig
from rljax.experiment import GRPOExperiment, OnlineDPOExperiment, PPOExperiment
from rljax.rollout.distribution import SamplingConfig
from rljax.tasks import TaskConfig
from rljax.training.episodes import training_seeds
from rljax.training.flags import validate
from rljax.training.mesh import MeshConfig

ACTING = EnvironmentConfig(name="mine.py:Class", max_turns=2, max_turn_tokens=8)


def changed(experiment=GRPOExperiment, sampling=None, **changes):
    sizes = SamplingConfig(**({"max_new_tokens": 40} | (sampling or {})))
    return experiment(**({"environment": ACTING, "sampling": sizes} | changes))


def test_what_goes_together():
    validate(changed())
    validate(changed(PPOExperiment))
    # the default configs say how prompts are cut
    validate(changed(task=TaskConfig(prompt_tokens=8, min_prompt_tokens=8)))


@pytest.mark.parametrize(
    ("problem", "changes"),
    [
        ("task.prompts is 'mine.csv'", {"task": TaskConfig(prompts="mine.csv")}),
        ("task.chat is True", {"task": TaskConfig(chat=True)}),
        ("2 of max_turn_tokens 8 are 16 tokens", {"sampling": {"max_new_tokens": 15}}),
        ("with overlap", {"overlap": True, "grpo": GRPOConfig(importance_cap=2.0)}),
        ("with fused_steps", {"fused_steps": 2}),
        ("with mesh of several", {"mesh": MeshConfig(data=2)}),
        ("with sampling.slots", {"sampling": {"slots": 4}}),
        ("with sampling.min_new_tokens", {"sampling": {"min_new_tokens": 2}}),
        (
            "with sampling.weights or cache",
            {"sampling": {"weights": "int8"}, "grpo": GRPOConfig(importance_cap=2.0)},
        ),
        ("with advantage greedy", {"grpo": GRPOConfig(advantage="greedy")}),
        ("with missing_eos_penalty", {"grpo": GRPOConfig(missing_eos_penalty=-1.0)}),
        ("with truncate_token", {"grpo": GRPOConfig(truncate_token=13)}),
        ("with mask_truncated", {"grpo": GRPOConfig(mask_truncated=True)}),
        ("with overlong_buffer", {"grpo": GRPOConfig(overlong_buffer=4)}),
        ("with mask_top_p", {"experiment": PPOExperiment, "ppo": PPOConfig(mask_top_p=0.9)}),
        (
            "set scale_scores to none",
            {"experiment": PPOExperiment, "ppo": PPOConfig(scale_scores="std")},
        ),
        ("seeds of training begin", {"eval_prompts": HELD_OUT_SEEDS + 1}),
        ("DPO compares two completions", {"experiment": OnlineDPOExperiment}),
        ("max_turns is 0", {"environment": dataclasses.replace(ACTING, max_turns=0)}),
        ("template must hold", {"environment": dataclasses.replace(ACTING, template="a")}),
        ("step_timeout_s is 0", {"environment": dataclasses.replace(ACTING, step_timeout_s=0)}),
        ("max_failures is 2", {"environment": dataclasses.replace(ACTING, max_failures=2)}),
        ("system_prompt needs", {"environment": dataclasses.replace(ACTING, system_prompt="a")}),
        (
            "separator is ' '.*leave one out",
            {"environment": dataclasses.replace(ACTING, chat=True, separator=" ")},
        ),
        ("max_turns is 4, but there is no", {"environment": EnvironmentConfig(max_turns=4)}),
    ],
)
def test_what_does_not(problem, changes):
    with pytest.raises(ValueError, match=problem):
        validate(changed(**changes))


def test_training_never_plays_a_held_out_episode():
    seeds = np.concatenate([training_seeds(0, draw, 64) for draw in range(50)])
    assert not any(is_held_out(int(seed)) for seed in seeds) and len(set(seeds)) == len(seeds)
    assert (training_seeds(0, 3, 64) == training_seeds(0, 3, 64)).all()
    assert (training_seeds(0, 3, 64) != training_seeds(1, 3, 64)).any()
    assert is_held_out(HELD_OUT_SEEDS - 1)
