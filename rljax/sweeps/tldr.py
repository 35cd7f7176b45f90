"""What ablations of full size on summaries share: the stages before them, and their tiny forms."""

from __future__ import annotations

import dataclasses
from typing import Any

from rljax.experiment import PPOExperiment, RewardExperiment, TextExperiment
from rljax.sweeps.spec import StageSpec
from rljax.training.flags import load_config

FOLDER = "configs/pipeline_tldr"
SMOKE: dict[str, Any] = {
    "task.prompts": "imdb",
    "task.prompt_tokens": 8,
    "sampling.max_new_tokens": 8,
    "steps": 2,
    "eval_prompts": 8,
}
"""Overrides of an on-policy run that is to be tiny, without its batch."""
_MODEL = "random:tiny-gpt2"


def tldr_stages() -> dict[str, StageSpec]:
    """Return the stages "sft" and "reward_model" of configs/pipeline_tldr."""
    sft = load_config(f"{FOLDER}/sft.py", TextExperiment)
    judge = load_config(f"{FOLDER}/reward_model.py", RewardExperiment)
    judge = dataclasses.replace(
        judge, model=dataclasses.replace(judge.model, source="{stages}/sft"), workdir=None
    )
    tiny = {"steps": 3, "optimizer.learning_rate": 1e-3, "data.source": "imdb"}
    return {
        "sft": StageSpec(
            dataclasses.replace(sft, workdir=None),
            tiny
            | {
                "model.source": _MODEL, "data.max_documents": 200, "data.sequence_length": 64,
                "sft.batch_size": 4, "sft.gradient_accumulation": 1, "eval_batches": 2,
            },
        ),
        "reward_model": StageSpec(
            judge,
            tiny
            | {
                "data.max_records": 120, "data.completion_tokens": 8,
                "reward_model.batch_size": 4, "reward_model.normalise_samples": 8,
                "eval_batches": 2,
            },
        ),
    }  # fmt: skip


def tldr_ppo() -> PPOExperiment:
    """Return PPO of configs/pipeline_tldr on these stages."""
    config = load_config(f"{FOLDER}/ppo.py", PPOExperiment)
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, source="{stages}/sft"),
        task=dataclasses.replace(config.task, reward="model:{stages}/reward_model"),
        workdir=None,
    )
