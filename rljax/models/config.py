"""The one decoder's configuration: what separates GPT-2 from Gemma 3 is a value of these fields."""

from __future__ import annotations

import dataclasses
from typing import Any

NORMS = ("rms", "layer")
ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu")
POSITIONS = ("rotary", "learned")
ROPE_SCALINGS = ("linear", "llama3")


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched to a context longer than the one first trained on."""

    kind: str
    """`linear` (all frequencies divided by `factor`) or `llama3` (Llama 3.1's band-wise rule)."""
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """A decoder-only transformer: sizes, and the choices in which the families differ."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    context_length: int
    """Positions that the model may see."""
    norm: str = "rms"
    norm_eps: float = 1e-6
    norm_scale_offset: float = 0.0
    """Added to the stored norm weight: Gemma's weight w acts as 1 + w."""
    activation: str = "silu"
    gated_mlp: bool = True
    parallel_residual: bool = False
    """GPT-NeoX: x + attention(norm_1(x)) + mlp(norm_2(x))."""
    positions: str = "rotary"
    rope_theta: float = 10000.0
    rope_fraction: float = 1.0
    """Share of `head_dim` that rotates (GPT-NeoX: 0.25)."""
    rope_scaling: RopeScaling | None = None
    """Acts on the full-attention layers, and on all layers unless `local_rope_theta` is set."""
    local_rope_theta: float | None = None
    """Gemma 3: rotary base of the sliding layers, unscaled."""
    sliding_window: int | None = None
    """A token of a sliding layer sees itself and the `sliding_window - 1` tokens before it."""
    layer_windows: tuple[bool, ...] | None = None
    """Which layers slide; None: all of them when `sliding_window` is set."""
    attention_bias: bool = False
    """Biases on query, key and value."""
    attention_out_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    norm_bias: bool = False
    qk_norm: bool = False
    """Normalise queries and keys over `head_dim` (Qwen3, Gemma 3)."""
    post_norms: bool = False
    """Gemma 2 and 3: a norm after attention and after the MLP, before each residual sum."""
    attention_scale: float | None = None
    """Factor on query-key products; None: head_dim ** -0.5."""
    attention_softcap: float | None = None
    logits_softcap: float | None = None
    tie_embeddings: bool = True
    embedding_scale: float | None = None
    """Gemma: sqrt(hidden_size), rounded to the activations' dtype."""

    def __post_init__(self) -> None:
        for name, allowed in (
            ("norm", NORMS),
            ("activation", ACTIVATIONS),
            ("positions", POSITIONS),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"TransformerConfig.{name} is {getattr(self, name)!r}; known: {allowed}"
                )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        if self.rope_scaling is not None and self.rope_scaling.kind not in ROPE_SCALINGS:
            raise ValueError(
                f"rope_scaling.kind is {self.rope_scaling.kind!r}; one of {ROPE_SCALINGS} is known"
            )
        if self.layer_windows is not None and len(self.layer_windows) != self.num_layers:
            raise ValueError(
                f"layer_windows names {len(self.layer_windows)} layers of {self.num_layers}"
            )
        if self.rotary_dim % 2:
            raise ValueError(f"rotary dimension {self.rotary_dim} must be even")

    @property
    def rotary_dim(self) -> int:
        """Leading part of `head_dim` that rotates."""
        return int(self.head_dim * self.rope_fraction)

    @property
    def slides(self) -> tuple[bool, ...]:
        """Per layer: does it attend through the sliding window."""
        if self.sliding_window is None:
            return (False,) * self.num_layers
        if self.layer_windows is None:
            return (True,) * self.num_layers
        return self.layer_windows


def gpt2_config(
    *,
    vocab_size: int,
    hidden_size: int,
    num_layers: int,
    num_heads: int,
    context_length: int,
    **changes: Any,
) -> TransformerConfig:
    """Describe a GPT-2 of a size; `changes` replace or add further fields."""
    fields: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "num_kv_heads": num_heads,
        "head_dim": hidden_size // num_heads,
        "intermediate_size": 4 * hidden_size,
        "context_length": context_length,
        "norm": "layer",
        "norm_eps": 1e-5,
        "activation": "gelu_tanh",
        "gated_mlp": False,
        "positions": "learned",
        "attention_bias": True,
        "attention_out_bias": True,
        "mlp_bias": True,
        "norm_bias": True,
    }
    return TransformerConfig(**(fields | changes))
