"""The flags by which a script is told which policy to use, and the loading of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from rljax.errors import UserError
from rljax.experiment import ModelConfig, OnPolicyExperiment, SupervisedExperiment
from rljax.models import Model, Pretrained, make_model
from rljax.models.precision import cast_matrices
from rljax.models.trainable import make_trainable
from rljax.training.trained import Which, load_source, load_trained


@dataclasses.dataclass(frozen=True)
class PolicyFlags:
    """A model as it is published, or what a run has made of one: give one of `model` and `run`."""

    model: str | None = None
    """A Hugging Face directory or hub id, a .gguf file, or a short name."""
    run: str | None = None
    """A run directory; the run may still be going on."""
    checkpoint: Which = "last"
    """Of a run: the newest checkpoint, the one with the highest score, or that of a step."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """Of a model: what it is stored and computed in; None: float32. A run keeps its own."""

    def validate(self) -> None:
        """Raise ValueError unless the flags name one policy."""
        if (self.model is None) == (self.run is None):
            raise ValueError("give one of --model SOURCE and --run DIRECTORY")
        if self.run is None and self.checkpoint != "last":
            raise ValueError("--checkpoint is one of a run: it needs --run")
        if self.run is not None and self.dtype is not None:
            raise ValueError("--dtype goes with --model; a run is loaded in its own dtype")


class Policy(NamedTuple):
    """A policy, and what to call it in a report."""

    pretrained: Pretrained
    name: str
    step: int | None
    """Training steps done; None for a model without a run."""


@contextmanager
def model_errors() -> Iterator[None]:
    """Turn what `load_pretrained` raises for a wrong source into a UserError."""
    try:
        yield
    except (FileNotFoundError, ConnectionError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(str(error)) from error


def load_model(source: str, dtype: str = "float32") -> Pretrained:
    """Load a model, or what a run made of one; a wrong source raises UserError."""
    with model_errors():
        return load_source(source, dtype)


def load_start(experiment: OnPolicyExperiment | SupervisedExperiment) -> Pretrained:
    """Load the model that training starts from, and see that it has the part to be trained.

    Where all of it is trained it is float32; matrices of a frozen base are what they are computed
    in, which changes no product.

    Raises UserError for a wrong source, for more `train_layers` than there are, and where
    `lora.targets` match nothing or not what `scan_layers` can loop over.
    """
    pretrained = load_model(experiment.model.source)
    if not experiment.trains_all:
        held = cast_matrices(pretrained.params, experiment.model.dtype)
        pretrained = dataclasses.replace(pretrained, params=held)
    trainable = make_trainable(experiment.lora, experiment.train_layers)
    model = build_model(experiment.model, pretrained)

    def compose(params: Any) -> Any:
        policy, base = trainable.split(params, jax.random.key(0))
        whole = trainable.compose(base, policy)
        if experiment.model.scan_layers:
            model.hidden(whole, jnp.zeros((1, 1), jnp.int32))
        return whole

    with model_errors():
        jax.eval_shape(compose, pretrained.params)
    return pretrained


def build_model(flags: ModelConfig, pretrained: Pretrained) -> Model:
    """Build the functions of a loaded model as the flags want them."""
    with model_errors():
        return make_model(
            pretrained.model.config, flags.dtype, remat=flags.remat, scan_layers=flags.scan_layers,
            attention=flags.attention,
        )  # fmt: skip


def load_policy(flags: PolicyFlags) -> Policy:
    """Load the policy that the flags name; a run's directory is only read.

    Raises:
      UserError: there is no such model, run or checkpoint, or it cannot be read.
    """
    if flags.run is None:
        assert flags.model is not None  # validate() saw to it
        pretrained = load_model(flags.model, flags.dtype or "float32")
        return Policy(pretrained, flags.model, None)
    with model_errors():
        trained = load_trained(flags.run, flags.checkpoint)
    return Policy(trained.pretrained, f"step {trained.step} of {flags.run}", trained.step)
