"""A token MDP so small that every completion is enumerated, and a tabular policy on it.

A policy is a table of logits [S, V], one row for each prefix, behind the functions of a `Model`:
the sampler, the scorer and the updates of the library run on it unchanged. What they reach is
compared with exact sums.

V tokens, L slots, S prefixes of fewer than L tokens, N distinct completions.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.masking import completion_mask_from_tokens
from rljax.models.transformer import Model
from rljax.types import Completions, Prompts


def num_prefixes(vocab: int, length: int) -> int:
    return sum(vocab**depth for depth in range(length))


def tabular_model(vocab: int, length: int) -> Model:
    """Build a policy whose hidden state is the one-hot number of the prefix; D = S.

    Prefixes are numbered as the nodes of a heap: the children of n are n V + 1 ... n V + V. The
    prompt is one token, which is the root.
    """
    states = num_prefixes(vocab, length)
    unused: Any = None

    def hidden(params, tokens, attention_mask=None, segments=None):
        def step(node, token):
            child = node * vocab + 1 + token
            return child, child

        root = jnp.zeros(tokens.shape[0], jnp.int32)
        _, nodes = jax.lax.scan(step, root, tokens[:, 1:].T)
        return jax.nn.one_hot(jnp.concatenate([root[None], nodes]).T, states)

    def hidden_groups(params, prompts, prompt_mask, tokens, mask):
        rows = jnp.repeat(prompts, len(tokens) // len(prompts), axis=0)
        return hidden(params, jnp.concatenate([rows, tokens[:, :-1]], axis=1))

    def prefill(params, tokens, attention_mask, slots, group=1):
        tokens = jnp.repeat(tokens, group, axis=0)
        return hidden(params, tokens), jnp.zeros(tokens.shape[0], jnp.int32)

    def decode(params, token, position, slot, slot_mask, cache):
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


class World:
    """All completions of a token MDP, their rewards, a reference, and exact sums over them.

    Args:
      eos: the token that ends a completion and pads it; None: all have L tokens.

    The objective is J = E[r] - beta KL(policy || reference), in nats per completion.
    """

    def __init__(self, vocab: int, length: int, *, eos: int | None, seed: int = 0) -> None:
        self.vocab, self.length, self.eos = vocab, length, eos
        self.model = tabular_model(vocab, length)
        every = np.indices((vocab,) * length).reshape(length, -1).T
        mask = np.asarray(completion_mask_from_tokens(jnp.asarray(every), self.eos_ids))
        canonical = np.where(mask, every, 0 if eos is None else eos)
        self.tokens, rows = np.unique(canonical, axis=0, return_index=True)
        self.mask = mask[rows]
        rng = np.random.default_rng(seed)
        self.reference = jnp.asarray(
            rng.normal(size=(num_prefixes(vocab, length), vocab)), jnp.float32
        )
        rewards = rng.normal(size=len(rows))
        self.rewards = jnp.asarray(rewards, jnp.float32)
        """[N]."""
        by_number = np.zeros(vocab**length)
        by_number[self.tokens @ vocab ** np.arange(length)] = rewards
        self._by_number = jnp.asarray(by_number, jnp.float32)

    @property
    def eos_ids(self) -> tuple[int, ...]:
        return () if self.eos is None else (self.eos,)

    def judge(self, completions: Completions) -> jax.Array:
        """Look up the rewards [B] of sampled completions."""
        return self._by_number[completions.tokens @ self.vocab ** jnp.arange(self.length)]

    def prompts(self, ids: jax.Array, samples: jax.Array) -> Prompts:
        tokens = jnp.zeros((len(ids), 1), jnp.int32)
        return Prompts(tokens, jnp.ones_like(tokens, bool), ids, samples)

    def token_log_probs(self, table: jax.Array) -> jax.Array:
        """log pi of each token of each completion [N, L]; 0 on padding."""
        hidden = self.model.hidden(None, jnp.pad(jnp.asarray(self.tokens), ((0, 0), (1, 0))))
        log_probs = jax.nn.log_softmax(hidden[:, :-1] @ table)
        taken = jnp.take_along_axis(log_probs, jnp.asarray(self.tokens)[..., None], -1)[..., 0]
        return jnp.where(self.mask, taken, 0)

    def objective(self, table: jax.Array, beta: float | jax.Array) -> jax.Array:
        """J of a policy, exactly."""
        log_probs = jnp.sum(self.token_log_probs(table), axis=1)
        ref_log_probs = jnp.sum(self.token_log_probs(self.reference), axis=1)
        gain = self.rewards - beta * (log_probs - ref_log_probs)
        return jnp.sum(jnp.exp(log_probs) * gain)

    def optimum(self, beta: float | jax.Array) -> jax.Array:
        """beta log Z, Z = sum_y ref(y) exp(r(y) / beta): the largest J that any policy has."""
        ref_log_probs = jnp.sum(self.token_log_probs(self.reference), axis=1)
        return beta * jax.nn.logsumexp(ref_log_probs + self.rewards / beta)

    def closed(self, table: jax.Array, beta: float | jax.Array) -> jax.Array:
        """Share of the gap between the reference's J and the optimum that a policy closes."""
        start = self.objective(self.reference, beta)
        return (self.objective(table, beta) - start) / (self.optimum(beta) - start)
