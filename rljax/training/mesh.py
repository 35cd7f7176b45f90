"""The mesh of a run: which devices it uses, and where its state and its batches stand on them."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from rljax import compiler
from rljax.models.config import TransformerConfig
from rljax.parallel import AXES, Layout
from rljax.training import processes
from rljax.training.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices a run uses, and for what; 1 x 1 x 1: one device, without a mesh.

    It is no part of what a run computes: a run may go on under another mesh, with the same numbers
    up to the order of sums.
    """

    data: int = 1
    """Devices that each take their own rows of a batch."""
    fsdp: int = 1
    """Devices that take rows as `data` does, and besides keep a share of every matrix: of the
    parameters, their gradients and the optimizer. Training and scoring gather a layer when it is
    due; sampling gathers the whole policy, once a rollout."""
    tensor: int = 1
    """Devices that share out heads, MLP width and vocabulary of the same rows."""

    distributed: bool = False
    """Be one of several processes that share the mesh, each with devices of its own, as SLURM,
    Kubernetes, Open MPI or a TPU pod started them: JAX finds the others."""
    coordinator: str | None = None
    """HOST:PORT of the first process, where nothing tells; with num_processes and process_id."""
    num_processes: int | None = None
    """How many processes there are."""
    process_id: int | None = None
    """Which of them this one is, from 0."""
    process_timeout_s: int = 100
    """Give a process up after so many seconds without a sign of life; the others then end."""

    @property
    def by_hand(self) -> bool:
        """Whether the flags say who the processes are."""
        return self.coordinator is not None

    @property
    def size(self) -> int:
        """Devices in all."""
        return self.data * self.fsdp * self.tensor

    @property
    def row_devices(self) -> int:
        """Into how many parts the rows of a batch go."""
        return self.data * self.fsdp

    def validate(self) -> None:
        """Raise ValueError for sizes below 1 and for processes that are half described."""
        for name in (*AXES, "process_timeout_s"):
            if getattr(self, name) < 1:
                raise ValueError(f"mesh.{name} is {getattr(self, name)}; it must be at least 1")
        given = [v is not None for v in (self.coordinator, self.num_processes, self.process_id)]
        if any(given) and not all(given):
            raise ValueError(
                "mesh.coordinator, mesh.num_processes and mesh.process_id go together: give all "
                "three, or mesh.distributed where JAX can find the processes"
            )
        if self.num_processes is not None and self.process_id is not None:
            if self.distributed:
                raise ValueError("mesh.distributed finds what mesh.coordinator says: give one")
            if not 0 <= self.process_id < self.num_processes:
                raise ValueError(
                    f"mesh.process_id is {self.process_id}; it must be at least 0 and below "
                    f"mesh.num_processes {self.num_processes}"
                )
        alone = not (self.distributed or self.by_hand)
        if alone and self.process_timeout_s != MeshConfig.process_timeout_s:
            raise ValueError(
                f"mesh.process_timeout_s is {self.process_timeout_s}, but there is one process: it "
                "needs mesh.distributed or mesh.coordinator"
            )

    def check_rows(self, rows: int, what: str) -> None:
        """Raise ValueError unless the devices divide `rows`, which are `what`."""
        if rows % self.row_devices:
            raise ValueError(
                f"mesh.data {self.data} x mesh.fsdp {self.fsdp} = {self.row_devices} devices do "
                f"not divide {what} = {rows}: each takes as many rows as the others"
            )


FORCED_DEVICES = "--xla_force_host_platform_device_count"


def split_cpu(count: int) -> None:
    """Let the CPU count as so many devices, at most one a core, before JAX has looked at it.

    Two devices of one core each decode a small model faster than one of two cores: its products are
    too small to be shared out, its rows are not. XLA_FLAGS in the environment come first; a machine
    with accelerators is not concerned, as they are what JAX takes.
    """
    asked = FORCED_DEVICES in os.environ.get("XLA_FLAGS", "")
    if asked or not 1 < count <= (os.cpu_count() or 1):
        return
    with contextlib.suppress(RuntimeError):  # JAX has looked: it keeps the devices that it has
        jax.config.update("jax_num_cpu_devices", count)


def open_mesh(config: MeshConfig) -> Mesh | None:
    """Make the mesh of a run out of the first devices that there are; None where one is enough.

    Joins the other processes, where there are any. Raises ConfigError where there are too few
    devices, or where several processes would leave some unused, before anything is loaded.
    """
    if config.distributed or config.by_hand:
        who = (config.coordinator, config.num_processes, config.process_id)
        processes.start(*who, config.process_timeout_s)
    else:
        split_cpu(config.size)
    found = jax.devices()
    if config.size > len(found):
        kind, count = found[0].platform, len(found)
        hint = f"XLA_FLAGS={FORCED_DEVICES}=N in the environment makes N of it"
        raise ConfigError(
            f"mesh.data {config.data} x mesh.fsdp {config.fsdp} x mesh.tensor {config.tensor} "
            f"needs {config.size} devices, but there {'is' if count == 1 else 'are'} {count} "
            f"({kind}): lower one of these flags"
            + (f"; to try a mesh out on a CPU, {hint}" if kind == "cpu" else "")
        )
    if processes.count() > 1 and config.size != len(found):
        raise ConfigError(
            f"mesh.data {config.data} x mesh.fsdp {config.fsdp} x mesh.tensor {config.tensor} are "
            f"{config.size} devices, but the {processes.count()} processes have {len(found)}: use "
            "all of them"
        )
    if config.size == 1:
        return None
    sizes = (config.data, config.fsdp, config.tensor)
    kinds = (AxisType.Auto,) * len(AXES)
    return jax.make_mesh(sizes, AXES, devices=found[: config.size], axis_types=kinds)


def host_memory(mesh: Mesh | None) -> contextlib.AbstractContextManager[Any]:
    """Load a model inside: with a mesh it stays in the host's memory until it is shared out."""
    if mesh is None or mesh.devices.flat[0].platform == "cpu":
        return contextlib.nullcontext()
    return jax.default_device(jax.local_devices(backend="cpu")[0])


def make_layout(mesh: Mesh | None, *models: TransformerConfig) -> Layout | None:
    """Say where the parameters of models stand on a mesh; None on one device."""
    if mesh is None:
        return None
    heads = math.gcd(*(model.num_heads for model in models))
    return Layout(mesh, heads, math.gcd(*(model.num_kv_heads for model in models)))


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the arrays of a run stand; on one device everything is left as it is."""

    layout: Layout | None = None

    def jit(self, function: Callable[..., Any], **options: Any) -> Any:
        """Compile a function: `compiler.jit`, for the mesh where there is one."""
        if self.layout is None:
            return compiler.jit(function, **options)
        return self.layout.jit(function, **options)

    def outputs(
        self, shapes: Callable[[], Any] | None = None, *, rest: bool = False
    ) -> dict[str, Any]:
        """Return the option of `jit` that keeps a state where it is.

        shapes: () -> the state's shapes; None: the function returns small things only, which all
        devices get. rest: it returns (state, such things).
        """
        if self.layout is None:
            return {}
        whole = self.layout.replicated
        if shapes is None:
            return {"out_shardings": whole}
        shardings = self.layout.shardings(shapes())
        return {"out_shardings": (shardings, whole) if rest else shardings}

    def like(self, shapes: Any) -> Any:
        """Say of the shapes of a state where its arrays shall stand, for a restored checkpoint."""
        if self.layout is None:
            return shapes
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            self.layout.shardings(shapes),
        )

    def put(self, tree: Any) -> Any:
        """Share out a state, or parameters."""
        if self.layout is None:
            return tree
        return jax.tree.map(_put, tree, self.layout.shardings(tree))

    def rows(self, tree: Any) -> Any:
        """Share out the rows of a batch: a pytree whose leaves lead with B."""
        if self.layout is None:
            return tree
        rows = self.layout.rows
        return jax.tree.map(lambda leaf: _put(leaf, rows), tree)

    def make(self, function: Callable[[Any], Any], params: Any) -> Any:
        """Make a state of parameters; on a mesh it is shared out from its first moment."""
        if self.layout is None:
            return function(params)
        options = self.outputs(lambda: jax.eval_shape(function, params))
        return jax.jit(function, **options)(self.put(params))


ONE_DEVICE = Placement()


def _put(leaf: Any, sharding: jax.sharding.NamedSharding) -> jax.Array:
    if isinstance(leaf, jax.core.Tracer):  # inside a program, which shares out by itself
        return leaf
    if isinstance(leaf, jax.Array) and (leaf.sharding == sharding or sharding.is_fully_addressable):
        return jax.device_put(leaf, sharding)
    whole = np.asarray(leaf)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])
