"""Bytes of a training step on one device: what stays, and what comes and goes."""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from rljax.models.config import TransformerConfig
from rljax.parallel import Layout
from rljax.planning.config import PlanConfig
from rljax.types import TrainState


def bytes_held(tree: Any) -> int:
    """Count the bytes of a pytree of arrays, or of their shapes, on one device."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        sharding = getattr(leaf, "sharding", None)
        shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
        total += math.prod(shape) * np.dtype(leaf.dtype).itemsize
    return total


def state_bytes(state: TrainState) -> dict[str, int]:
    """Count what stays on a device during a whole run, by what it is."""
    critic = {name: part for name, part in state.params.items() if name != "policy"}
    return {
        "policy": bytes_held(state.params["policy"]),
        "critic": bytes_held(critic),
        "reference": bytes_held(state.ref_params),
        "optimizer": bytes_held(state.opt_state),
    }


def _as_read(params: Any, layout: Layout | None) -> Iterator[tuple[str, int, bool]]:
    """List of every leaf its path, its bytes as a device reads it, and whether `fsdp` shares it."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        size = math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
        if layout is None:
            yield name, size, False
            continue
        ways = layout.mesh.shape["tensor"]
        size = size if layout.tensor_dim(name, leaf.shape) is None else size // ways
        yield name, size, layout.fsdp_dim(name, leaf.shape) is not None


def whole_parameters(params: Any, layout: Layout | None) -> int:
    """Count the bytes of parameters as a device reads them: `fsdp` gathered, `tensor` not."""
    return sum(size for _, size, _ in _as_read(params, layout))


def gathered_parameters(params: Any, layout: Layout | None) -> int:
    """Count the bytes of the whole copies that a device makes of what `fsdp` shares out."""
    return sum(size for _, size, shared in _as_read(params, layout) if shared)


def gathered_at_once(params: Any, layout: Layout | None) -> int:
    """Count the whole copies of what is gathered together: a layer, an embedding or a head.

    It is the largest of them that counts: one is dropped when the next is needed.
    """
    units: dict[str, int] = collections.defaultdict(int)
    for name, size, shared in _as_read(params, layout):
        layer = re.match(r"(.*\blayers/\d+)/", name)
        units[layer[1] if layer else name] += size if shared else 0
    return max(units.values(), default=0)


def cache_bytes(plan: PlanConfig, config: TransformerConfig, itemsize: int) -> int:
    """Count the keys and values of one device's sequences: a group's prompt once."""
    rows, group = rows_at_once(plan, "sample")
    slots = rows // group * plan.prompt + rows * plan.new
    heads = config.num_kv_heads
    if heads % plan.mesh.tensor == 0:
        heads //= plan.mesh.tensor
    return 2 * config.num_layers * heads * config.head_dim * slots * itemsize


def rows_at_once(plan: PlanConfig, program: str) -> tuple[int, int]:
    """Return how many sequences a device runs at once, and how many of them share a prompt."""
    if program == "update":
        rows, group = plan.step.pass_rows[0] // plan.mesh.row_devices, plan.step.learnt_group
    else:
        rows, group = plan.batch // plan.mesh.row_devices, plan.step.sampled_group
    return rows, group if rows % group == 0 else 1


def logits_bytes(plan: PlanConfig, config: TransformerConfig, program: str) -> int:
    """Count float32 logits: one chunk, twice in the update, which holds its gradient too."""
    rows = rows_at_once(plan, program)[0]
    vocabulary = config.vocab_size
    if vocabulary % plan.mesh.tensor == 0:
        vocabulary //= plan.mesh.tensor
    if program == "sample":
        return 4 * rows * vocabulary
    chunk = 4 * min(plan.score_rows, rows * plan.new) * vocabulary
    return 2 * chunk if program == "update" else chunk


def attention_bytes(plan: PlanConfig, config: TransformerConfig, program: str) -> int:
    """Count the float32 attention weights of one layer, of all rows that run at once."""
    rows, group = rows_at_once(plan, program)
    new = 0 if program == "sample" else plan.new
    pairs = plan.prompt**2 + group * new * (plan.prompt + new)
    return 4 * (rows // group) * config.num_heads * pairs // plan.mesh.tensor


def in_dtype(
    temporary: float,
    plan: PlanConfig,
    config: TransformerConfig,
    program: str,
    weights: float = 0.0,
) -> float:
    """Turn temporaries of a program in float32 into those in the plan's dtype.

    A CPU computes bfloat16 in float32 and keeps copies of it, so programs are compiled in float32
    and their temporaries halved, but for logits, attention weights (of all layers, in an update
    that does not recompute them) and gradients, which are float32 in both. Sampling and update make
    bfloat16 copies of the trained matrices.

    weights: bytes of the gradients of what is trained, on one device, as it is of its parameters.
    """
    if plan.dtype == "float32":
        return temporary
    kept = config.num_layers if program == "update" and plan.remat == "none" else 1
    attention = kept * attention_bytes(plan, config, program)
    always: float = logits_bytes(plan, config, program) + attention
    if program == "update":
        always += weights
    copies = 0.0 if program == "score" else weights / 2
    return (temporary + min(temporary, always)) / 2 + copies
