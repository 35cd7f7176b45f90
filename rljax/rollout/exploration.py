"""How a run explores beyond its policy: schedules of the sampling, and uniform tokens.

Schedules move what the policy is: sampling, scoring and reference have the temperature and top-p of
the step, so that the learner's ratio still starts at 1. Uniform tokens are another policy's: tokens
are drawn from mu = (1 - epsilon) pi + epsilon / n on the n tokens that pi allows at all (after
forbidden tokens, top-k, top-p, min-p and the action mask). Their log-probs under mu are the old
ones, those under pi come along, and the update weighs each token by min(pi / mu, importance_cap)
(`rljax.algorithms.importance`): pi is what is learnt, ratios and their clip are to pi, and pi / mu
is at most 1 / (1 - epsilon). Evaluations know nothing of all this: they judge pi with the
temperature and top-p of `sampling`, which is where the schedules end.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from rljax.rollout.distribution import SamplingConfig
from rljax.traced import is_zero, set_traced


@dataclasses.dataclass(frozen=True)
class ExplorationConfig:
    """What a run samples differently while it trains."""

    temperature_start: float | None = None
    """Temperature of the first step, from which it moves in a line to sampling.temperature, in
    sampling and scoring of policy and reference alike; None: it is that from the start."""
    top_p_start: float | None = None
    """The same for sampling.top_p."""
    decay_steps: int | None = None
    """Training steps after which schedules have ended; None: at the last step of the run."""
    epsilon: float = 0.0
    """Probability that a token is drawn uniformly from those that the policy allows at all; needs
    importance_cap. 0: off."""
    epsilon_end: float | None = None
    """Where epsilon moves to in a line; None: it stays."""

    @property
    def scheduled(self) -> bool:
        """Whether anything moves from step to step."""
        starts = (self.temperature_start, self.top_p_start, self.epsilon_end)
        return any(value is not None for value in starts)

    @property
    def mixes(self) -> bool:
        """Whether tokens are drawn from a mixture."""
        return self.epsilon_end is not None or not is_zero(self.epsilon)

    def check(self, sampling: SamplingConfig, steps: int) -> None:
        """Raise ValueError on values that mean nothing; steps: of the whole run."""
        start, nucleus = self.temperature_start, self.top_p_start
        end, decay = self.epsilon_end, self.decay_steps
        rules = (
            (start is None or 0 < start < float("inf"), "temperature_start", "above 0, or None"),
            (nucleus is None or 0 < nucleus <= 1, "top_p_start", "in (0, 1], or None"),
            (0 <= self.epsilon < 1, "epsilon", "in [0, 1)"),
            (end is None or 0 <= end < 1, "epsilon_end", "in [0, 1), or None"),
            (
                start != sampling.temperature,
                "temperature_start",
                "another than sampling.temperature, or None: nothing would move",
            ),
            (
                nucleus != sampling.top_p,
                "top_p_start",
                "another than sampling.top_p, or None: nothing would move",
            ),
            (
                end != self.epsilon,
                "epsilon_end",
                "another than epsilon, or None",
            ),
            (decay is None or self.scheduled, "decay_steps", "None where nothing is scheduled"),
            (
                decay is None or 1 <= decay < steps,
                "decay_steps",
                f"in 1..{steps - 1} for a run of {steps} steps, or None",
            ),
            (
                not (self.mixes and sampling.coarse),
                "epsilon",
                "0 with sampling in 8 bits, which is another policy than the learner's already",
            ),
        )
        for good, name, rule in rules:
            if not good:
                value = getattr(self, name)
                raise ValueError(f"exploration.{name} is {value}; it must be {rule}")

    def numbers(
        self, sampling: SamplingConfig, step: jax.Array | int, steps: int
    ) -> dict[str, jax.Array]:
        """Compute what is scheduled at a step (from 0) of a run of `steps`, float32 scalars.

        (1 - x) start + x end with x = min(step / decay_steps, 1).
        """
        last = max(steps - 1, 1) if self.decay_steps is None else self.decay_steps
        share = jnp.clip(jnp.asarray(step, jnp.float32) / last, 0, 1)
        ends: dict[str, tuple[Any, Any]] = {}
        if self.temperature_start is not None:
            ends["temperature"] = (self.temperature_start, sampling.temperature)
        if self.top_p_start is not None:
            ends["top_p"] = (self.top_p_start, sampling.top_p)
        if self.epsilon_end is not None:
            ends["epsilon"] = (self.epsilon, self.epsilon_end)
        return {name: (1 - share) * start + share * end for name, (start, end) in ends.items()}

    def at(
        self, sampling: SamplingConfig, step: jax.Array | int, steps: int
    ) -> tuple[SamplingConfig, float | jax.Array]:
        """Return the sampling of a step, with traced numbers where they move, and its epsilon."""
        numbers = self.numbers(sampling, step, steps)
        epsilon = numbers.pop("epsilon", self.epsilon)
        return (set_traced(sampling, numbers) if numbers else sampling), epsilon
