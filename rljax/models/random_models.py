"""Small models with random weights and a byte tokenizer, for tests and smoke runs: no download."""

from __future__ import annotations

from rljax.models.config import TransformerConfig, gpt2_config

BYTE_VOCABULARY = 259

RANDOM_CONFIGS: dict[str, tuple[str, TransformerConfig]] = {
    "tiny-gpt2": (
        "gpt2",
        gpt2_config(
            vocab_size=BYTE_VOCABULARY,
            hidden_size=64,
            num_layers=2,
            num_heads=4,
            context_length=256,
        ),
    ),
    "tiny-llama": (
        "llama",
        TransformerConfig(
            vocab_size=BYTE_VOCABULARY,
            hidden_size=64,
            num_layers=2,
            num_heads=4,
            num_kv_heads=2,
            head_dim=16,
            intermediate_size=160,
            context_length=256,
        ),
    ),
}
"""Name -> family and configuration; loaded as `random:NAME` or `random:NAME:SEED`."""


def random_config(text: str) -> tuple[str, TransformerConfig, int]:
    """Read `NAME` or `NAME:SEED`: family, configuration, seed.

    Raises: ValueError for an unknown name, listing those that are known.
    """
    name, _, seed = text.partition(":")
    if name not in RANDOM_CONFIGS or not (seed or "0").isdigit():
        raise ValueError(
            f"random:{text} is not known; known: "
            + ", ".join(f"random:{known}" for known in RANDOM_CONFIGS)
            + ", each also with a seed as in random:tiny-gpt2:1"
        )
    return *RANDOM_CONFIGS[name], int(seed or 0)
