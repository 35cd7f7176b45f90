"""Count the floating-point operations of a model: two per multiply-add, matrix products only."""

from __future__ import annotations

from rljax.models.config import TransformerConfig


def layer_parameters(config: TransformerConfig) -> int:
    """Count the matrix parameters of one layer."""
    heads = (2 * config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    mlp = (3 if config.gated_mlp else 2) * config.intermediate_size
    return config.hidden_size * (heads + mlp)


def forward_flops(
    config: TransformerConfig, tokens: float, *, attended: float, head_tokens: float
) -> float:
    """Count one forward pass over `tokens` tokens of the trunk and `head_tokens` of the head.

    attended: keys that a token looks at, on average. A backward pass costs twice a forward pass.
    """
    attention = 4 * config.num_heads * config.head_dim * attended
    trunk = config.num_layers * (2 * layer_parameters(config) + attention)
    return tokens * trunk + head_tokens * 2.0 * config.hidden_size * config.vocab_size
