"""Language models: tokens -> logits, values, scores; checkpoints of common families in and out."""

from rljax.models.config import RopeScaling, TransformerConfig
from rljax.models.pretrained import (
    Pretrained,
    load_description,
    load_pretrained,
    load_tokenizer,
    random_pretrained,
    save_description,
    save_pretrained,
)
from rljax.models.transformer import Model, make_model

__all__ = [
    "Model",
    "Pretrained",
    "RopeScaling",
    "TransformerConfig",
    "load_description",
    "load_pretrained",
    "load_tokenizer",
    "make_model",
    "random_pretrained",
    "save_description",
    "save_pretrained",
]
