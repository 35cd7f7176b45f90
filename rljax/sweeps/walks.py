"""Walks on a small graph, with the exact values of a policy: a world of nano size.

The task "randomwalks" of trlx, small enough to list every legal walk. B completions, L slots, N
nodes, S legal prefixes.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.models.transformer import Model
from rljax.types import Completions

GOAL = 0


class Tree(NamedTuple):
    """All legal walks that have not reached the goal."""

    start: np.ndarray
    """[S] int32: the node that a walk begins at."""
    tokens: np.ndarray
    """[S, L] int32: the nodes it went to, 0 behind them."""
    depth: np.ndarray
    """[S] int32: how many these are."""
    child: np.ndarray
    """[S, N] int32: the prefix that a move leads to; S where the walk ends, or is illegal."""
    paid: np.ndarray
    """[S, N] float32: the score of a walk that a move ends."""


@dataclasses.dataclass(frozen=True)
class Walks:
    """Go from a node to the goal, node 0, by the edges of a directed graph, in few moves.

    A prompt is a start, a completion the nodes that follow; reaching the goal ends it. Score, as
    trlx's "optimality": (L + 1 - moves) / (L + 1 - fewest moves) for legal walks to the goal, so 1
    for a shortest one; else 0. Demonstrations are random walks.
    """

    nodes: int = 12
    """Nodes, which are the vocabulary."""
    edges: int = 3
    """Edges from each node, drawn once; every node reaches the goal."""
    moves: int = 6
    """L: moves of a walk at most, the completion slots."""
    graph: int = 0
    """Which graph is drawn."""

    def validate(self) -> None:
        """Raise ValueError for a graph that cannot be."""
        if not 1 <= self.edges < self.nodes:
            raise ValueError(f"edges is {self.edges}; it must be from 1 to nodes - 1")
        if self.nodes * self.edges**self.moves > 200_000:
            raise ValueError("there are too many walks to list: lower edges or moves")

    @property
    def vocabulary(self) -> int:
        """N."""
        return self.nodes

    @property
    def eos(self) -> int:
        """The goal ends a walk."""
        return GOAL

    @functools.cached_property
    def adjacent(self) -> np.ndarray:
        """[N, N] bool: where edges lead; the first drawn graph in which L moves are enough."""
        rng = np.random.default_rng(self.graph)
        for _ in range(1000):
            made = np.zeros((self.nodes, self.nodes), bool)
            for node in range(self.nodes):
                others = np.delete(np.arange(self.nodes), node)
                made[node, rng.choice(others, self.edges, replace=False)] = True
            if np.all(self._fewest(made)[1:] <= self.moves):
                return made
        raise ValueError(f"no graph of {self.nodes} nodes has the goal within {self.moves} moves")

    def _fewest(self, adjacent: np.ndarray) -> np.ndarray:
        """Count the fewest moves from each node to the goal [N]; a large number where none."""
        moves = np.where(np.arange(self.nodes) == GOAL, 0, self.nodes + self.moves)
        for _ in range(self.nodes):
            moves = np.minimum(moves, 1 + np.min(np.where(adjacent, moves, 10**6), axis=1))
        return moves

    @functools.cached_property
    def fewest(self) -> np.ndarray:
        """[N]: the fewest moves from each node to the goal."""
        return self._fewest(self.adjacent)

    def prompts(self) -> np.ndarray:
        """[N - 1, 1]: every start but the goal."""
        return np.arange(1, self.nodes, dtype=np.int32)[:, None]

    def demonstrate(self, key: jax.Array, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Walk at random from each start [B]: tokens, mask [B, L]."""
        legal = jnp.asarray(self.adjacent)

        def move(node: jax.Array, key: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            drawn = jax.random.categorical(key, jnp.where(legal[node], 0.0, -jnp.inf))
            after = jnp.where(node == GOAL, GOAL, drawn)
            return after, (after, node != GOAL)

        keys = jax.random.split(key, self.moves)
        tokens, mask = jax.lax.scan(move, ids + 1, keys)[1]
        return tokens.T.astype(jnp.int32), mask.T

    def judge(self, ids: jax.Array, made: Completions) -> dict[str, jax.Array]:
        """Score walks; see the class."""
        start = ids + 1
        tokens, mask = made.tokens, made.mask
        before = jnp.concatenate([start[:, None], tokens[:, :-1]], axis=1)
        legal = jnp.all(jnp.asarray(self.adjacent)[before, tokens] | ~mask, axis=1)
        reached = jnp.any(mask & (tokens == GOAL), axis=1)
        moves = jnp.sum(mask, axis=1)
        room = self.moves + 1
        share = (room - moves) / (room - jnp.asarray(self.fewest)[start])
        score = jnp.where(legal & reached, share, 0.0).astype(jnp.float32)
        return {"score": score, "legal": legal.astype(jnp.float32)}

    @functools.cached_property
    def tree(self) -> Tree:
        """All legal prefixes, those of one length together, the shortest first."""
        found: list[tuple[int, tuple[int, ...]]] = [(s, ()) for s in range(1, self.nodes)]
        numbers = {walk: i for i, walk in enumerate(found)}
        for start, path in found:  # grows on the way
            node = path[-1] if path else start
            for after in np.flatnonzero(self.adjacent[node]):
                walk = (start, (*path, int(after)))
                if after != GOAL and len(walk[1]) < self.moves:
                    numbers[walk] = len(found)
                    found.append(walk)
        size = len(found)
        tokens = np.zeros((size, self.moves), np.int32)
        child = np.full((size, self.nodes), size, np.int32)
        paid = np.zeros((size, self.nodes), np.float32)
        for i, (start, path) in enumerate(found):
            tokens[i, : len(path)] = path
            node = path[-1] if path else start
            for after in np.flatnonzero(self.adjacent[node]):
                child[i, after] = numbers.get((start, (*path, int(after))), size)
            if self.adjacent[node, GOAL]:
                room = self.moves + 1
                paid[i, GOAL] = (room - len(path) - 1) / (room - self.fewest[start])
        starts = np.asarray([start for start, _ in found], np.int32)
        depth = np.asarray([len(path) for _, path in found], np.int32)
        return Tree(starts, tokens, depth, child, paid)

    def exact_values(self, model: Model, params: dict[str, jax.Array]) -> jax.Array:
        """Compute what each legal prefix is worth to a policy at temperature 1: [S + 1].

        The first N - 1 are the starts; the last is that of everything illegal, 0.
        """
        tree = self.tree
        size = len(tree.depth)
        text = jnp.concatenate([tree.start[:, None], tree.tokens], axis=1)
        states = model.hidden(params, text)[jnp.arange(size), tree.depth]
        policy = jax.nn.softmax(model.head(params, states))
        values = jnp.zeros(size + 1)
        paid = jnp.sum(policy * tree.paid, axis=1)
        for depth in range(self.moves - 1, -1, -1):
            rows = np.flatnonzero(tree.depth == depth)
            later = jnp.sum(policy[rows] * values[tree.child[rows]], axis=1)
            values = values.at[rows].set(paid[rows] + later)
        return values

    def prefixes(self, ids: jax.Array, tokens: jax.Array) -> jax.Array:
        """Number the prefix before each token [B, L]; S where it is illegal or has ended."""
        size = len(self.tree.depth)
        child = jnp.asarray(np.pad(self.tree.child, ((0, 1), (0, 0)), constant_values=size))

        def step(prefix: jax.Array, token: jax.Array) -> tuple[jax.Array, jax.Array]:
            return child[prefix, token], prefix

        return jax.lax.scan(step, ids, tokens.T)[1].T
