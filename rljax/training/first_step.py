"""What only the first step of a run does: compile ahead, and stop if two ways of scoring disagree.

The update is the largest program, and needs no more of a batch than its shapes: the host compiles
it, or loads it from the cache, while the devices sample the first batch. JAX keeps what was
compiled, and the call with the arrays finds it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp

from rljax.rollout.agreement import (
    check_coarse,
    check_mean_gap,
    check_ratio,
    check_start_kl,
    coarse_kl,
)
from rljax.training.compilation import announce
from rljax.training.programs import policies_of
from rljax.types import Rollout, TrainState

if TYPE_CHECKING:
    from rljax.training.setup import OnPolicy


def compile_learning(setup: OnPolicy, state: TrainState, step: int, rollout: Rollout) -> None:
    """Compile the update, and the scoring that `check_first_step` reads, for a batch's shapes.

    rollout: as it was given to the devices; its numbers are not waited for.
    """
    scores = jnp.zeros(len(rollout.completions.tokens))
    more = (scores,) if setup.algorithm.wants_greedy else ()
    given = setup.update_arguments(state, step, rollout, scores, *more)
    if compares_scorings(setup):
        setup.programs.log_probs.lower(policies_of(state), given[1]).compile()
    with announce("the update"):
        setup.programs.update.lower(*given).compile()


def gap_bound(setup: OnPolicy) -> float | None:
    """Return how far sampler and learner may differ: in a ratio, or in the mean; None: anyhow."""
    config = setup.config
    exact = config.model.dtype == "float32"
    return config.max_ratio_gap if exact or config.sampling.coarse else config.max_mean_gap


def compares_scorings(setup: OnPolicy) -> bool:
    """Say whether the learner scores the first batch before it learns from it."""
    return gap_bound(setup) is not None or setup.config.sampling.coarse


def check_first_step(
    setup: OnPolicy, state: TrainState, rollout: Rollout, texts: list[str]
) -> None:
    """Stop before anything is learnt if sampler, learner or reference disagree."""
    config, made, at_start = setup.config, rollout.completions, int(state.step) == 0
    made = made._replace(log_probs=made.own_log_probs)  # of a mixture, the policy's part
    rollout = rollout._replace(completions=made)
    coarse, exact = config.sampling.coarse, config.model.dtype == "float32"
    bound = gap_bound(setup)
    if compares_scorings(setup):
        scored = setup.log_probs(state, rollout)
    if bound is not None and coarse:
        check_coarse(coarse_kl(made, scored))
    elif bound is not None and exact:
        check_ratio(made, scored, tolerance=bound, texts=texts)
    elif bound is not None:
        check_mean_gap(made, scored, tolerance=bound, who="learner")
    if coarse:  # the policy is the learner's; the sampler has another KL
        rollout = rollout._replace(completions=made._replace(log_probs=scored))
    if at_start and exact and config.max_start_kl is not None:
        check_start_kl(rollout, tolerance=config.max_start_kl)
    elif at_start and not exact and config.max_mean_gap is not None:
        gap = config.max_mean_gap
        check_mean_gap(rollout.completions, rollout.ref_log_probs, tolerance=gap, who="reference")
