"""The flags of a plan: the model, the step, the devices."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from rljax.algorithms.batch import OnPolicyConfig
from rljax.algorithms.grpo import GRPOConfig
from rljax.algorithms.ppo import PPOConfig
from rljax.models.lora import LoRAConfig
from rljax.models.remat import Remat
from rljax.models.trainable import make_trainable
from rljax.planning.chips import CHIPS, Chip, ChipFigures, ChipName
from rljax.training.mesh import MeshConfig


@dataclasses.dataclass(frozen=True)
class PlanConfig:
    """Say what a training step needs on devices that are not here."""

    model: str
    """A hub id whose architecture is known, a directory with a config.json or such a file,
    shape:NAME or random:NAME. No weights are read."""
    chip: ChipName = "h100"
    """The accelerator."""
    figures: ChipFigures = ChipFigures()
    mesh: MeshConfig = MeshConfig()
    algorithm: Literal["ppo", "grpo"] = "ppo"
    """Whose update: experiments/ppo.py or experiments/grpo.py."""
    critic: Literal["shared", "separate"] = "shared"
    """Of PPO: a value head on the policy's trunk, or a trunk of its own."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What is computed in, and what is frozen is held in; what is trained is float32."""
    remat: Remat = "none"
    """What the backward pass computes again: attention, products or layers, as --model.remat."""
    scan_layers: bool = False
    """Compile one layer and loop over it."""
    lora: LoRAConfig = LoRAConfig()
    train_layers: int = 0
    """Train only so many upper layers and the final norm; 0: all."""
    batch: int = 64
    """Completions of a step (ppo.batch_size), on all devices together."""
    group: int | None = None
    """Completions of each prompt (samples_per_prompt); None: the algorithm's default."""
    prompt: int = 256
    """Prompt tokens."""
    new: int = 256
    """Completion tokens (sampling.max_new_tokens)."""
    epochs: int | None = None
    """Passes over a batch (num_epochs); None: the algorithm's default."""
    minibatches: int = 1
    """Optimizer updates in a pass (num_minibatches)."""
    accumulation: int = 1
    """Parts that a minibatch is computed in (gradient_accumulation)."""
    score_rows: int = 1024
    """Tokens whose logits exist at once."""
    headroom: float = 0.1
    """Share of the memory to leave to the runtime: its context, buffers of collectives, gaps."""
    json: str | None = None
    """Also write the numbers to this file."""

    @property
    def adapts(self) -> bool:
        """Whether a part of the model is trained only, over a frozen base."""
        return self.lora.rank > 0 or self.train_layers > 0

    @property
    def step(self) -> OnPolicyConfig:
        """The algorithm's own config."""
        fields = {
            "batch_size": self.batch,
            "samples_per_prompt": self.group,
            "num_epochs": self.epochs,
            "num_minibatches": self.minibatches,
            "gradient_accumulation": self.accumulation,
            "score_rows": self.score_rows,
        }
        given: dict[str, Any] = {name: value for name, value in fields.items() if value is not None}
        if self.algorithm == "grpo":
            return GRPOConfig(**given)
        return PPOConfig(critic=self.critic, **given)

    @property
    def values(self) -> Literal["shared", "separate", "none"]:
        """Where values come from."""
        return self.critic if self.algorithm == "ppo" else "none"

    @property
    def hardware(self) -> Chip:
        """The figures of the chip, with those that are given in their place."""
        return self.figures.over(CHIPS[self.chip])

    @property
    def group_size(self) -> int:
        """Completions of each prompt."""
        return self.step.samples_per_prompt

    def validate(self) -> None:
        """Raise ValueError for combinations that cannot work."""
        for name in ("prompt", "new"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.headroom < 1:
            raise ValueError(f"headroom is {self.headroom}; it must be in [0, 1)")
        if self.algorithm == "grpo" and self.critic != "shared":
            raise ValueError(f"critic is {self.critic}, but algorithm grpo has none")
        make_trainable(self.lora, self.train_layers)
        try:
            self.step.validate()
        except ValueError as error:
            raise ValueError(
                f"{error} (batch_size is --batch, samples_per_prompt --group, num_epochs --epochs, "
                "num_minibatches --minibatches, gradient_accumulation --accumulation)"
            ) from error
        rows = self.batch // (self.minibatches * self.accumulation)
        self.mesh.check_rows(rows, "batch / (minibatches x accumulation)")
