"""Runs in bfloat16: float32 masters, matrices that are frozen in bfloat16, bounds, resuming."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms.learner import init_supervised
from rljax.algorithms.sft import SFTConfig, make_update
from rljax.experiment import ModelConfig
from rljax.models.lora import LoRAConfig
from rljax.models.transformer import make_model
from rljax.rollout.agreement import Disagreement
from rljax.tasks.packing import Packed
from rljax.training.batches import collect
from rljax.training.checkpoint import Checkpoints
from rljax.training.first_step import check_first_step
from rljax.training.fused import check_agreement
from rljax.training.optimizer import OptimizerConfig, make_optimizer
from rljax.training.policies import load_model
from rljax.training.trained import load_trained
from tests.conftest import noisy_params, quick_jit, tiny_config
from tests.experiments.conftest import unoptimised
from tests.training.fused_cases import METHODS, make_experiment, run, setup_of

HALF = ModelConfig(source="random:tiny-llama", dtype="bfloat16")
FLOAT32, BFLOAT16 = jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16)


@pytest.fixture(autouse=True)
def quick_programs():
    with unoptimised():
        yield


def kinds(tree) -> set:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return {leaf.dtype for leaf in leaves}


@functools.lru_cache
def sft(dtype: str):
    """Compile so many updates of a rate far below the distance of two bfloat16 numbers."""
    model = make_model(tiny_config(num_layers=1), dtype)
    optimizer = make_optimizer(
        OptimizerConfig(learning_rate=1e-6, schedule="constant", adam_eps=1e-8), num_steps=20
    )
    update = make_update(model, SFTConfig(batch_size=2), optimizer, lambda step: jnp.float32(0))
    tokens = jax.random.randint(jax.random.key(0), (2, 8), 0, 61)
    batch = Packed(tokens, jnp.ones_like(tokens), tokens > -1)

    def steps(params):
        state = init_supervised({"policy": params}, optimizer)
        run = lambda state, key: (update(state, batch, key)[0], None)  # noqa: E731
        return jax.lax.scan(run, state, jax.random.split(jax.random.key(1), 20))[0]

    return model, quick_jit(steps)


@pytest.mark.slow
def test_masters_add_up_what_bfloat16_parameters_would_lose():
    model, steps = sft("bfloat16")
    params = jax.tree.map(lambda x: x.astype(BFLOAT16).astype(FLOAT32), noisy_params(model))
    state = steps(params)
    assert kinds(state) == {FLOAT32}
    kernel = params["layers"]["0"]["mlp"]["up"]["kernel"]
    moved = np.abs(state.params["policy"]["layers"]["0"]["mlp"]["up"]["kernel"] - kernel)
    assert 5e-6 < np.median(moved) < 2.1e-5  # 20 steps of at most 1e-6 each
    lost = steps(jax.tree.map(lambda x: x.astype(BFLOAT16), params))
    left = lost.params["policy"]["layers"]["0"]["mlp"]["up"]["kernel"].astype(FLOAT32)
    assert np.mean(left == kernel) > 0.9


@pytest.mark.slow
def test_a_run_keeps_masters_and_goes_on_exactly(tmp_path):
    config = make_experiment(
        tmp_path, "grpo", "whole", model=HALF, steps=2, checkpoint_every=1,
        optimizer=OptimizerConfig(learning_rate=0.01, schedule="constant"),
    )  # fmt: skip
    whole = run(config)
    assert whole[0]["health/sampler_logprob_mean_gap"] < 0.02
    directory = tmp_path / "whole"
    with Checkpoints(directory / "checkpoints", read_only=True) as checkpoints:
        held = {entry["dtype"] for entry in checkpoints.arrays(2).values()}
    assert held <= {"float32", "int32"}
    trained = load_trained(directory).pretrained
    assert trained.model.dtype == "bfloat16" and kinds(trained.params) == {FLOAT32}
    assert kinds(load_model(str(directory), "bfloat16").params) == {BFLOAT16}
    parts = dataclasses.replace(config, workdir=str(tmp_path / "parts"))
    run(dataclasses.replace(parts, steps=1))
    assert run(parts) == whole


def test_the_state_of_a_run(tmp_path):
    state = setup_of(make_experiment(tmp_path, "grpo", model=HALF)).first_state()
    assert kinds((state.params, state.opt_state)) == {FLOAT32}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.ref_params):
        assert leaf.dtype == (BFLOAT16 if leaf.ndim > 1 else FLOAT32), path


@pytest.mark.parametrize("name", ["ppo", pytest.param("nlpo", marks=pytest.mark.slow)])
def test_what_moves_with_the_policy_keeps_its_dtype(tmp_path, name):
    """A reference that is mixed into is float32; the masking policy is copied to bfloat16."""
    setup = setup_of(make_experiment(tmp_path, name, model=HALF))
    state = setup.first_state()
    before = kinds((state.ref_params, state.mask_params))
    assert before == ({FLOAT32} if name == "ppo" else {FLOAT32, BFLOAT16})
    if name == "ppo":
        state = setup.programs.sync_reference(state, 0.5)
    else:
        state = setup.programs.sync_mask(state)
    assert kinds((state.ref_params, state.mask_params)) == before
    assert kinds(state.params) == {FLOAT32}


@pytest.mark.parametrize("part", [{"lora": LoRAConfig(rank=2)}, {"train_layers": 1}])
def test_a_frozen_base_is_loaded_in_bfloat16_and_what_is_trained_of_it_is_not(tmp_path, part):
    state = setup_of(make_experiment(tmp_path, "grpo", model=HALF, **part)).first_state()
    assert kinds((state.params, state.opt_state)) == {FLOAT32}
    assert state.ref_params["embed"]["embedding"].dtype == BFLOAT16
    assert state.ref_params["final_norm"]["scale"].dtype == FLOAT32


@pytest.mark.slow
def test_the_bound_is_of_the_mean_over_tokens(tmp_path):
    setup = setup_of(make_experiment(tmp_path, "grpo", model=HALF))
    state = setup.first_state()
    rollout = collect(setup, state, 0).rollout
    check_first_step(setup, state, rollout, [])
    made = rollout.completions
    off = np.array(made.log_probs)
    off[0, 0] += 0.5  # a single token may be off, all of them may not
    one = rollout._replace(completions=made._replace(log_probs=off))
    check_first_step(setup, state, one, [])
    moved = rollout._replace(completions=made._replace(log_probs=made.log_probs - 0.2))
    with pytest.raises(Disagreement, match=r"sampler and learner .* by 0.2 nats .*\(allowed 0.1\)"):
        check_first_step(setup, state, moved, [])
    far = rollout._replace(ref_log_probs=rollout.ref_log_probs + 0.2)
    with pytest.raises(Disagreement, match="sampler and reference .* raise --max-mean-gap"):
        check_first_step(setup, state, far, [])
    later = state._replace(step=jnp.int32(3))
    check_first_step(setup, later, far, [])
    setup.config = dataclasses.replace(setup.config, max_mean_gap=None)
    check_first_step(setup, state, moved, [])


@pytest.mark.parametrize("gap", [0.2, np.nan])
def test_fused_runs_have_the_same_bound(tmp_path, gap):
    setup = setup_of(make_experiment(tmp_path, "grpo", model=HALF))
    record = SimpleNamespace(metrics={"health/sampler_logprob_mean_gap": np.float32(gap)})
    with pytest.raises(Disagreement, match="sampler and learner"):
        check_agreement(setup, 0, record)
    record.metrics["health/sampler_logprob_mean_gap"] = np.float32(0.01)
    check_agreement(setup, 0, record)


def test_bounds_go_with_the_dtype(tmp_path):
    base = make_experiment(tmp_path, "grpo")
    for changes, words in (
        ({"max_mean_gap": 0.2}, "only runs with model.dtype bfloat16 read it; in float32"),
        ({"model": HALF, "max_ratio_gap": 1e-3}, "bound is max_mean_gap"),
        ({"model": HALF, "max_mean_gap": 0.0}, "must be above 0"),
        ({"max_start_kl": -1.0}, "must be above 0"),
    ):
        with pytest.raises(ValueError, match=words):
            dataclasses.replace(base, **changes).validate()
    assert METHODS["grpo"] == base.algorithm
