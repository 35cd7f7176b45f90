"""The flags that say which language model is trained, and how it is computed."""

from __future__ import annotations

import dataclasses
from typing import Literal

from rljax.models.fused_attention import AttentionKind
from rljax.models.remat import Remat


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The language model that is the policy, and its reference."""

    source: str = "smollm2-135m-instruct"
    """A Hugging Face directory or hub id, a .gguf file, a short name, or the directory of a run
    that has ended, whose last checkpoint is taken."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What activations and matrix products are computed in. Trained parameters, the optimizer and
    all sums are float32 in both; frozen matrices (a reference, the base of adapters) are held in
    it."""
    remat: Remat = "none"
    """What the backward pass computes again instead of keeping it: attention (its weights, which
    grow with the square of the length), products (all but what parameters are multiplied with and
    give), layers (all but their inputs: least memory, a third more time)."""
    attention: AttentionKind = "einsum"
    """How whole sequences attend; fused: through jax.nn.dot_product_attention, which in bfloat16 on
    an NVIDIA GPU is cuDNN's kernel and writes no attention weights. Not for models with a soft-cap.
    """
    scan_layers: bool = False
    """Compile one layer and loop over it: for deep models, whose compilation takes minutes."""
