"""Divergences between whole next-token distributions, exact over the vocabulary.

Not to be confused with `rljax.kl`, which estimates a KL from sampled tokens. V vocabulary.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

Divergence = Literal["forward", "reverse", "jsd"]


def divergence(
    teacher_logits: jax.Array,
    student_logits: jax.Array,
    kind: Divergence,
    *,
    jsd_beta: float | None = None,
) -> jax.Array:
    """Compute how far the student's distribution is from the teacher's, in nats.

    With p the teacher's and q the student's distribution, logits [..., V] -> [...]:
    forward  KL(p || q) = sum p (log p - log q)   covers all that the teacher does
    reverse  KL(q || p)                           does only what the teacher does
    jsd      b KL(p || m) + (1 - b) KL(q || m), m = b p + (1 - b) q, b = jsd_beta in (0, 1)
    The last is the generalised Jensen-Shannon divergence of Agarwal et al. 2024 (GKD, section 2,
    https://arxiv.org/abs/2306.13649): it behaves as forward KL near b = 0, as reverse KL near
    b = 1, both times b or 1 - b.

    Raises ValueError for another kind, and where `jsd_beta` is given to a kind that has none or is
    outside (0, 1).
    """
    if (kind == "jsd") != (jsd_beta is not None):
        raise ValueError(f"jsd_beta goes with the divergence 'jsd': {kind=} {jsd_beta=}")
    log_p = jax.nn.log_softmax(teacher_logits.astype(jnp.float32), axis=-1)
    log_q = jax.nn.log_softmax(student_logits.astype(jnp.float32), axis=-1)

    def kl(log_a: jax.Array, log_b: jax.Array) -> jax.Array:
        return jnp.sum(jnp.exp(log_a) * (log_a - log_b), axis=-1)

    if kind == "forward":
        return kl(log_p, log_q)
    if kind == "reverse":
        return kl(log_q, log_p)
    if kind == "jsd" and jsd_beta is not None:
        if not 0 < jsd_beta < 1:
            raise ValueError(f"jsd_beta must be in (0, 1), got {jsd_beta}")
        log_m = jnp.logaddexp(log_p + jnp.log(jsd_beta), log_q + jnp.log1p(-jsd_beta))
        return jsd_beta * kl(log_p, log_m) + (1 - jsd_beta) * kl(log_q, log_m)
    raise ValueError(f"unknown divergence {kind!r}: use 'forward', 'reverse' or 'jsd'")
