"""Steer the weight of the entropy bonus so that the policy's entropy stays near a target."""

import jax
import jax.numpy as jnp


def next_entropy_coef(
    entropy_coef: jax.Array,
    entropy: jax.Array,
    *,
    target: float | jax.Array,
    rate: float | jax.Array,
) -> jax.Array:
    """Return the next weight of the entropy bonus: coef exp(rate (target - entropy)).

    A step of gradient descent on log alpha of alpha (entropy - target), the dual of "as much reward
    as possible with at least this entropy": Haarnoja et al. 2018, section 5, eq. 18
    (https://arxiv.org/abs/1812.05905), but that the step is on log alpha itself, as in their code,
    and not scaled by alpha or by Adam. The weight stays positive. entropy, target: in nats per
    token; rate: per nat and step.
    """
    return entropy_coef * jnp.exp(rate * (target - entropy))
