"""Make the plan of a training step: compile it for shapes alone, and read off what it takes."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

import jax

from rljax.errors import UserError
from rljax.models.architectures import find_architecture
from rljax.models.config import TransformerConfig
from rljax.models.precision import cast_matrices
from rljax.models.stack import Layers
from rljax.planning.advice import advise
from rljax.planning.config import PlanConfig
from rljax.planning.memory import (
    bytes_held,
    cache_bytes,
    gathered_at_once,
    gathered_parameters,
    in_dtype,
    logits_bytes,
    state_bytes,
    whole_parameters,
)
from rljax.planning.programs import Cost, Step, extrapolate, measure, shallower
from rljax.planning.times import Bound, Flops, bounds, model_flops


class Plan(NamedTuple):
    """What a training step takes of each device. Bytes, FLOPs and seconds."""

    layers: int
    parameters: int
    """Of the model."""
    depths: tuple[int, ...]
    """Layers of the programs that were compiled; more than one: the line through them was
    continued to the model's depth."""
    state: dict[str, int]
    """Bytes that stay during a whole run."""
    gradients: int
    """Bytes of the gradients, shared out as the parameters are; part of the update's temporaries.
    """
    cache: int
    """Bytes of keys and values; part of sampling's temporaries."""
    costs: dict[str, Cost]
    """Of sample, score and update."""
    flops: Flops
    """Of the model on all devices, by the closed formula."""
    bounds: dict[str, Bound]
    peak_of: str
    """The program in which most memory is held."""
    parts: dict[str, float]
    """Bytes at that moment, by what they are."""
    room: float
    """Bytes of a device that may be used."""
    advice: list[str]

    @property
    def peak(self) -> float:
        """Bytes held at once, at most."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether the step fits into the memory."""
        return self.peak <= self.room

    def peak_in(self, program: str) -> float:
        """Bytes held at once in one of the programs."""
        cost = self.costs[program]
        return sum(self.state.values()) + cost.temporary + cost.results


def depths_to_compile(plan: PlanConfig, config: TransformerConfig) -> tuple[int, ...]:
    """Choose the depths to compile: two shallow ones, or the model's own where it is not deep.

    Every further period of layers costs what the one before it does. The last layer computes less
    than the others, of which both have two or more. Layers that differ in what is trained
    (train_layers) are all in both; where lora.targets names layers, only all of them will do.
    """
    total = config.num_layers
    if plan.lora.targets is not None and re.search(r"\d", plan.lora.targets):
        return (total,)
    period = Layers(config.slides, False).period
    first = max(2, math.ceil(3 / period), math.ceil((plan.train_layers + 1) / period)) * period
    second = first + math.ceil(2 / period) * period
    if second >= total or (total - first) % period:
        return (total,)
    return first, second


def compile_costs(
    plan: PlanConfig, config: TransformerConfig, depths: tuple[int, ...], weights: float
) -> dict[str, Cost]:
    """Compile the programs of a step and return what each takes at the model's depth.

    They are compiled in float32, whatever the plan's dtype (`in_dtype` says why). weights: as
    `in_dtype`'s.
    """
    found: list[dict[str, Cost]] = []
    for depth in depths:
        programs = Step(plan, shallower(config, depth), "float32").programs()
        found.append({name: measure(one, plan) for name, one in programs.items()})
    if len(found) == 1:
        costs = found[0]
    else:
        first, second = found
        pair = (depths[0], depths[1])
        costs = {
            name: extrapolate(cost, second[name], pair, config.num_layers)
            for name, cost in first.items()
        }
    return {
        name: cost._replace(
            temporary=in_dtype(cost.temporary, plan, config, name, weights),
            traffic=_traffic_in_dtype(cost.traffic, plan),
        )
        for name, cost in costs.items()
    }


def _traffic_in_dtype(traffic: dict[str, float], plan: PlanConfig) -> dict[str, float]:
    """Halve what is sent in bfloat16: activations, over `tensor`; masters and their gradients are
    float32."""
    half = plan.dtype == "bfloat16"
    return {axes: sent / 2 if half and "tensor" in axes else sent for axes, sent in traffic.items()}


def _check(plan: PlanConfig, config: TransformerConfig) -> None:
    length = plan.prompt + plan.new
    if length > config.context_length:
        raise UserError(
            f"prompt {plan.prompt} + new {plan.new} is {length} tokens; the context of "
            f"{plan.model} is {config.context_length}: lower one of them"
        )
    if plan.train_layers > config.num_layers:
        raise UserError(
            f"train_layers is {plan.train_layers}; {plan.model} has {config.num_layers} layers"
        )


def _parts(
    program: str, plan: PlanConfig, step: Step, state: dict[str, int], cost: Cost, cache: int
) -> dict[str, float]:
    """Divide what is held in a program by what it is; what has no name is activations."""
    layout, config, shapes = step.placement.layout, step.config, step.state()
    base = [shapes.ref_params] if plan.adapts else []
    named: dict[str, float] = {}
    if program == "sample":
        read = [shapes.params["policy"], *base]
        named["gathered parameters"] = sum(gathered_parameters(tree, layout) for tree in read)
        named["keys and values"] = cache
        copied = sum(whole_parameters(tree, layout) for tree in read)
    else:
        read = [shapes.ref_params] if program == "score" else [shapes.params, *base]
        named["gathered parameters"] = max(gathered_at_once(tree, layout) for tree in read)
        copied = sum(map(bytes_held, read))
    if program == "update":  # the gradients of what is gathered and of what is stacked, too
        named["gathered parameters"] *= 2
        named["gradients"] = state["policy"] + state["critic"]
        copied *= 2
    if plan.scan_layers:
        named["stacked copy"] = copied
    named["logits"] = logits_bytes(plan, config, program)
    left = cost.temporary + cost.results
    parts: dict[str, float] = dict(state)
    for name, size in named.items():
        parts[name] = min(size, left)  # a program may hold less than all of it at once
        left -= parts[name]
    return parts | {"activations": left}


def make_plan(plan: PlanConfig) -> Plan:
    """Compile the programs of a step for the plan's mesh and say what they take.

    There must be as many (virtual) devices as the mesh has. Nothing of the model's size is
    allocated. Raises UserError for a model that is not known or a text longer than its context.
    """
    config = find_architecture(plan.model)
    _check(plan, config)
    try:
        step = Step(plan, config, plan.dtype)
        shapes = step.state()
    except ValueError as error:
        raise UserError(str(error)) from error
    layout, state = step.placement.layout, state_bytes(shapes)
    depths = depths_to_compile(plan, config)
    costs = compile_costs(plan, config, depths, state["policy"] + state["critic"])
    itemsize = 2 if plan.dtype == "bfloat16" else 4
    cache = cache_bytes(plan, config, itemsize)
    read = jax.eval_shape(lambda p: cast_matrices(p, plan.dtype), step.params)
    weights = whole_parameters(read, layout)  # as products read them
    peak_of = max(costs, key=lambda name: costs[name].temporary + costs[name].results)
    parts = _parts(peak_of, plan, step, state, costs[peak_of], cache)
    room = plan.hardware.memory * (1 - plan.headroom)
    fits = sum(parts.values()) <= room
    return Plan(
        layers=config.num_layers,
        parameters=_count(step.params),
        depths=depths,
        state=state,
        gradients=state["policy"] + state["critic"],
        cache=cache,
        costs=costs,
        flops=model_flops(plan, config),
        bounds=bounds(plan, config, costs, weights=weights, cache=cache),
        peak_of=peak_of,
        parts=parts,
        room=room,
        advice=[] if fits else advise(plan, config, parts, room),
    )


def _count(params: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
