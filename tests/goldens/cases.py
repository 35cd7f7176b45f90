"""The tiny checkpoints whose logits are recorded: one config.json a case, weights from a formula.

Weights are not stored: they come from numpy's RandomState, whose stream is frozen, seeded by the
tensor's name. The recorded file holds the tensors' names and shapes as transformers writes them.
"""

from __future__ import annotations

import zlib

import numpy as np

VOCABULARY = 64
EOS = 2
LENGTH = 20
PADDING = 7
GENERATED = 64

COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": EOS,
    "pad_token_id": 0,
}
NEOX = {k: v for k, v in COMMON.items() if k != "num_key_value_heads"}
GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 128,
    "bos_token_id": 1,
    "eos_token_id": EOS,
    "pad_token_id": 0,
}
GEMMA = COMMON | {
    "head_dim": 12,
    "query_pre_attn_scalar": 20,
    "sliding_window": 6,
    "final_logit_softcapping": 3.0,
    "attn_logit_softcapping": 1.5,
}
LLAMA3_SCALING = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CASES = {
    "gpt2": ("gpt2", GPT2 | {"n_inner": 48}),
    "gpt2_untied_unscaled": (
        "gpt2",
        GPT2 | {"tie_word_embeddings": False, "scale_attn_weights": False},
    ),
    "gpt_neox": ("gpt_neox", NEOX | {"rotary_pct": 0.25}),
    "gpt_neox_sequential": (
        "gpt_neox",
        NEOX | {"use_parallel_residual": False, "attention_bias": False, "rotary_pct": 1.0},
    ),
    "llama": ("llama", COMMON),
    "llama3_scaled": (
        "llama",
        COMMON
        | {
            "rope_parameters": LLAMA3_SCALING,
            "tie_word_embeddings": True,
            "attention_bias": True,
            "mlp_bias": True,
            "num_key_value_heads": 4,
        },
    ),
    "llama_linear": (
        "llama",
        COMMON | {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}},
    ),
    "mistral": ("mistral", COMMON | {"sliding_window": 6}),
    "qwen2": ("qwen2", COMMON | {"tie_word_embeddings": True}),
    "qwen2_sliding": (
        "qwen2",
        COMMON | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", COMMON | {"head_dim": 12, "tie_word_embeddings": True}),
    "gemma2": ("gemma2", GEMMA),
    "gemma3_text": (
        "gemma3_text",
        GEMMA
        | {
            "num_hidden_layers": 4,
            "final_logit_softcapping": None,
            "attn_logit_softcapping": None,
            "sliding_window_pattern": 3,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
            },
        },
    ),
}


def random_weight(name: str, shape: tuple[int, ...], gemma: bool) -> np.ndarray:
    """Make a tensor large enough that every part of the model shows in the logits."""
    draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) > 1:
        return (draw * (1.0 if "wpe" not in name else 0.3) * 32**-0.5).astype(np.float32)
    if name.endswith(".bias"):
        return (0.2 * draw).astype(np.float32)
    return (0.3 * draw + (0.0 if gemma else 1.0)).astype(np.float32)


def rows() -> tuple[np.ndarray, np.ndarray]:
    """Make tokens and mask [3, LENGTH]: no padding, left padding, right padding."""
    tokens = np.random.RandomState(0).randint(3, VOCABULARY, (3, LENGTH)).astype(np.int32)
    mask = np.ones((3, LENGTH), bool)
    mask[1, :PADDING] = False
    mask[2, -PADDING:] = False
    return np.where(mask, tokens, 0).astype(np.int32), mask
