"""What to change where a step does not fit: flags, and about how much each of them saves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from rljax.models.config import TransformerConfig
from rljax.planning.chips import CHIPS
from rljax.planning.config import PlanConfig
from rljax.planning.memory import attention_bytes


class Advice(NamedTuple):
    """A flag, why it helps, and about how many bytes it takes off the peak."""

    flag: str
    reason: str
    saves: float


def _of_state(plan: PlanConfig, parts: dict[str, float]) -> Iterator[Advice]:
    state = sum(parts[name] for name in ("policy", "critic", "reference", "optimizer"))
    if plan.critic == "separate":
        saved = parts["critic"] + parts["optimizer"] / 2
        yield Advice("--critic shared", "no second trunk and no optimizer of it", saved)
    if not plan.lora.rank and not plan.train_layers:
        saved = parts["optimizer"] + parts["policy"]
        yield Advice("--lora.rank 16", "optimizer and gradients of adapters only", saved)
    wider = 2 * plan.mesh.fsdp
    if plan.step.pass_rows[0] % (plan.mesh.data * wider) == 0:
        yield Advice(f"--mesh.fsdp {wider}", "half of the state on each device", state / 2)


def _of_temporaries(
    plan: PlanConfig, config: TransformerConfig, parts: dict[str, float]
) -> Iterator[Advice]:
    ways, heads = 2 * plan.mesh.tensor, (config.num_heads, config.num_kv_heads)
    if not any(count % ways for count in heads):
        gathered = parts.get("gathered parameters", 0) + parts.get("stacked copy", 0)
        yield Advice(f"--mesh.tensor {ways}", "devices share out what is gathered", gathered / 2)
    if plan.scan_layers:
        yield Advice("--no-scan-layers", "no stacked copy of layers", parts.get("stacked copy", 0))
    if plan.remat == "none":
        # of SmolLM2, see tests/models/test_remat.py: scores and weights are kept of every layer
        held = parts.get("activations", 0)
        weights = 2 * config.num_layers * attention_bytes(plan, config, "update")
        saved = min(0.8 * held, weights)
        yield Advice("--remat attention", "no attention weights are kept", saved)
        yield Advice("--remat products", "what parameters are multiplied with is kept", 0.7 * held)
        yield Advice("--remat layers", "activations of one layer at a time", 0.8 * held)
    finer = 2 * plan.accumulation
    rows = plan.batch / (plan.minibatches * finer)
    if rows % plan.mesh.row_devices == 0:
        saved = parts.get("activations", 0) / 2
        yield Advice(f"--accumulation {finer}", "half of the rows at a time", saved)
    if plan.score_rows > 128:
        saved = parts.get("logits", 0) * 0.75
        yield Advice(f"--score-rows {plan.score_rows // 4}", "smaller chunks of logits", saved)
    if parts.get("keys and values", 0) and plan.batch % (2 * plan.mesh.row_devices) == 0:
        saved = parts["keys and values"] / 2
        yield Advice(f"--batch {plan.batch // 2}", "half of the keys and values", saved)


def advise(
    plan: PlanConfig, config: TransformerConfig, parts: dict[str, float], room: float
) -> list[str]:
    """List what would bring the peak down, largest saving first, as lines to print.

    parts: bytes of the peak, by what they are. room: bytes that there are.
    """
    peak = sum(parts.values())
    found = [*_of_state(plan, parts), *_of_temporaries(plan, config, parts)]
    if plan.dtype == "float32":
        halved = ("activations", "keys and values", "reference")
        saved = sum(parts.get(name, 0) for name in halved) / 2
        found.append(Advice("--dtype bfloat16", f"half of {', '.join(halved)}", saved))
    found.sort(key=lambda advice: -advice.saves)
    lines = [
        f"{advice.flag}: {advice.reason}, about {advice.saves / 1e9:.1f} GB less"
        + (" (enough alone)" if peak - advice.saves <= room else "")
        for advice in found
        if advice.saves > 0.02 * peak
    ]
    larger = [name for name, chip in CHIPS.items() if chip.memory * (1 - plan.headroom) >= peak]
    if larger:
        lines.append(f"--chip {' or '.join(larger)}: it has the memory")
    return lines
