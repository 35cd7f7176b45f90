"""Saves checkpoints without end in a forked child, to be killed: run by test_checkpoint_kill.py.

Reads directories from stdin, one a line; for each forks a child that saves steps N, N+1, ... and
prints `start STEP` before a save and `done STEP` once it is complete. Forking from a process that
has imported everything, but started no JAX backend, spares each round the imports.
"""

import os
import sys
import warnings

import jax.numpy as jnp

from rljax.training.checkpoint import Checkpoints

SIZE = 2_500_000  # floats per array, 2 arrays: 20 MB


def save_forever(directory: str) -> None:
    checkpoints = Checkpoints(directory, keep_last=2)
    restored = checkpoints.restore(like={"a": jnp.zeros(SIZE), "b": jnp.zeros(SIZE)})
    step = restored[0] if restored else 0
    print(f"resumed {step}", flush=True)
    while True:
        step += 1
        print(f"start {step}", flush=True)
        state = {"a": jnp.full(SIZE, float(step)), "b": jnp.full(SIZE, float(-step))}
        checkpoints.save(step, state, {"step": step}, score=float(step % 5))
        checkpoints.wait()
        print(f"done {step}", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            save_forever(line.strip())
        print(f"child {child}", flush=True)
        os.waitpid(child, 0)
        print("ended", flush=True)
