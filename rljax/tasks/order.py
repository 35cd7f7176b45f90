"""Decide which prompts stand in which batch, from nothing but the seed and the step."""

import functools

import numpy as np


@functools.lru_cache(maxsize=4)
def epoch_permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    """Return the order [size] of the prompts in an epoch; read-only, the same on every machine."""
    sequence = np.random.SeedSequence([seed, epoch])
    # RandomState's stream is frozen by NumPy's policy; that of Generator may change.
    order = np.random.RandomState(np.random.MT19937(sequence)).permutation(size)
    order.flags.writeable = False
    return order


def batch_indices(step: int, *, size: int, batch_size: int, seed: int) -> np.ndarray:
    """Return the prompts [batch_size] of a training step, as indices into a set of `size`.

    Position p = step * batch_size + i is number p % size of epoch p // size; every epoch is a new
    permutation, and a batch may reach into the next one, so nothing is left out. A pure function of
    its arguments: to resume, the step is all that must be kept. Raises ValueError unless size and
    batch_size are positive and step and seed not negative.
    """
    if size <= 0 or batch_size <= 0 or step < 0 or seed < 0:
        raise ValueError(
            "size and batch_size must be positive, step and seed not negative; got "
            f"{size=} {batch_size=} {step=} {seed=}"
        )
    positions = step * batch_size + np.arange(batch_size)
    epochs, places = np.divmod(positions, size)
    indices = [
        epoch_permutation(size, seed, int(e))[p] for e, p in zip(epochs, places, strict=True)
    ]
    return np.asarray(indices, np.int32)
