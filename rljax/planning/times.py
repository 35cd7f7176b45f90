"""Bounds of time: what a chip's figures allow, computation and traffic at their full rates."""

from __future__ import annotations

import math
from typing import NamedTuple

from rljax.models.config import TransformerConfig
from rljax.models.flops import forward_flops, prompt_flops
from rljax.planning.chips import Chip
from rljax.planning.config import PlanConfig
from rljax.planning.memory import rows_at_once
from rljax.planning.programs import Cost


class Bound(NamedTuple):
    """Seconds of a part of a step."""

    compute: float
    """Of products and of reading weights and cache, whichever takes longer."""
    traffic: float
    """Of what goes between devices."""

    @property
    def least(self) -> float:
        """Where traffic hides behind computation, or the other way round."""
        return max(self.compute, self.traffic)

    @property
    def apart(self) -> float:
        """Where one waits for the other."""
        return self.compute + self.traffic


class Flops(NamedTuple):
    """The model's operations on all devices together, by the closed formula."""

    prefill: float
    decode: float
    """All tokens after the first."""
    score: float
    update: float
    """Recomputation is not counted."""


def model_flops(plan: PlanConfig, config: TransformerConfig) -> Flops:
    """Count the operations of a step (rljax.models.flops); recomputation is not counted."""
    batch, prompt, new, step = plan.batch, plan.prompt, plan.new, plan.step
    shared, learnt = (rows_at_once(plan, program)[1] for program in ("sample", "update"))

    def read(group: int, head: int) -> float:
        prompts = batch // group
        return prompt_flops(config, prompts, prompt, head_tokens=prompts * head)

    def written(head: int) -> float:
        return forward_flops(
            config, batch * (new - 1), attended=prompt + new / 2, head_tokens=batch * head
        )

    own = plan.values == "separate"
    passes = 3 * step.num_epochs
    values = own * (read(shared, 0) + written(0))
    learning = read(learnt, 0) + written(new) + own * (read(learnt, 0) + written(0))
    return Flops(
        prefill=read(shared, 1),
        decode=written(new - 1) + values,
        score=read(shared, 0) + written(new),
        update=passes * learning,
    )


def rate_between(axes: str, mesh: dict[str, int], chip: Chip) -> float:
    """Return the bytes/s at which a device sends to others along mesh axes ("data+fsdp").

    Neighbours in the mesh fill a node, `tensor` first. A ring over several nodes is as fast as the
    network adapters of its devices in one node together, and never faster than the links inside.
    """
    named, names = axes.split("+"), list(mesh)
    inner = math.prod(mesh[name] for name in names[names.index(named[-1]) + 1 :])
    extent = inner * math.prod(mesh[name] for name in names[names.index(named[0]) :]) // inner
    if extent <= chip.node:
        return chip.link
    beside = max(1, min(math.prod(mesh[name] for name in named), chip.node // inner))
    return min(chip.link, chip.network * beside)


def bounds(
    plan: PlanConfig,
    config: TransformerConfig,
    costs: dict[str, Cost],
    *,
    weights: int,
    cache: int,
) -> dict[str, Bound]:
    """Compute the least seconds of sampling, scoring and update.

    weights: bytes of the policy as a device reads it. cache: bytes of its keys and values.
    """
    chip, devices = plan.hardware, plan.mesh.size
    peak, flops = chip.peak(plan.dtype), model_flops(plan, config)
    mesh = {"data": plan.mesh.data, "fsdp": plan.mesh.fsdp, "tensor": plan.mesh.tensor}

    def traffic(name: str) -> float:
        return sum(
            sent / rate_between(axes, mesh, chip) for axes, sent in costs[name].traffic.items()
        )

    reading = weights / chip.bandwidth
    prefill = max(flops.prefill / devices / peak, reading)
    token = reading + cache / chip.bandwidth
    decode = max(flops.decode / devices / peak, (plan.new - 1) * token)
    passes = plan.step.num_epochs * plan.minibatches * plan.accumulation
    learning = max(costs["update"].flops / peak, 3 * passes * reading)
    return {
        "sample": Bound(prefill + decode, traffic("sample")),
        "score": Bound(max(flops.score / devices / peak, reading), traffic("score")),
        "update": Bound(learning, traffic("update")),
    }
