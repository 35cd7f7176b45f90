"""A tree of token sequences with rewards, and a tabular policy on it.

A policy is a table of logits [S, V], one row for each prefix, behind the functions of a `Model`:
the sampler, the scorer and the updates of the library run on it unchanged. What they reach is
compared with exact sums.

V tokens, L slots, S prefixes, N completions, B completions given.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.environments.exact import charge_kl, expected_return, soft_value_iteration
from rljax.environments.sequences import SequenceTree
from rljax.environments.token_mdp import Tabular
from rljax.models.transformer import Model
from rljax.types import Completions, Prompts


def tabular_model(tree: SequenceTree) -> Model:
    """Build a policy whose hidden state is the one-hot number of the prefix; D = S.

    The prompt is one token, which is the root.
    """
    vocab, states = tree.vocabulary, tree.num_prefixes
    unused: Any = None

    def hidden(
        params: Any, tokens: jax.Array, attention_mask: Any = None, segments: Any = None
    ) -> jax.Array:
        def step(node: jax.Array, token: jax.Array) -> tuple[jax.Array, jax.Array]:
            child = node * vocab + 1 + token
            return child, child

        root = jnp.zeros(tokens.shape[0], jnp.int32)
        _, nodes = jax.lax.scan(step, root, tokens[:, 1:].T)
        return jax.nn.one_hot(jnp.concatenate([root[None], nodes]).T, states)

    def hidden_groups(
        params: Any, prompts: jax.Array, prompt_mask: Any, tokens: jax.Array, mask: Any
    ) -> jax.Array:
        rows = jnp.repeat(prompts, len(tokens) // len(prompts), axis=0)
        return hidden(params, jnp.concatenate([rows, tokens[:, :-1]], axis=1))

    def prefill(
        params: Any, tokens: jax.Array, attention_mask: Any, slots: Any, group: int = 1
    ) -> tuple[jax.Array, jax.Array]:
        tokens = jnp.repeat(tokens, group, axis=0)
        return hidden(params, tokens)[:, -1:], jnp.zeros(tokens.shape[0], jnp.int32)

    def decode(
        params: Any, token: jax.Array, position: Any, slot: Any, slot_mask: Any, cache: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        node = cache * vocab + 1 + token
        return jax.nn.one_hot(node, states, axis=0), node

    return Model(
        config=SimpleNamespace(vocab_size=vocab, context_length=64, hidden_size=states),  # type: ignore[arg-type]
        init=unused,
        apply=unused,
        hidden=hidden,
        hidden_groups=hidden_groups,
        head=lambda params, states: states @ params["table"],
        head_params=lambda params: params,
        prepare=lambda params: params,
        prefill=prefill,
        decode=decode,
        head_columns=lambda params, states: params["table"].T @ states,
    )


def local_rewards(tree: SequenceTree, seed: int, *, scale: float = 1.0) -> np.ndarray:
    """Draw rewards [N] that add up what stands where and what follows what.

    Each place pays for its token, and each two neighbours for their pair, standard normal both;
    the sum is shifted and scaled to mean 0 and deviation `scale` over all completions. What is
    learnt of one completion then says something of others, as in language, where in a table of
    independent rewards every good completion has to be found by chance.
    """
    rng = np.random.default_rng(seed)
    places = rng.normal(size=(tree.length, tree.vocabulary))
    pairs = rng.normal(size=(tree.vocabulary, tree.vocabulary))
    tokens, mask = tree.tokens, tree.mask
    total = np.sum(places[np.arange(tree.length), tokens] * mask, axis=1)
    total += np.sum(pairs[tokens[:, :-1], tokens[:, 1:]] * mask[:, 1:], axis=1)
    return scale * (total - total.mean()) / total.std()


class Exact(NamedTuple):
    """What a policy is worth; scalars."""

    reward: jax.Array
    """E[r]."""
    kl: jax.Array
    """KL(policy || reference) of whole completions, in nats."""


class World:
    """All completions of a token MDP, their rewards, a reference, and exact numbers of policies.

    Args:
      eos: the token that ends a completion and pads it; None: all have L tokens.
      seed: of the reference, standard normal logits, and of the rewards.
      rewards: [N]; None: independent, standard normal.

    The objective is J = E[r] - beta KL(policy || reference), in nats per completion.
    """

    def __init__(
        self,
        vocab: int,
        length: int,
        *,
        eos: int | None,
        seed: int = 0,
        rewards: np.ndarray | None = None,
    ) -> None:
        self.tree = SequenceTree(vocab, length, eos)
        self.model = tabular_model(self.tree)
        rng = np.random.default_rng(seed)
        shape = (self.tree.num_prefixes, vocab)
        self.reference = jnp.asarray(rng.normal(size=shape), jnp.float32)
        if rewards is None:
            rewards = rng.normal(size=len(self.tokens))
        self.rewards = jnp.asarray(rewards, jnp.float32)
        """[N]."""

    @property
    def tokens(self) -> np.ndarray:
        """[N, L] int32: all completions."""
        return self.tree.tokens

    @property
    def length(self) -> int:
        """L."""
        return self.tree.length

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The end token, where there is one."""
        return self.tree.eos_ids

    @property
    def mdp(self) -> Tabular:
        """The tree as an MDP."""
        return self.tree.tabular(self.rewards)

    def judge(self, completions: Completions) -> jax.Array:
        """Look up the rewards [B] of sampled completions."""
        return self.rewards[self.tree.index(completions.tokens, completions.mask)]

    def prompts(self, ids: jax.Array, samples: jax.Array) -> Prompts:
        """Return the one prompt there is, a token, under the numbers given: B times."""
        tokens = jnp.zeros((len(ids), 1), jnp.int32)
        return Prompts(tokens, jnp.ones_like(tokens, bool), ids, samples)

    def token_log_probs(self, table: jax.Array) -> jax.Array:
        """Compute log pi of each token of each completion [N, L]; 0 on padding."""
        return self.tree.token_log_probs(jax.nn.softmax(table))

    def log_probs(self, table: jax.Array) -> jax.Array:
        """Compute log pi of all completions [N]; differentiable."""
        log_policy = jax.nn.log_softmax(table)
        with jax.ensure_compile_time_eval():
            nodes = np.asarray(self.tree.prefixes(jnp.asarray(self.tokens)))
        return jnp.sum(jnp.where(self.tree.mask, log_policy[nodes, self.tokens], 0), axis=1)

    def exact(self, table: jax.Array) -> Exact:
        """Sum over all completions what a policy is worth; differentiable."""
        log_probs = self.log_probs(table)
        probs = jnp.exp(log_probs)
        kl = jnp.sum(probs * (log_probs - self.log_probs(self.reference)))
        return Exact(jnp.sum(probs * self.rewards), kl)

    def objective(self, table: jax.Array, beta: float | jax.Array) -> jax.Array:
        """J of a policy, exactly."""
        policy, reference = jax.nn.softmax(table), jax.nn.softmax(self.reference)
        charged = charge_kl(self.mdp, policy, reference, beta=beta)
        return expected_return(charged, policy, gamma=1.0)

    def optimum(self, beta: float | jax.Array) -> jax.Array:
        """beta log Z, Z = sum_y ref(y) exp(r(y) / beta): the largest J that any policy has."""
        reference = jax.nn.softmax(self.reference)
        return soft_value_iteration(self.mdp, reference, beta=beta, gamma=1.0).values[0]

    def closed(self, table: jax.Array, beta: float | jax.Array) -> jax.Array:
        """Share of the gap between the reference's J and the optimum that a policy closes."""
        start = self.objective(self.reference, beta)
        return (self.objective(table, beta) - start) / (self.optimum(beta) - start)
