"""A language task so small that every completion is listed: the tree of token sequences.

States are prefixes of fewer than L tokens, actions are tokens; an episode ends with the end token
or after L tokens. Prefixes are numbered as the nodes of a heap: the children of n are n V + 1 ...
n V + V, and 0 is the empty one. With the policy that a language model is on this tree
(`model_policy`), `rljax.environments.exact` says what it is worth, to every token.

V tokens, L completion slots, S prefixes, N completions, B completions given, D hidden, P prompt.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.environments.token_mdp import Tabular
from rljax.masking import completion_mask_from_tokens
from rljax.models.transformer import Model
from rljax.rollout.distribution import SamplingConfig, distribution_logits, token_set
from rljax.rollout.scoring import completion_hidden
from rljax.types import Completions, Prompts

MAX_COMPLETIONS = 100_000


@dataclasses.dataclass(frozen=True)
class SequenceTree:
    """All sequences of at most `length` tokens of a vocabulary.

    Raises ValueError for sizes below 1, an end token that is none of the tokens, and more sequences
    than can be listed.
    """

    vocabulary: int
    """V."""
    length: int
    """L."""
    eos: int | None = None
    """The token that ends a completion; None: all have L tokens."""

    def __post_init__(self) -> None:
        if self.vocabulary < 1 or self.length < 1:
            raise ValueError(f"a tree needs tokens and slots: {self.vocabulary=}, {self.length=}")
        if self.eos is not None and not 0 <= self.eos < self.vocabulary:
            raise ValueError(f"eos is {self.eos}; it must be one of 0..{self.vocabulary - 1}")
        if self.vocabulary**self.length > MAX_COMPLETIONS:
            raise ValueError(
                f"{self.vocabulary}^{self.length} completions are more than {MAX_COMPLETIONS}: "
                "shorten them, or take a smaller vocabulary"
            )

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The end token, where there is one."""
        return () if self.eos is None else (self.eos,)

    @property
    def num_prefixes(self) -> int:
        """S."""
        return sum(self.vocabulary**depth for depth in range(self.length))

    @functools.cached_property
    def _listed(self) -> tuple[np.ndarray, np.ndarray]:
        every = np.indices((self.vocabulary,) * self.length).reshape(self.length, -1).T
        with jax.ensure_compile_time_eval():
            mask = np.asarray(completion_mask_from_tokens(jnp.asarray(every), self.eos_ids))
        padded = np.where(mask, every, 0 if self.eos is None else self.eos)
        tokens, rows = np.unique(padded, axis=0, return_index=True)
        return tokens.astype(np.int32), mask[rows]

    @property
    def tokens(self) -> np.ndarray:
        """[N, L] int32: every completion once; the end token after the end."""
        return self._listed[0]

    @property
    def mask(self) -> np.ndarray:
        """[N, L] bool: true on real tokens, the end token included."""
        return self._listed[1]

    def index(self, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        """Find completions [B, L] among all N: [B] int32, whatever stands on their padding."""
        places = self.vocabulary ** np.arange(self.length)
        numbers = np.zeros(self.vocabulary**self.length, np.int32)
        numbers[self.tokens @ places] = np.arange(len(self.tokens))
        end = 0 if self.eos is None else self.eos
        return jnp.asarray(numbers)[jnp.where(mask, tokens, end) @ jnp.asarray(places)]

    def prefixes(self, tokens: jax.Array) -> jax.Array:
        """Number the prefix before each token of completions [B, L]: [B, L] int32."""

        def step(node: jax.Array, token: jax.Array) -> tuple[jax.Array, jax.Array]:
            return node * self.vocabulary + 1 + token, node

        root = jnp.zeros(tokens.shape[0], jnp.int32)
        return jax.lax.scan(step, root, jnp.asarray(tokens, jnp.int32).T)[1].T

    def _real(self) -> tuple[np.ndarray, np.ndarray]:
        """Return of every real token of all completions the prefix before it, and itself."""
        with jax.ensure_compile_time_eval():
            nodes = np.asarray(self.prefixes(jnp.asarray(self.tokens)))
        return nodes[self.mask], self.tokens[self.mask]

    def table(self, values: jax.Array, fill: float = 0.0) -> jax.Array:
        """Put what belongs to each token of all completions, [N, L], at its prefix: [S, V].

        Completions with a common beginning have equal values there. fill: where a completion has
        already ended, and no token comes.
        """
        nodes, tokens = self._real()
        empty = jnp.full((self.num_prefixes, self.vocabulary), fill, values.dtype)
        return empty.at[nodes, tokens].set(values[self.mask])

    def at_prefixes(self, values: jax.Array) -> jax.Array:
        """Put what was known before each token of all completions, [N, L] or [N, L, ...], at its
        prefix: [S, ...], 0 where none comes."""
        nodes, _ = self._real()
        empty = jnp.zeros((self.num_prefixes, *values.shape[2:]), values.dtype)
        return empty.at[nodes].set(values[self.mask])

    def tabular(self, rewards: jax.Array) -> Tabular:
        """Return the tree as an MDP. rewards: [N], at the last token, or [N, L], of each token.

        Of the latter, completions with a common beginning have equal ones there.
        """
        if rewards.ndim == 1:
            last = self.mask & ~np.pad(self.mask[:, 1:], ((0, 0), (0, 1)))
            rewards = jnp.where(last, rewards[:, None], 0.0)
        nodes, tokens = self._real()
        child = nodes * self.vocabulary + 1 + tokens
        goes_on = (child < self.num_prefixes) & (tokens != (-1 if self.eos is None else self.eos))
        size = self.num_prefixes
        transitions = np.zeros((size, self.vocabulary, size), np.float32)
        transitions[nodes[goes_on], tokens[goes_on], child[goes_on]] = 1
        start = np.zeros(size, np.float32)
        start[0] = 1
        return Tabular(jnp.asarray(start), jnp.asarray(transitions), self.table(rewards))

    def token_log_probs(self, policy: jax.Array) -> jax.Array:
        """Compute log pi of each token of all completions, [N, L], 0 on padding; policy [S, V]."""
        nodes = self.prefixes(jnp.asarray(self.tokens))
        taken = jnp.log(jnp.where(self.mask, policy[nodes, self.tokens], 1))
        return jnp.where(self.mask, taken, 0)

    def completions(self) -> Completions:
        """Return all completions as a batch, with log-probs and values of 0."""
        zeros = jnp.zeros(self.tokens.shape, jnp.float32)
        return Completions(jnp.asarray(self.tokens), jnp.asarray(self.mask), zeros, zeros)

    def prompts(self, prompt: jax.Array) -> Prompts:
        """Return a prompt [P] before every completion."""
        rows = jnp.broadcast_to(jnp.asarray(prompt, jnp.int32), (len(self.tokens), len(prompt)))
        numbers = jnp.arange(len(rows), dtype=jnp.int32)
        return Prompts(rows, jnp.ones_like(rows, bool), jnp.zeros_like(numbers), numbers)


def model_policy(
    tree: SequenceTree, model: Model, sampling: SamplingConfig, params: Any, prompt: jax.Array
) -> jax.Array:
    """Compute what a language model is as a policy on a tree, after a prompt [P]: [S, V].

    The distribution is the one that is sampled from. Where a completion has ended it is uniform.
    Raises ValueError unless the tree has the model's vocabulary and the sampling's slots.
    """
    wanted = (model.config.vocab_size, sampling.max_new_tokens)
    if (tree.vocabulary, tree.length) != wanted:
        raise ValueError(
            f"the tree has {tree.vocabulary} tokens and {tree.length} slots, the model and its "
            f"sampling have {wanted[0]} and {wanted[1]}"
        )
    made = tree.completions()
    hidden = completion_hidden(model, params, tree.prompts(prompt), made)
    logits = model.head(params, hidden)  # [N, L, V]
    early = jnp.arange(tree.length) < sampling.min_new_tokens
    forbidden = token_set(tree.eos_ids, tree.vocabulary) & early[:, None]
    logits = distribution_logits(logits, sampling, forbidden=forbidden)
    policy = tree.at_prefixes(jax.nn.softmax(logits))
    reached = jnp.sum(policy, axis=1, keepdims=True) > 0
    return jnp.where(reached, policy, 1 / tree.vocabulary)
