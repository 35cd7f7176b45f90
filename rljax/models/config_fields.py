"""Typed reading of config.json fields, with complaints that name file and key.

Both spellings of rotary settings are read: `rope_theta` and `rope_scaling` of transformers 4,
`rope_parameters` of transformers 5.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from rljax.errors import UserError
from rljax.models.config import RopeScaling

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
HF_ACTIVATIONS = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_tanh": "gelu_pytorch_tanh",
    "relu": "relu",
}


class ConfigError(UserError, ValueError):
    """A config.json that names something that rljax cannot run as written."""


class Fields:
    """Reads fields of one config.json and names file and key in every complaint."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values = values
        self.where = where

    def get(self, key: str, default: Any) -> Any:
        """Read `key`; a missing key or null gives `default`."""
        value = self.values.get(key)
        return default if value is None else value

    def size(self, key: str, default: int | None = None) -> int:
        """Read a positive integer."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise self.error(key, "a positive integer is needed")
        return value

    def activation(self, key: str, default: str) -> str:
        """Read the name of an activation function."""
        name = self.get(key, default)
        if name not in ACTIVATIONS:
            raise self.error(key, f"known activations: {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[name]

    def error(self, key: str, reason: str) -> ConfigError:
        """Describe what is wrong with `key`."""
        return ConfigError(f"{self.where}: {key} is {self.values.get(key)!r}; {reason}")


@dataclasses.dataclass(frozen=True)
class Rope:
    """What a config says about rotary positions."""

    theta: float
    fraction: float
    scaling: RopeScaling | None


ROPE_KEYS = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
ROPE_TYPE_KEYS = {
    "default": set(),
    "linear": {"factor"},
    "llama3": {
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    },
}


def read_rope(
    fields: Fields,
    theta: float,
    *,
    theta_key: str = "rope_theta",
    fraction_key: str = "partial_rotary_factor",
    fraction: float = 1.0,
    layer_type: str | None = None,
) -> Rope:
    """Read rotary settings in either spelling; `layer_type` picks from a table by layer type."""
    key = "rope_scaling" if fields.get("rope_scaling", None) else "rope_parameters"
    table = dict(fields.get(key, {}))
    if layer_type is not None and (layer_type in table or not ROPE_KEYS & set(table)):
        table = dict(table.get(layer_type) or {})
    kind = table.get("rope_type", table.get("type", "default"))
    if kind not in ROPE_TYPE_KEYS:
        raise fields.error(
            key, f"rope type {kind!r} is not supported; known: default, linear, llama3"
        )
    strange = {k for k, v in table.items() if v is not None} - ROPE_KEYS - ROPE_TYPE_KEYS[kind]
    if strange:
        raise fields.error(key, f"{sorted(strange)} are not known for rope type {kind!r}")
    missing = ROPE_TYPE_KEYS[kind] - set(table)
    if missing:
        raise fields.error(key, f"{sorted(missing)} are missing for rope type {kind!r}")
    scaling = None
    if kind == "linear":
        scaling = RopeScaling("linear", float(table["factor"]))
    elif kind == "llama3":
        scaling = RopeScaling(
            "llama3",
            float(table["factor"]),
            float(table["low_freq_factor"]),
            float(table["high_freq_factor"]),
            int(table["original_max_position_embeddings"]),
        )
    return Rope(
        float(table.get("rope_theta") or fields.get(theta_key, theta)),
        float(table.get("partial_rotary_factor") or fields.get(fraction_key, fraction)),
        scaling,
    )


def whole_rope(fields: Fields, theta: float, layer_type: str | None = None) -> Rope:
    """Read rotary settings of a family that rotates the whole head."""
    rope = read_rope(fields, theta, layer_type=layer_type)
    if rope.fraction != 1.0:
        raise ConfigError(
            f"{fields.where}: partial_rotary_factor {rope.fraction} is known for gpt_neox only"
        )
    return rope


def layer_windows(fields: Fields, layers: int, default: Callable[[int], bool]) -> tuple[bool, ...]:
    """Read which layers slide from `layer_types`, else from the family's rule."""
    types = fields.get("layer_types", None)
    if types is None:
        return tuple(default(i) for i in range(layers))
    if len(types) != layers or set(types) - {"full_attention", "sliding_attention"}:
        raise fields.error(
            "layer_types", f"{layers} of full_attention or sliding_attention are needed"
        )
    return tuple(kind == "sliding_attention" for kind in types)
