"""Per-device programs on a mesh of devices: what `jax.pmap` was, by `jax.shard_map`.

A mesh has three axes. The rows of a batch are shared out over `data` and `fsdp`: every device runs
the same function on its own rows, and sums (gradients, metrics) are taken over both axes. `fsdp`
also shares out the parameters: what a function is given of them are `rljax.shares`, which a model
gathers layer by layer where it reads them, and whose gradients come back shared out. `tensor`
shares out heads, MLP width and vocabulary (Shoeybi et al. 2019, https://arxiv.org/abs/1909.08053),
by the compiler.

Code that runs on one device says `over_rows` and `summed_over_rows` where it could run on many;
outside of `Layout.scope` these are the function itself.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rljax import compiler
from rljax.shares import Share, is_share

ROW_AXES = ("data", "fsdp")
AXES = (*ROW_AXES, "tensor")

_TENSOR_RULES: tuple[tuple[str, int, str], ...] = (
    (r"attention/query/(kernel|bias|(lora_)?b)$", 0, "num_heads"),
    (r"attention/(key|value)/(kernel|bias|(lora_)?b)$", 0, "num_kv_heads"),
    (r"attention/out/(kernel|(lora_)?a)$", 1, "num_heads"),
    (r"mlp/(gate|up)/(kernel|bias|(lora_)?b)$", 0, ""),
    (r"mlp/down/(kernel|(lora_)?a)$", 1, ""),
    (r"(^|/)embed/embedding$", 0, ""),
    (r"(^|/)head/(kernel|bias)$", 0, ""),
)
"""Pattern found in a parameter's path, the dimension that `tensor` shares out, and what else it has
to divide. Kernels are [out, in]; `a` [r, in] and `b` [out, r] are low-rank adapters."""


_KEEP_BARRIERS = {"xla_disable_hlo_passes": "cse_barrier_expander"}
"""XLA's CPU compiler drops the barriers that keep a second gather of a parameter apart from the
first, and then makes one of both; those of accelerators keep them to the end."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where rows and parameters stand on a mesh with the axes data, fsdp and tensor."""

    mesh: Mesh
    num_heads: int
    """Of the model (the greatest common divisor, of several)."""
    num_kv_heads: int

    @property
    def row_devices(self) -> int:
        """Into how many parts the rows of a batch go."""
        return self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    def tensor_dim(self, path: str, shape: tuple[int, ...]) -> int | None:
        """Return the dimension of a parameter that `tensor` shares out; None: none."""
        size = self.mesh.shape["tensor"]
        if size == 1:
            return None
        for pattern, dim, heads in _TENSOR_RULES:
            if re.search(pattern, path):
                whole = shape[dim] % size == 0
                return dim if whole and (not heads or getattr(self, heads) % size == 0) else None
        return None

    def fsdp_dim(self, path: str, shape: tuple[int, ...]) -> int | None:
        """Return the dimension that `fsdp` shares out: the largest that it divides; None: none.

        Vectors and scalars stay whole: they are small, and would each cost a collective.
        """
        size, taken = self.mesh.shape["fsdp"], self.tensor_dim(path, shape)
        if size == 1 or len(shape) < 2:
            return None
        free = [d for d in range(len(shape)) if d != taken and shape[d] and shape[d] % size == 0]
        return max(free, key=lambda d: (shape[d], -d), default=None)

    def spec(self, path: str, shape: tuple[int, ...]) -> P:
        """Return how a parameter, or what an optimizer keeps of it, is shared out."""
        axes: list[str | None] = [None] * len(shape)
        for axis, dim in (("tensor", self.tensor_dim(path, shape)),
                          ("fsdp", self.fsdp_dim(path, shape))):  # fmt: skip
            if dim is not None:
                axes[dim] = axis
        return P(*axes)

    @property
    def replicated(self) -> NamedSharding:
        """The whole array on every device."""
        return NamedSharding(self.mesh, P())

    @property
    def rows(self) -> NamedSharding:
        """The leading dimension over `data` and `fsdp`."""
        return NamedSharding(self.mesh, P(ROW_AXES))

    def shardings(self, tree: Any) -> Any:
        """Return the sharding of every leaf of a state: arrays, or their shapes."""
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: NamedSharding(self.mesh, self.spec(_name(path), leaf.shape)), tree
        )

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Trace `over_rows` and `summed_over_rows` for this mesh inside."""
        with _scope(self):
            yield

    def jit(self, function: Callable[..., Any], **options: Any) -> Any:
        """Compile a function for this mesh: `jax.jit`, traced inside `scope`."""

        @functools.wraps(function)
        def scoped(*args: Any) -> Any:
            with self.scope():
                return function(*args)

        platform = self.mesh.devices.flat[0].platform
        if platform == "cpu":
            options["compiler_options"] = _KEEP_BARRIERS | options.get("compiler_options", {})
        return compiler.jit(scoped, platform=platform, **options)

    def _dims(self, tree: Any) -> Any:
        """Return the dimension of every leaf that `fsdp` shares out, or -1."""

        def dim(path: Any, leaf: Any) -> int:
            found = self.fsdp_dim(_name(path), jnp.shape(leaf))  # a plain number has one too
            return -1 if found is None else found

        return jax.tree_util.tree_map_with_path(dim, tree)

    def _map(self, function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Any:
        """Run a function on every device; only `tensor`, where it is in use, is the compiler's."""

        def alone(*args: Any) -> Any:
            with _scope(None), _inside(self):
                return function(*args)

        manual = set(ROW_AXES) if self.mesh.shape["tensor"] > 1 else set(AXES)
        return jax.shard_map(
            alone,
            mesh=self.mesh,
            in_specs=in_specs,
            out_specs=out_specs,
            axis_names=manual,
            check_vma=False,
        )


_current: contextvars.ContextVar[Layout | None] = contextvars.ContextVar("layout", default=None)


@contextlib.contextmanager
def _scope(layout: Layout | None) -> Iterator[None]:
    token = _current.set(layout)
    try:
        yield
    finally:
        _current.reset(token)


_mapped: contextvars.ContextVar[Layout | None] = contextvars.ContextVar("mapped", default=None)


@contextlib.contextmanager
def _inside(layout: Layout) -> Iterator[None]:
    token = _mapped.set(layout)
    try:
        yield
    finally:
        _mapped.reset(token)


def common_maximum(value: jax.Array) -> jax.Array:
    """Return the largest of the devices' values inside of `over_rows` and `summed_over_rows`.

    What it decides is the same for all devices. Elsewhere it is the value itself.
    """
    return value if _mapped.get() is None else jax.lax.pmax(value, ROW_AXES)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _specs(dims: Any) -> Any:
    return jax.tree.map(lambda dim: P() if dim < 0 else P(*[None] * dim, "fsdp"), dims)


def _shares(tree: Any, dims: Any) -> Any:
    return jax.tree.map(
        lambda leaf, dim: leaf if dim < 0 else Share(leaf, dim - leaf.ndim), tree, dims
    )


def _check(layout: Layout, rows: Any) -> None:
    for leaf in jax.tree.leaves(rows):
        if leaf.shape[0] % layout.row_devices:
            raise ValueError(
                f"{leaf.shape[0]} rows cannot be shared out over {layout.row_devices} devices "
                "(mesh.data x mesh.fsdp)"
            )


def over_rows(function: Callable[..., Any]) -> Callable[..., Any]:
    """Map function(params, rows, *shared) -> rows over the devices, each with its own rows.

    params: parameters, of which the function sees each device's shares (`rljax.shares`). rows: a
    pytree whose leaves lead with B. shared: the same everywhere. A loop inside may end on each
    device when its own rows have ended, if it gathers nothing. The result's leaves lead with B.
    Raises ValueError where the devices do not divide B.
    """
    layout = _current.get()
    if layout is None:
        return function

    def mapped(params: Any, rows: Any, *shared: Any) -> Any:
        _check(layout, rows)
        dims = layout._dims(params)

        def local(params: Any, rows: Any, *shared: Any) -> Any:
            return function(_shares(params, dims), rows, *shared)

        specs = (_specs(dims), P(ROW_AXES), *[P()] * len(shared))
        return layout._map(local, specs, P(ROW_AXES))(params, rows, *shared)

    return mapped


def summed_over_rows(
    function: Callable[..., tuple[Any, dict[str, jax.Array]]], maxima: tuple[str, ...]
) -> Callable[[Any, Any, Any], tuple[Any, dict[str, jax.Array]]]:
    """Map function(params, frozen, rows) -> gradients, metrics over the devices; add up.

    params and frozen: as `over_rows` gives parameters; the gradients have the structure of params.
    maxima: metrics that combine by their maximum; the others add up, as gradients do. Raises
    ValueError where the devices do not divide the rows.
    """
    layout = _current.get()
    if layout is None:
        return function

    def mapped(params: Any, frozen: Any, rows: Any) -> tuple[Any, dict[str, jax.Array]]:
        _check(layout, rows)
        dims, frozen_dims = layout._dims(params), layout._dims(frozen)

        def total(leaf: Any) -> jax.Array:
            if is_share(leaf):  # summed over `fsdp` where it was gathered
                return jax.lax.psum(leaf.part, "data")
            return jax.lax.psum(leaf, ROW_AXES)

        def local(params: Any, frozen: Any, rows: Any) -> tuple[Any, dict[str, jax.Array]]:
            grads, metrics = function(_shares(params, dims), _shares(frozen, frozen_dims), rows)
            combined = {
                name: (jax.lax.pmax if name in maxima else jax.lax.psum)(value, ROW_AXES)
                for name, value in metrics.items()
            }
            return jax.tree.map(total, grads, is_leaf=is_share), combined

        specs = _specs(dims)
        made = layout._map(local, (specs, _specs(frozen_dims), P(ROW_AXES)), (specs, P()))
        return made(params, frozen, rows)

    return mapped
