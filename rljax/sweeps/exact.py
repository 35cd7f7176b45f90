"""Exact numbers of a policy on a task whose every completion is listed, in float64.

N completions; a table [S, V] has a row for each prefix.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from rljax.environments import frontier
from rljax.environments.tabular import World


def final_numbers(world: World, log_policy: np.ndarray, beta: float) -> dict[str, float]:
    """Compare a policy, given by its log-probabilities [N] in float64, with the frontier.

    beta: what a nat of KL costs.
    """
    log_reference, rewards = reference_of(world)
    found = frontier.point(log_policy, log_reference, rewards)
    start = float(np.exp(log_reference) @ rewards)
    best = frontier.optimum(log_reference, rewards, beta)
    reached = found.reward - beta * found.kl
    most = frontier.reward_at(log_reference, rewards, max(found.kl, 0.0))
    return {
        "exact/reward": found.reward,
        "exact/kl": found.kl,
        "exact/objective": reached,
        "exact/start": start,
        "exact/optimum": best,
        "exact/optimum_gap": best - reached,
        "exact/closed": (reached - start) / (best - start),
        "exact/frontier": most,
        "exact/frontier_gap": most - found.reward,
    }


def reference_of(world: World) -> tuple[np.ndarray, np.ndarray]:
    """Return the reference's log-probabilities [N] and the rewards [N], in float64."""
    return log_probs_of(world, world.reference), np.asarray(world.rewards, np.float64)


def log_probs_of(world: World, table: jax.Array) -> np.ndarray:
    """Compute a table's log-probabilities of all completions [N], in float64."""
    log_policy = frontier.log_normalised(np.asarray(table, np.float64))
    nodes = np.asarray(world.tree.prefixes(jnp.asarray(world.tokens)))
    return np.sum(log_policy[nodes, world.tokens], axis=1)
