"""Language tasks as Markov decision processes: text environments, and token MDPs in pure JAX."""

from rljax.environments.loading import MakeEnvironment, load_environment
from rljax.environments.text import (
    HELD_OUT_SEEDS,
    EnvironmentFailure,
    Step,
    TextEnvironment,
    is_held_out,
    reset,
    step,
)

__all__ = [
    "HELD_OUT_SEEDS",
    "EnvironmentFailure",
    "MakeEnvironment",
    "Step",
    "TextEnvironment",
    "is_held_out",
    "load_environment",
    "reset",
    "step",
]
