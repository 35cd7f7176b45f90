"""Low-rank adapters beside frozen kernels (LoRA).

Hu et al. 2021 (https://arxiv.org/abs/2106.09685), section 4.1: W x + (alpha / r) B A x. Adapters
are a nested dict like the parameters, with {"a" [r, in], "b" [out, r]} in the place of each adapted
linear map, always in float32. In a model's parameters they stand beside the kernel as `lora_a` and
`lora_b` (times the scale); `rljax.models.layers.Linear` adds them, `merge` adds them to the kernel.
"""

from __future__ import annotations

import dataclasses
import math
import re
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

Params = dict[str, Any]
LEAVES = ("lora_a", "lora_b")


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
    """Train low-rank adapters instead of the model's own parameters."""

    rank: int = 0
    """Rank of each adapter; 0: no adapters, all parameters are trained."""
    alpha: float | None = None
    """Adapters count alpha / rank times; None: alpha = rank, once."""
    targets: str | None = None
    """Regular expression found in the paths of the linear maps that get one, which are
    layers/N/attention/{query,key,value,out} and layers/N/mlp/{gate,up,down}; None:
    attention/(query|value)."""

    @property
    def scale(self) -> float:
        """What the adapters' product is multiplied by."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    @property
    def pattern(self) -> str:
        """The regular expression of the targets."""
        return "attention/(query|value)$" if self.targets is None else self.targets

    def validate(self) -> None:
        """Raise ValueError for values that mean nothing."""
        if self.rank < 0:
            raise ValueError(f"lora.rank is {self.rank}; it must be at least 0")
        for name in ("alpha", "targets"):
            if self.rank == 0 and getattr(self, name) is not None:
                raise ValueError(f"lora.{name} is {getattr(self, name)}, but lora.rank 0 is none")
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            raise ValueError(f"lora.alpha is {self.alpha}; it must be positive and finite")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(
                f"lora.targets is {self.targets!r}, no regular expression: {error}"
            ) from None


def linear_maps(params: Params) -> Iterator[tuple[str, Params]]:
    """List the linear maps inside the layers: their paths, joined with "/", and their leaves."""

    def walk(node: Params, path: str) -> Iterator[tuple[str, Params]]:
        if "kernel" in node:
            yield path, node
            return
        for name, child in node.items():
            if isinstance(child, dict):
                yield from walk(child, f"{path}/{name}")

    yield from walk(params["layers"], "layers")


def init_lora(key: jax.Array, params: Params, config: LoRAConfig) -> Params:
    """Make adapters {..: {"a" [r, in], "b" [out, r]}} that change nothing yet: b is 0.

    a is uniform within +-1 / sqrt(in), as in PEFT; it depends on the key and the path alone. Raises
    ValueError, listing the paths, where the targets match nothing, and for a rank of 0 or above
    that of a kernel.
    """
    config.validate()
    if config.rank == 0:
        raise ValueError("lora.rank is 0: there are no adapters to make")
    maps = dict(linear_maps(params))
    chosen = [path for path in maps if re.search(config.pattern, path)]
    if not chosen:
        known = dict.fromkeys(re.sub(r"/\d+/", "/N/", path) for path in maps)
        raise ValueError(
            f"lora.targets {config.pattern!r} matches no linear map; there are {', '.join(known)}"
        )
    adapters: Params = {}
    for path in chosen:
        outputs, inputs = maps[path]["kernel"].shape
        if config.rank > min(outputs, inputs):
            raise ValueError(
                f"lora.rank {config.rank} is above the rank of {path}, which is "
                f"{outputs} x {inputs}"
            )
        node = adapters
        for part in path.split("/"):
            node = node.setdefault(part, {})
        path_key = jax.random.fold_in(key, zlib.crc32(path.encode()))
        shape, bound = (config.rank, inputs), inputs**-0.5
        node["a"] = jax.random.uniform(path_key, shape, jnp.float32, -bound, bound)
        node["b"] = jnp.zeros((outputs, config.rank), jnp.float32)
    return adapters


def combine(base: Params, adapters: Params, scale: float) -> Params:
    """Put adapters beside the kernels of `base`: parameters of the model, which adds them up.

    Differentiable in the adapters; `base` is shared, not copied. Raises KeyError for an adapter
    whose place is not in `base`.
    """
    if set(adapters) == {"a", "b"}:
        scaled = jax.tree.map(lambda leaf: scale * leaf, adapters["b"])  # an array, or a share
        return base | {"lora_a": adapters["a"], "lora_b": scaled}
    return base | {name: combine(base[name], child, scale) for name, child in adapters.items()}


def merge(params: Params) -> Params:
    """Add the adapters that stand beside kernels to them: plain parameters of the same function.

    Products are float32, sums are rounded to the kernel's dtype. Stacked layers [L, ...] work as
    single ones do; parameters without adapters come back as they are.
    """

    def walk(node: Any) -> Any:
        if isinstance(node, tuple):  # stacks of layers
            return tuple(walk(child) for child in node)
        if not isinstance(node, dict):
            return node
        if "lora_a" not in node:
            return {name: walk(child) for name, child in node.items()}
        plain = {name: leaf for name, leaf in node.items() if name not in LEAVES}
        kernel, a, b = node["kernel"], node["lora_a"], node["lora_b"]
        product = jnp.matmul(b.astype(jnp.float32), a.astype(jnp.float32))
        plain["kernel"] = (kernel.astype(jnp.float32) + product).astype(kernel.dtype)
        return plain

    return walk(params)
