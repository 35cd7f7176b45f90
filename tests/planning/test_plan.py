"""Plans: flags, chips, bounds of time, depth, verdict."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh

from rljax.errors import UserError
from rljax.models.architectures import find_architecture
from rljax.models.lora import LoRAConfig
from rljax.parallel import AXES, Layout
from rljax.planning.advice import advise
from rljax.planning.chips import CHIPS, ChipFigures
from rljax.planning.config import PlanConfig
from rljax.planning.memory import cache_bytes, gathered_at_once, gathered_parameters, in_dtype
from rljax.planning.plan import compile_costs, depths_to_compile, make_plan
from rljax.planning.programs import Cost, extrapolate, shallower
from rljax.planning.report import numbers, table
from rljax.planning.times import bounds, model_flops, rate_between
from rljax.training.errors import ConfigError
from rljax.training.flags import validate
from rljax.training.mesh import MeshConfig

TINY = PlanConfig(model="random:tiny-llama", batch=4, prompt=8, new=8, epochs=1)
LLAMA = PlanConfig(model="meta-llama/Llama-3.1-8B", mesh=MeshConfig(fsdp=64))
COST = Cost(0.0, 0.0, 1e12, {"fsdp": 1e9})
COSTS = {"sample": COST, "score": COST, "update": COST}


def change(plan: PlanConfig, **changes: Any) -> PlanConfig:
    return dataclasses.replace(plan, **changes)


def test_chips_are_of_this_world():
    for name, chip in CHIPS.items():
        assert 1e10 < chip.memory < 1e12, name
        assert chip.float32 <= chip.bfloat16 < 1e16, name
        assert chip.network < chip.link < chip.bandwidth < 1e13, name
        assert chip.peak("bfloat16") == chip.bfloat16 and chip.peak("float32") == chip.float32
    assert CHIPS["a100-40g"].memory * 2 == CHIPS["a100-80g"].memory


def test_every_given_figure_takes_the_place_of_the_chips():
    chip = CHIPS["h100"]
    for field in dataclasses.fields(ChipFigures):
        figures = ChipFigures(**{field.name: 3})
        assert figures.over(chip) != chip, field.name
        assert change(LLAMA, figures=figures).hardware == figures.over(chip)
    assert ChipFigures(memory_gb=7, node=4).over(chip).memory == 7e9
    with pytest.raises(ValueError, match="link_gb is -1"):
        ChipFigures(link_gb=-1).validate()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": 0}, "prompt is 0"),
        ({"headroom": 1.0}, "headroom is 1.0"),
        ({"batch": 63}, "do not divide batch"),
        ({"minibatches": 5}, "num_minibatches"),
        ({"algorithm": "grpo", "critic": "separate"}, "grpo has none"),
        ({"algorithm": "grpo", "group": 1}, "samples_per_prompt"),
        ({"train_layers": 1, "lora": LoRAConfig(rank=2)}, "train_layers 1 and lora.rank"),
    ],
)
def test_impossible_flags_are_errors(changes, message):
    with pytest.raises(ConfigError, match=message):
        validate(change(LLAMA, **changes))


def test_a_text_beyond_the_context_is_an_error():
    with pytest.raises(UserError, match="context of random:tiny-llama is 256"):
        make_plan(change(TINY, prompt=250))
    with pytest.raises(UserError, match="has 2 layers"):
        make_plan(change(TINY, train_layers=3))


def test_depths_are_whole_periods_and_hold_all_that_is_trained():
    llama, gemma = find_architecture("Llama-3.1-8B"), find_architecture("google/gemma-2-2b")
    assert depths_to_compile(LLAMA, llama) == (3, 5)
    assert depths_to_compile(LLAMA, gemma) == (4, 6)
    assert depths_to_compile(change(LLAMA, train_layers=6), llama) == (7, 9)
    assert depths_to_compile(LLAMA, shallower(llama, 3)) == (3,)
    named = change(LLAMA, lora=LoRAConfig(rank=2, targets="layers/31/mlp/up"))
    assert depths_to_compile(named, llama) == (32,)
    assert shallower(gemma, 4).slides == gemma.slides[:4]


def test_a_line_is_continued():
    first, second = Cost(10, 1, 100, {"fsdp": 5}), Cost(14, 1, 140, {"fsdp": 7, "data": 2})
    assert extrapolate(first, second, (2, 4), 10) == Cost(26, 1, 260, {"fsdp": 13, "data": 8})


def test_links_inside_a_node_are_faster_than_between_nodes():
    chip = CHIPS["h100"]
    wide = {"data": 4, "fsdp": 8, "tensor": 2}
    assert rate_between("tensor", wide, chip) == chip.link
    assert rate_between("fsdp", wide, chip) == 4 * chip.network  # 4 of the 8 in each node
    assert rate_between("data", wide, chip) == chip.network
    assert rate_between("fsdp", {"data": 8, "fsdp": 8, "tensor": 1}, chip) == chip.link
    assert rate_between("data+fsdp", {"data": 8, "fsdp": 8, "tensor": 1}, chip) == 8 * chip.network


def test_time_is_bounded_by_products_memory_and_links():
    config = find_architecture(LLAMA.model)

    def of(plan: PlanConfig, **sizes: int) -> Any:
        return bounds(plan, config, COSTS, **({"weights": 32 * 10**9, "cache": 0} | sizes))

    plain = of(LLAMA)
    assert plain["sample"].compute >= 255 * 32e9 / 3.35e12
    assert of(LLAMA, cache=10**9)["sample"].compute > plain["sample"].compute
    assert plain["update"].traffic == pytest.approx(1e9 / 400e9)
    assert of(change(LLAMA, chip="v5e"))["update"].traffic == pytest.approx(1e9 / 200e9)
    assert of(change(LLAMA, chip="a100-80g"))["sample"].least > plain["sample"].least
    assert plain["update"].apart == plain["update"].compute + plain["update"].traffic


def test_operations_follow_the_flags():
    config = find_architecture(LLAMA.model)
    plain = model_flops(LLAMA, config)
    assert model_flops(change(LLAMA, epochs=2), config).update == plain.update / 2
    assert model_flops(change(LLAMA, new=512), config).decode > 2 * plain.decode
    assert model_flops(change(LLAMA, critic="separate"), config).update > 1.8 * plain.update
    few = change(LLAMA, mesh=MeshConfig(fsdp=8), algorithm="grpo", group=8)
    assert model_flops(few, config).prefill == plain.prefill / 8


def test_temporaries_in_bfloat16_are_half_but_for_what_is_float32():
    config = find_architecture(LLAMA.model)
    half = change(LLAMA, dtype="bfloat16", remat="layers")
    assert in_dtype(1e12, LLAMA, config, "update") == 1e12
    assert 0.5e12 < in_dtype(1e12, half, config, "update") < 0.51e12
    kept = change(half, remat="none")
    assert in_dtype(1e12, kept, config, "update") > in_dtype(1e12, half, config, "update")
    assert in_dtype(10.0, half, config, "update") == 10.0
    # gradients stay float32, and the trained matrices are copied
    more = in_dtype(1e12, half, config, "update", 1e10) - in_dtype(1e12, half, config, "update")
    assert more == pytest.approx(1e10)
    assert in_dtype(1e12, half, config, "score", 1e10) == in_dtype(1e12, half, config, "score")


def test_layers_are_gathered_one_at_a_time():
    params = {
        "policy": {
            "embed": {"embedding": jnp.zeros((8, 4))},
            "layers": {
                str(i): {"up": {"kernel": jnp.zeros((8, 4)), "bias": jnp.zeros(8)},
                         "down": {"kernel": jnp.zeros((3, 8))}} for i in range(5)
            },
        },
    }  # fmt: skip
    layout = Layout(AbstractMesh((1, 4, 1), AXES), 4, 4)
    assert gathered_parameters(params, layout) == 4 * (8 * 4 + 5 * (8 * 4 + 3 * 8))
    assert gathered_at_once(params, layout) == 4 * (8 * 4 + 3 * 8)  # without the biases
    assert gathered_at_once(params, None) == 0


def test_the_cache_is_that_of_a_devices_own_rows():
    config = find_architecture(LLAMA.model)
    whole = cache_bytes(LLAMA, config, 4)
    assert whole == 2 * 32 * 8 * 128 * 512 * 4
    assert cache_bytes(change(LLAMA, mesh=MeshConfig(fsdp=64, tensor=2)), config, 4) == whole // 2
    few = change(LLAMA, mesh=MeshConfig(fsdp=8), algorithm="grpo", group=8)
    assert cache_bytes(few, config, 4) == 2 * 32 * 8 * 128 * (256 + 8 * 256) * 4


def test_advice_names_flags_and_the_largest_saving_first():
    parts = {
        "policy": 8e9, "critic": 8e9, "reference": 8e9, "optimizer": 16e9,
        "gathered parameters": 30e9, "stacked copy": 20e9, "keys and values": 10e9,
        "logits": 8e9, "activations": 40e9,
    }  # fmt: skip
    plan = change(LLAMA, mesh=MeshConfig(fsdp=8), scan_layers=True, critic="separate")
    lines = advise(plan, find_architecture(plan.model), parts, 72e9)
    flags = [line.split(":")[0] for line in lines]
    assert flags[0] == "--remat layers"
    for flag in (
        "--dtype bfloat16",
        "--remat attention", "--remat products", "--accumulation 2", "--no-scan-layers",
        "--mesh.tensor 2", "--lora.rank 16",
        "--mesh.fsdp 16", "--score-rows 256", "--batch 32", "--critic shared",
    ):  # fmt: skip
        assert flag in flags
    assert not any("enough" in line for line in lines)
    none = {"policy": 1e9, "critic": 0.0, "reference": 1e9, "optimizer": 2e9, "activations": 90e9}
    lines = advise(LLAMA, find_architecture(LLAMA.model), none, 72e9)
    assert any(line.startswith("--remat layers") and "enough alone" in line for line in lines)
    assert lines[-1].startswith("--chip h200")


@pytest.mark.slow
def test_a_plan_is_made_and_told():
    plan = make_plan(TINY)
    assert plan.depths == (2,) and plan.fits and not plan.advice
    assert plan.peak == pytest.approx(plan.peak_in(plan.peak_of))
    assert plan.state["optimizer"] == pytest.approx(2 * plan.gradients, rel=0.01)
    assert plan.costs["sample"].flops == pytest.approx(plan.flops.prefill + plan.flops.decode, 0.1)
    assert plan.costs["update"].flops == pytest.approx(plan.flops.update, rel=0.1)
    text = table(TINY, plan)
    assert "fits: yes" in text and "1 x h100" in text
    told = json.loads(json.dumps(numbers(TINY, plan)))
    assert told["fits"] and told["programs"]["update"]["least_s"] > 0
    small = change(TINY, figures=ChipFigures(memory_gb=1e-4), headroom=0.0)
    assert not plan._replace(room=small.hardware.memory).fits


@pytest.mark.slow
@pytest.mark.parametrize("scan", [False, True])
def test_the_line_through_two_depths_meets_the_model(scan):
    config = dataclasses.replace(find_architecture("random:tiny-llama"), num_layers=8)
    plan = change(TINY, scan_layers=scan, remat="layers")
    weights = 0.0  # read for other dtypes than float32 alone
    continued = compile_costs(plan, config, (3, 5), weights)
    whole = compile_costs(plan, config, (8,), weights)
    for name, cost in whole.items():
        found = continued[name]
        assert found.temporary == pytest.approx(cost.temporary, rel=0.02), name
        assert found.results == cost.results
        assert found.flops == pytest.approx(cost.flops, rel=1e-6)
