"""Count the work of a model: operations of matrix products, and what a decoded token reads.

A multiply-add is two operations.
"""

from __future__ import annotations

from rljax.models.config import TransformerConfig


def layer_parameters(config: TransformerConfig) -> int:
    """Count the matrix parameters of one layer."""
    heads = (2 * config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    mlp = (3 if config.gated_mlp else 2) * config.intermediate_size
    return config.hidden_size * (heads + mlp)


def forward_flops(
    config: TransformerConfig,
    tokens: float,
    *,
    attended: float,
    head_tokens: float,
    last_tokens: float | None = None,
) -> float:
    """Count one forward pass over `tokens` tokens of the trunk and `head_tokens` of the head.

    attended: keys that a token looks at, on average. last_tokens: those whose states after the last
    layer are read; it computes keys and values of the others, and no more. None: all. A backward
    pass costs twice a forward pass.
    """
    last = tokens if last_tokens is None else last_tokens
    attention = 4 * config.num_heads * config.head_dim * attended
    layer = 2 * layer_parameters(config) + attention
    keys = 4.0 * config.hidden_size * config.num_kv_heads * config.head_dim  # and values
    trunk = tokens * (config.num_layers - 1) * layer + last * layer + (tokens - last) * keys
    return trunk + head_tokens * 2.0 * config.hidden_size * config.vocab_size


def prompt_flops(
    config: TransformerConfig, prompts: float, slots: float, *, head_tokens: float = 0.0
) -> float:
    """Count one forward pass over prompts of so many slots, of which the last state alone is read.

    head_tokens: how many logits of them are computed.
    """
    return forward_flops(
        config, prompts * slots, attended=(slots + 1) / 2, head_tokens=head_tokens,
        last_tokens=prompts,
    )  # fmt: skip


def decode_bytes(config: TransformerConfig, cached_tokens: float, itemsize: int) -> float:
    """Count the bytes that decoding one token per sequence has to read: weights once, and caches.

    cached_tokens: tokens in the caches of all sequences together, a shared prompt's once. itemsize:
    bytes of a number, of weights as of caches.
    """
    weights = config.num_layers * layer_parameters(config) + config.hidden_size * config.vocab_size
    cache = 2 * config.num_layers * config.num_kv_heads * config.head_dim * cached_tokens
    return itemsize * (weights + cache)
