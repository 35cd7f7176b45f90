"""Estimate the KL divergence from the reference, and steer its coefficient.

Shapes: B batch, C completion. KL(policy || reference) throughout, in nats.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

KLEstimator = Literal["k1", "k2", "k3"]


def kl_estimate(
    log_probs: jax.Array, ref_log_probs: jax.Array, estimator: KLEstimator
) -> jax.Array:
    """Estimate KL(policy || reference) from tokens that the policy sampled; same shape as given.

    With d = log_probs - ref_log_probs:
    k1 = d                    unbiased, high variance, negative at times
    k2 = d^2 / 2              biased, always positive; half the squared log-ratio
    k3 = exp(-d) + d - 1      unbiased, always positive
    Schulman 2020, http://joschu.net/blog/kl-approx.html. Estimates of different names are not
    comparable: say which one a curve shows. Raises ValueError for another name.
    """
    difference = log_probs - ref_log_probs
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return 0.5 * jnp.square(difference)
    if estimator == "k3":
        return jnp.expm1(-difference) + difference
    raise ValueError(f"unknown KL estimator {estimator!r}: use 'k1', 'k2' or 'k3'")


def openai_kl_coef(
    kl_coef: jax.Array,
    kl: float | jax.Array,
    *,
    num_episodes: int | jax.Array,
    target: float,
    horizon: float,
) -> jax.Array:
    """Return the next KL coefficient by OpenAI's proportional controller.

    error = clip(kl / target - 1, -0.2, 0.2);  coef *= 1 + error num_episodes / horizon
    Ziegler et al. 2019, section 2.2 (https://arxiv.org/abs/1909.08593). `kl` is the mean over the
    batch of the KL summed over a completion (nats per sequence); `num_episodes` is the batch size.
    """
    error = jnp.clip(kl / target - 1, -0.2, 0.2)
    return kl_coef * (1 + error * num_episodes / horizon)


def rl4lms_kl_coef(kl_coef: jax.Array, kl: float | jax.Array, *, target: float) -> jax.Array:
    """Return the next KL coefficient by the controller of RL4LMs.

    coef *= 1 + 0.1 clip((kl - target) / target, -0.2, 0.2), whatever the batch size. Ramamurthy et
    al. 2023 (https://arxiv.org/abs/2210.01241).
    """
    return kl_coef * (1 + 0.1 * jnp.clip((kl - target) / target, -0.2, 0.2))


@dataclass(frozen=True)
class KLConfig:
    """The penalty that keeps the policy near its reference."""

    coef: float = 0.05
    """Coefficient of the KL penalty; where an adaptive controller starts. 0 switches it off."""
    controller: Literal["fixed", "openai", "rl4lms"] = "fixed"
    """How the coefficient moves: not at all, by OpenAI's controller, or by the one of RL4LMs."""
    target: float = 6.0
    """KL in nats per completion that an adaptive controller steers to; 'fixed' does not read it."""
    horizon: float = 10_000.0
    """Episodes over which OpenAI's controller reacts; only 'openai' reads it."""
    estimator: KLEstimator = "k1"
    """Estimate of each token's KL that is charged: k1 (as in the papers), k2 or k3."""

    def __post_init__(self) -> None:
        if not 0 <= self.coef < float("inf"):
            raise ValueError(f"kl coef must be finite and not negative, got {self.coef}")
        if self.controller not in ("fixed", "openai", "rl4lms"):
            raise ValueError(f"kl controller must be fixed, openai or rl4lms: {self.controller!r}")
        if self.estimator not in ("k1", "k2", "k3"):
            raise ValueError(f"kl estimator must be k1, k2 or k3, got {self.estimator!r}")
        if not (self.target > 0 and self.horizon > 0):
            raise ValueError(
                f"kl target and horizon must be positive, got {self.target} and {self.horizon}"
            )
        if self.controller != "fixed" and self.coef == 0:
            raise ValueError("an adaptive kl controller multiplies coef and cannot leave 0")


class KLController(NamedTuple):
    """A coefficient and how it moves, as two pure functions; the state is one float32 scalar."""

    init: Callable[[], jax.Array]
    """() -> kl_coef."""
    update: Callable[[jax.Array, float | jax.Array, int | jax.Array], jax.Array]
    """(kl_coef, kl in nats per completion, num_episodes) -> next kl_coef."""


def make_kl_controller(config: KLConfig) -> KLController:
    """Build the controller that `config` names."""

    def init() -> jax.Array:
        return jnp.asarray(config.coef, jnp.float32)

    def update(
        kl_coef: jax.Array, kl: float | jax.Array, num_episodes: int | jax.Array
    ) -> jax.Array:
        if config.controller == "openai":
            return openai_kl_coef(
                kl_coef,
                kl,
                num_episodes=num_episodes,
                target=config.target,
                horizon=config.horizon,
            )
        if config.controller == "rl4lms":
            return rl4lms_kl_coef(kl_coef, kl, target=config.target)
        return kl_coef

    return KLController(init, update)
