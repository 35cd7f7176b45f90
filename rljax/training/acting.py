"""Which flags go with acting in an environment."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from rljax.environments import HELD_OUT_SEEDS
from rljax.rollout.exploration import ExplorationConfig
from rljax.tasks import TaskConfig

if TYPE_CHECKING:
    from rljax.experiment import OnPolicyExperiment

CUTS = ("prompt_tokens", "min_prompt_tokens")
"""How a task's prompts are cut: of no use where there are none, and part of default configs."""


def check_environment(config: OnPolicyExperiment) -> None:
    """Raise ValueError for flags that mean nothing, or something else, in an environment."""
    acting, sampling, algorithm = config.environment, config.sampling, config.algorithm
    if acting.name is None:
        return
    for field in dataclasses.fields(TaskConfig):
        value, default = getattr(config.task, field.name), field.default
        if field.name not in CUTS and value != default:
            raise ValueError(
                f"task.{field.name} is {value!r}, but environment.name {acting.name!r} asks and "
                f"judges by itself: leave one of them out (the default is {default!r})"
            )
    own = acting.max_turns * acting.max_turn_tokens
    if sampling.max_new_tokens < own:
        raise ValueError(
            f"sampling.max_new_tokens is {sampling.max_new_tokens}: it holds a whole conversation "
            f"after its first observation. environment.max_turns {acting.max_turns} of "
            f"max_turn_tokens {acting.max_turn_tokens} are {own} tokens, and the observations "
            "between them come on top: raise it"
        )
    mesh = config.mesh.size > 1 or config.mesh.distributed or config.mesh.by_hand
    score = "is a rule about one completion; an environment says itself what a turn is worth"
    rules: dict[str, tuple[Any, str]] = {
        "overlap": (config.overlap, "samples without the environment's answers"),
        "fused_steps": (config.fused_steps, "has no place for the environment, on the host"),
        "mesh of several devices": (mesh, "plays no episodes yet"),
        "exploration": (
            config.exploration != ExplorationConfig(),
            "moves the sampling of single completions only",
        ),
        "sampling.slots": (sampling.slots is not None, "refills single completions"),
        "sampling.min_new_tokens": (sampling.min_new_tokens, "says nothing about turns"),
        "sampling.weights or cache int8": (sampling.coarse, "samples single completions only"),
        "advantage greedy": (algorithm.wants_greedy, "compares with a second completion"),
        "mask_top_p": (algorithm.action_mask, "masks single completions only"),
        "missing_eos_penalty": (algorithm.missing_eos_penalty is not None, score),
        "truncate_token": (algorithm.truncate_token is not None, score),
        "mask_truncated": (getattr(algorithm, "mask_truncated", False), score),
        "overlong_buffer": (getattr(algorithm, "overlong_buffer", 0), score),
    }
    for flag, (given, reason) in rules.items():
        if given:
            raise ValueError(
                f"environment.name {acting.name!r} does not go with {flag}, which {reason}: leave "
                "one out"
            )
    if config.rewards_turns and (
        algorithm.scale_scores != "none" or algorithm.clip_scores is not None
    ):
        raise ValueError(
            "scale_scores and clip_scores act on the score of a completion, but PPO learns from "
            "each turn's reward: set scale_scores to none and clip_scores to None "
            "(whiten_rewards scales them)"
        )
    if config.eval_prompts > HELD_OUT_SEEDS:
        raise ValueError(
            f"eval_prompts is {config.eval_prompts}; seeds of training begin at {HELD_OUT_SEEDS}"
        )
