"""A plan as a table for people, and as numbers for programs."""

from __future__ import annotations

import dataclasses
from typing import Any

from rljax.planning.config import PlanConfig
from rljax.planning.plan import Plan

TITLES = {"sample": "sampling", "score": "reference", "update": "update"}


def numbers(config: PlanConfig, plan: Plan) -> dict[str, Any]:
    """Return all of a plan as JSON holds it: bytes, FLOPs, seconds."""
    return {
        "flags": dataclasses.asdict(config),
        "parameters": plan.parameters,
        "compiled_layers": list(plan.depths),
        "state_bytes": plan.state,
        "gradient_bytes": plan.gradients,
        "cache_bytes": plan.cache,
        "programs": {
            name: cost._asdict()
            | {
                "peak_bytes": plan.peak_in(name),
                "compute_s": plan.bounds[name].compute,
                "traffic_s": plan.bounds[name].traffic,
                "least_s": plan.bounds[name].least,
            }
            for name, cost in plan.costs.items()
        },
        "model_flops": plan.flops._asdict(),
        "step_least_s": sum(bound.least for bound in plan.bounds.values()),
        "step_apart_s": sum(bound.apart for bound in plan.bounds.values()),
        "peak_bytes": plan.peak,
        "peak_of": plan.peak_of,
        "peak_parts": plan.parts,
        "room_bytes": plan.room,
        "fits": plan.fits,
        "advice": plan.advice,
    }


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f}" if size >= 1e7 else f"{size / 1e9:.2g}"


def _line(cells: list[str]) -> str:
    return f"{cells[0]:<11}" + "".join(f"{cell:>10}" for cell in cells[1:])


def _program_lines(config: PlanConfig, plan: Plan) -> list[str]:
    flops = {
        "sample": plan.flops.prefill + plan.flops.decode,
        "score": plan.flops.score,
        "update": plan.flops.update,
    }
    heads = ("temp GB", "peak GB", "TFLOP", "formula", "compute s", "traffic s", "least s")
    lines = ["", _line(["program", *heads])]
    for name, cost in plan.costs.items():
        bound, count = plan.bounds[name], flops[name] / config.mesh.size
        figures = (cost.flops / 1e12, count / 1e12, bound.compute, bound.traffic, bound.least)
        sizes = (cost.temporary, plan.peak_in(name))
        cells = [*map(_gb, sizes), *(f"{figure:.3g}" for figure in figures)]
        lines.append(_line([TITLES[name], *cells]))
    return lines


def _traffic_lines(plan: Plan) -> list[str]:
    axes = dict.fromkeys(axis for cost in plan.costs.values() for axis in cost.traffic)
    return [
        f"sent over {axis}: "
        + ", ".join(
            f"{TITLES[name]} {_gb(cost.traffic.get(axis, 0.0))} GB"
            for name, cost in plan.costs.items()
        )
        for axis in axes
    ]


def table(config: PlanConfig, plan: Plan) -> str:
    """Lay a plan out for reading; all figures are of one device unless it says so."""
    mesh, least = config.mesh, sum(bound.least for bound in plan.bounds.values())
    apart = sum(bound.apart for bound in plan.bounds.values())
    compiled = " and ".join(map(str, plan.depths))
    continued = f", continued to {plan.layers}" if len(plan.depths) > 1 else ""
    lines = [
        f"{config.model}: {plan.parameters / 1e9:.3f} G parameters, {plan.layers} layers, "
        f"{config.dtype}; {config.algorithm}, batch {config.batch} x "
        f"({config.prompt} + {config.new}) tokens",
        f"{mesh.size} x {config.chip}: mesh data {mesh.data} x fsdp {mesh.fsdp} x tensor "
        f"{mesh.tensor}; compiled with {compiled} layers{continued}",
        "",
        "on each device, GB (1e9 bytes):",
        *(f"  {name:<12}{_gb(size):>9}" for name, size in plan.state.items() if size),
        f"  {'state':<12}{_gb(sum(plan.state.values())):>9}",
        f"  {'gradients':<12}{_gb(plan.gradients):>9}  (in the update's temporaries)",
        f"  {'KV cache':<12}{_gb(plan.cache):>9}  (in sampling's temporaries)",
        *_program_lines(config, plan),
        *_traffic_lines(plan),
        f"a step takes at least {least:.4g} s on this chip at its full rates, {apart:.4g} s where "
        f"traffic and computation do not overlap; "
        f"{config.batch * config.new / least:,.0f} new tokens/s at most",
        "",
        f"fits: {'yes' if plan.fits else 'no'}: {_gb(plan.peak)} GB in the "
        f"{TITLES[plan.peak_of]}, of {_gb(plan.room)} GB ({config.headroom:.0%} left free)",
    ]
    largest = sorted(plan.parts.items(), key=lambda part: -part[1])[:4]
    lines.append(
        "  largest: " + ", ".join(f"{name} {_gb(size)} GB" for name, size in largest if size)
    )
    lines += [f"  try {line}" for line in plan.advice]
    return "\n".join(lines)
