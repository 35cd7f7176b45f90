"""Which devices a run takes, how its parameters are shared out, and what is refused."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from rljax.algorithms.batch import OnPolicyConfig
from rljax.algorithms.online_dpo import OnlineDPOConfig
from rljax.experiment import CHANGEABLE, GRPOExperiment, PPOExperiment, TextExperiment
from rljax.models.heads import init_value_head
from rljax.models.lora import LoRAConfig, init_lora
from rljax.models.transformer import make_model
from rljax.parallel import AXES, Layout, over_rows, summed_over_rows
from rljax.training import supervised
from rljax.training.errors import ConfigError
from rljax.training.mesh import (
    FORCED_DEVICES,
    MeshConfig,
    Placement,
    make_layout,
    open_mesh,
)
from tests.conftest import tiny_config


def layout(data: int, fsdp: int, tensor: int, heads: int = 4, kv_heads: int = 2) -> Layout:
    return Layout(AbstractMesh((data, fsdp, tensor), AXES), heads, kv_heads)


def specs(layout: Layout, tree) -> dict[str, P]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): layout.spec(
            jax.tree_util.keystr(path, simple=True, separator="/"), leaf.shape
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def shapes(**changes):
    model = make_model(tiny_config(vocab_size=60, tie_embeddings=False, **changes))
    return jax.eval_shape(model.init, jax.random.key(0))


def test_column_then_row():
    """Heads, MLP width and vocabulary over tensor; fsdp takes the largest of what is left."""
    found = specs(layout(2, 2, 2), shapes(attention_bias=True, mlp_bias=True))
    layer = "layers/0/"
    expected = {
        "embed/embedding": P("tensor", "fsdp"),
        "head/kernel": P("tensor", "fsdp"),
        layer + "attention/query/kernel": P("tensor", "fsdp"),
        layer + "attention/key/kernel": P("tensor", "fsdp"),
        layer + "attention/value/bias": P("tensor"),
        layer + "attention/out/kernel": P("fsdp", "tensor"),
        layer + "mlp/up/kernel": P("tensor", "fsdp"),
        layer + "mlp/gate/bias": P("tensor"),
        layer + "mlp/down/kernel": P("fsdp", "tensor"),
        layer + "mlp/down/bias": P(None),
        layer + "attn_norm/scale": P(None),
        "final_norm/scale": P(None),
    }
    assert {path: found[path] for path in expected} == expected


def test_what_does_not_divide_stays_whole():
    found = specs(layout(1, 1, 4), shapes())  # 4 heads, but 2 of keys and values
    assert found["layers/0/attention/query/kernel"] == P("tensor", None)
    assert found["layers/0/attention/key/kernel"] == P(None, None)
    assert specs(layout(1, 1, 8), shapes())["embed/embedding"] == P(None, None)  # 60 tokens
    assert specs(layout(1, 5, 1), shapes())["embed/embedding"] == P("fsdp", None)  # 60, not 32
    assert specs(layout(1, 7, 1), shapes())["embed/embedding"] == P(None, None)


def test_adapters_heads_and_the_optimizer_follow():
    config = LoRAConfig(rank=4, targets="(query|out|down)$")
    lora = jax.eval_shape(lambda params: init_lora(jax.random.key(1), params, config), shapes())
    head = jax.eval_shape(lambda: init_value_head(32))
    found = specs(layout(2, 2, 2), {"mu": {"policy": lora}, "value_head": head})
    assert found["mu/policy/layers/0/attention/query/a"] == P(None, "fsdp")
    assert found["mu/policy/layers/0/attention/query/b"] == P("tensor", "fsdp")
    assert found["mu/policy/layers/0/attention/out/a"] == P("fsdp", "tensor")
    assert found["mu/policy/layers/1/mlp/down/b"] == P("fsdp", None)
    assert found["value_head/kernel"] == P(None, "fsdp")
    assert layout(2, 2, 2).spec("step", ()) == P()


def test_one_device_has_no_mesh():
    """The functions are themselves, and nothing is moved."""
    assert open_mesh(MeshConfig()) is None and make_layout(None) is None
    assert over_rows(make_model) is make_model
    assert summed_over_rows(make_model, ()) is make_model
    place, tree = Placement(), {"x": 1}
    assert place.put(tree) is tree and place.rows(tree) is tree and place.like(tree) is tree
    assert place.outputs(lambda: tree) == {}


def test_what_a_loss_reads_may_hold_plain_numbers():
    """Such as the weight of an entropy bonus that does not move, beside frozen parameters."""
    place = Layout(jax.make_mesh((1, 1, 1), AXES, axis_types=(AxisType.Auto,) * 3), 1, 1)

    def gradients(params, frozen, rows):
        base, factor = frozen
        return {"w": (base["w"] * factor * rows.sum())}, {"rows": rows.sum()}

    def mapped(weights, rows):
        return summed_over_rows(gradients, ())(weights, (weights, 0.5), rows)

    grads, metrics = place.jit(mapped)({"w": jnp.ones((2, 3))}, jnp.arange(4.0))
    assert metrics["rows"] == 6
    np.testing.assert_array_equal(grads["w"], np.full((2, 3), 3.0))


def test_too_few_devices_are_named():
    with pytest.raises(ConfigError, match=r"data 2 x mesh.fsdp 3 x mesh.tensor 4 needs 24 .* 1 "):
        open_mesh(MeshConfig(2, 3, 4))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"mesh": MeshConfig(data=0)}, "mesh.data is 0"),
        ({"mesh": MeshConfig(fsdp=-1)}, "mesh.fsdp is -1"),
        ({"mesh": MeshConfig(data=2, fsdp=4)}, r"8 devices do not divide .*= 2: "),
    ],
)
def test_impossible_meshes(change, words):
    small = dataclasses.replace(TextExperiment().sft, batch_size=4, gradient_accumulation=2)
    experiment = dataclasses.replace(TextExperiment(), sft=small, **change)
    with pytest.raises(ValueError, match=words):
        experiment.mesh.validate()
        experiment.validate()


def test_rows_of_a_pass():
    assert (
        OnPolicyConfig(batch_size=64, num_minibatches=2, gradient_accumulation=4).pass_rows[0] == 8
    )
    pairs = OnlineDPOConfig(batch_size=64, samples_per_prompt=4, num_minibatches=2)
    assert pairs.pass_rows[0] == 8
    ppo = dataclasses.replace(PPOExperiment(), mesh=MeshConfig(data=3))
    with pytest.raises(ValueError, match=r"do not divide batch_size / \(num_minibatches"):
        ppo.validate()


def test_the_mesh_may_change_when_a_run_goes_on():
    assert "mesh" in CHANGEABLE and "mesh" in supervised.CHANGEABLE


def test_greedy_baselines_need_even_prompts():
    config = GRPOExperiment()
    greedy = dataclasses.replace(
        config.grpo, advantage="greedy", samples_per_prompt=4, batch_size=8, num_minibatches=1
    )
    with pytest.raises(ValueError, match="the prompts of a batch"):
        dataclasses.replace(config, grpo=greedy, mesh=MeshConfig(data=4)).validate()


def test_a_cpu_counts_as_several_devices():
    """Up to one a core, unless the environment has said how many; asked for in a new process."""
    program = (
        "import os, jax; os.cpu_count = lambda: 3\n"
        "from rljax.training.mesh import MeshConfig, split_cpu\n"
        "split_cpu({count}); print(jax.device_count())"
    )

    def count(asked: int, **environment: str) -> int:
        result = subprocess.run(
            [sys.executable, "-c", program.format(count=asked)],
            env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
            check=True,
            capture_output=True,
            text=True,
        )
        return int(result.stdout)

    assert count(3, XLA_FLAGS="") == 3
    assert count(4, XLA_FLAGS="") == 1
    assert count(3, XLA_FLAGS=f"{FORCED_DEVICES}=2") == 2
