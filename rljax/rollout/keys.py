"""Where the random numbers of a run come from: one seed, one key for each role at each step."""

from __future__ import annotations

import enum

import jax


class Role(enum.IntEnum):
    """What a key is for; the numbers are part of every run's randomness and do not change."""

    SAMPLING = 0
    SHUFFLING = 1
    EVALUATION = 2
    INITIALISATION = 3


def role_key(seed: int, role: Role, step: int = 0) -> jax.Array:
    """Derive the key of a role at a step; an evaluation takes step 0: its noise never changes."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), int(role)), step)
