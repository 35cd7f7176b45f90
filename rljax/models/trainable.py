"""Say which part of a model is trained: all of it, low-rank adapters, or the upper layers.

Training keeps a frozen base, which is the reference policy too, and the trained part alone; the
policy's parameters are composed of both where they are used. So a reference costs no second copy,
and optimizer state exists for the trained part only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from rljax.models import lora
from rljax.models.lora import LoRAConfig

Params = dict[str, Any]


class Trainable(NamedTuple):
    """How parameters fall into a trained and a frozen part, and come together again."""

    split: Callable[[Params, jax.Array], tuple[Params, Params]]
    """(params, key) -> (policy, base): the part to train, and what stays as it is. They may share
    buffers: copy the policy before it is donated."""
    compose: Callable[[Params, Params], Params]
    """(base, policy) -> params for the model; differentiable in the policy. base is a whole model
    and, at the start, the same function as the composition: the reference."""
    merge: Callable[[Params, Params], Params]
    """(base, policy) -> plain params, as `save_pretrained` writes and any model reads them."""


def make_trainable(lora_config: LoRAConfig | None = None, train_layers: int = 0) -> Trainable:
    """Choose the trained part.

    lora_config: with a rank above 0, adapters (Hu et al. 2021, https://arxiv.org/abs/2106.09685).
    train_layers: above 0, so many upper layers and the final norm; embeddings and output head stay,
      with the lower layers, as in trlX's hydra (Havrilla et al. 2023, https://aclanthology.org/
      2023.emnlp-main.530). 0: no limit.

    Raises ValueError where both are given; `split` where the model has not so many layers.
    """
    adapted = lora_config is not None and lora_config.rank > 0
    if train_layers < 0:
        raise ValueError(f"train_layers is {train_layers}; it must be at least 0")
    if adapted and train_layers:
        raise ValueError(
            f"train_layers {train_layers} and lora.rank choose the trained part in two ways: give "
            "one of them; lora.targets can name layers, such as 'layers/(10|11)/'"
        )
    if lora_config is not None:
        lora_config.validate()
    if lora_config is not None and adapted:
        return _adapters(lora_config)
    if train_layers:
        return _upper_layers(train_layers)
    return Trainable(
        split=lambda params, key: (params, params),
        compose=lambda base, policy: policy,
        merge=lambda base, policy: policy,
    )


def _adapters(config: LoRAConfig) -> Trainable:
    def compose(base: Params, policy: Params) -> Params:
        return lora.combine(base, policy, config.scale)

    return Trainable(
        split=lambda params, key: (lora.init_lora(key, params, config), params),
        compose=compose,
        merge=lambda base, policy: lora.merge(compose(base, policy)),
    )


def _upper_layers(count: int) -> Trainable:
    def split(params: Params, key: jax.Array) -> tuple[Params, Params]:
        del key
        total = len(params["layers"])
        if count > total:
            raise ValueError(f"train_layers is {count}, but the model has {total} layers")
        upper = {str(i): params["layers"][str(i)] for i in range(total - count, total)}
        return {"layers": upper, "final_norm": params["final_norm"]}, params

    def compose(base: Params, policy: Params) -> Params:
        layers = base["layers"] | policy["layers"]
        return base | {"layers": layers, "final_norm": policy["final_norm"]}

    return Trainable(split, compose, merge=compose)
