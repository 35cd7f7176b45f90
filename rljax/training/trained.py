"""The policy of a run directory, for scripts that use what was trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax

from rljax.errors import UserError
from rljax.models import Pretrained, load_description, load_pretrained, make_model
from rljax.models.lora import LoRAConfig
from rljax.models.peft import Adapters
from rljax.models.trainable import make_trainable
from rljax.training.checkpoint import Checkpoints
from rljax.training.config_json import config_from_json
from rljax.training.run import read_json

MODEL_FOLDER = "model"
"""Of a run that trains from scratch: configuration and tokenizer, as a Hugging Face directory
without weights."""
Which = Literal["last", "best"] | int


class Trained(NamedTuple):
    """A policy as a checkpoint holds it."""

    pretrained: Pretrained
    """Model, which computes in the run's dtype, trained parameters in float32, and tokenizer;
    `heads["value"]` where the critic shares the trunk
    (a critic of its own is no part of the policy, and stays in the run)."""
    step: int
    """Training steps done."""
    config: dict[str, Any]
    """The run's config, as JSON."""
    adapters: Adapters | None
    """What a run with lora.rank has trained; `pretrained` has it merged. None: all, or layers."""


def is_run(directory: str | Path) -> bool:
    """Say whether a directory is that of a run that has saved a checkpoint."""
    checkpoints = Path(directory).expanduser() / "checkpoints"
    return checkpoints.is_dir() and (checkpoints.parent / "config.json").is_file()


def load_trained(directory: str | Path, checkpoint: Which = "last") -> Trained:
    """Load the policy of a run; the run may be training meanwhile.

    Args:
      directory: the run directory.
      checkpoint: the newest one, the one with the highest score, or that of a step.

    Raises:
      UserError: it is no run directory, has no such checkpoint, or its model cannot be loaded.
    """
    directory = Path(directory).expanduser()
    config = read_json(directory)
    try:
        source, dtype = config["model"]["source"], config["model"]["dtype"]
    except (KeyError, TypeError):
        raise UserError(f"{directory / 'config.json'} is not of a run: no model.source") from None
    if (directory / MODEL_FOLDER).is_dir():
        pretrained = load_description(directory / MODEL_FOLDER)
    else:
        pretrained = load_source(source)
    model = make_model(pretrained.model.config, dtype)
    with Checkpoints(directory / "checkpoints", read_only=True) as checkpoints:
        step = _pick(checkpoints, checkpoint)
        lora = config_from_json(LoRAConfig, config.get("lora", {}))
        trainable = make_trainable(lora, config.get("train_layers", 0))
        like: dict[str, Any] = {
            "policy": jax.eval_shape(
                lambda params: trainable.split(params, jax.random.key(0))[0], pretrained.params
            )
        }
        if "params.value_head.kernel" in checkpoints.arrays(step):
            hidden = pretrained.model.config.hidden_size
            like["value_head"] = {
                "kernel": jax.ShapeDtypeStruct((1, hidden), "float32"),
                "bias": jax.ShapeDtypeStruct((1,), "float32"),
            }
        wanted = None if checkpoint == "last" else step  # the newest may turn out damaged
        found = checkpoints.restore({"params": like}, step=wanted, partial=True)
    assert found is not None  # there was a step to pick
    step, state, _ = found
    params = state["params"]
    heads = {"value": params["value_head"]} if "value_head" in params else {}
    whole = trainable.merge(pretrained.params, params["policy"])
    trained = dataclasses.replace(pretrained, model=model, params=whole, heads=heads)
    adapters = Adapters(params["policy"], lora.scale) if lora.rank else None
    return Trained(trained, step, config, adapters)


def load_source(source: str, dtype: str = "float32") -> Pretrained:
    """Load what `load_pretrained` takes, or the policy in a run's last checkpoint, as `dtype`.

    Raises: as `load_pretrained` and `load_trained`.
    """
    if not is_run(source):
        return load_pretrained(source, dtype=dtype)
    pretrained = load_trained(source).pretrained
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), pretrained.params)
    model = make_model(pretrained.model.config)
    return dataclasses.replace(pretrained, model=model, params=params)


def _pick(checkpoints: Checkpoints, checkpoint: Which) -> int:
    steps = checkpoints.steps()
    if not steps:
        raise UserError(f"there is no checkpoint in {checkpoints.directory} yet")
    if checkpoint == "last":
        return steps[-1]
    if checkpoint == "best":
        best = checkpoints.best_step()
        if best is None:
            raise UserError(f"no checkpoint in {checkpoints.directory} has a score: take the last")
        return best
    if checkpoint not in steps:
        raise UserError(f"no checkpoint of step {checkpoint}; there are {steps}")
    return checkpoint
