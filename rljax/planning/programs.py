"""The programs of a training step, compiled for arrays that do not exist.

They are those of `rljax.training.programs`: sampling, the reference's scoring, the update with its
state donated. Only shapes are known; XLA lays their memory out without allocating any of it.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rljax.algorithms import grpo, ppo
from rljax.algorithms.actor_critic import init_state
from rljax.kl import make_kl_controller
from rljax.models.config import TransformerConfig
from rljax.models.loading import parameter_shapes
from rljax.models.precision import cast_matrices, masters
from rljax.models.trainable import make_trainable
from rljax.models.transformer import make_model
from rljax.models.weights import unflatten
from rljax.planning.config import PlanConfig
from rljax.planning.hlo import count_work
from rljax.rollout.distribution import SamplingConfig
from rljax.training.mesh import Placement, make_layout, open_mesh
from rljax.training.optimizer import OptimizerConfig, make_optimizer
from rljax.training.programs import Acting, make_programs, policies_of
from rljax.types import Completions, Prompts, Rollout, TrainState

Program = tuple[Any, tuple[Any, ...]]
"""A jitted function and the shapes of its arguments."""

# How memory is laid out does not depend on how well the machine code is optimised.
QUICK: dict[str, int | bool] = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


def _array(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


class Step:
    """The functions of a training step for one architecture, and the shapes that they take.

    plan: the flags. model: the architecture, maybe with fewer layers. dtype: what is computed in,
    and what is frozen is held in; what is trained is float32.
    Raises ValueError for a plan that does not go with the model.
    """

    def __init__(self, plan: PlanConfig, model: TransformerConfig, dtype: str) -> None:
        self.plan, self.config = plan, model
        self.dtype = dtype
        self.model = make_model(model, dtype, remat=plan.remat, scan_layers=plan.scan_layers)
        self.placement = Placement(make_layout(open_mesh(plan.mesh), model))
        self.trainable = make_trainable(plan.lora, plan.train_layers)
        updates = plan.step.num_epochs * plan.step.num_minibatches
        self.optimizer = make_optimizer(OptimizerConfig(), num_steps=100, updates_per_step=updates)
        self.params = unflatten(
            {path: _array(shape, jnp.float32) for path, shape in parameter_shapes(model).items()}
        )
        if plan.adapts:
            self.params = jax.eval_shape(lambda p: cast_matrices(p, dtype), self.params)
        self.sampling = SamplingConfig(max_new_tokens=plan.new, temperature=1.0)

    def _state_of(self, params: Any) -> TrainState:
        policy, base = self.trainable.split(params, jax.random.key(0))
        return init_state(
            masters(policy) if self.plan.adapts else policy,
            self.config.hidden_size,
            self.optimizer,
            critic=self.plan.values,
            kl_coef=make_kl_controller(self.plan.step.kl).init(),
            base=None if policy is base else base,
            frozen_dtype=None if self.plan.adapts else self.dtype,
        )

    def state(self) -> TrainState:
        """Return the shapes of a training state, and where its arrays would stand."""
        return self.placement.like(jax.eval_shape(self._state_of, self.params))

    def _rows(self, tree: Any) -> Any:
        layout = self.placement.layout
        if layout is None:
            return tree
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=layout.rows), tree
        )

    def batch(self) -> tuple[Prompts, Completions]:
        """Return the shapes of a batch's prompts and completions."""
        batch, new = self.plan.batch, self.plan.new
        tokens, numbers = (batch, self.plan.prompt), _array((batch,), jnp.int32)
        prompts = Prompts(_array(tokens, jnp.int32), _array(tokens, bool), numbers, numbers)
        floats = _array((batch, new), jnp.float32)
        made = Completions(
            _array((batch, new), jnp.int32), _array((batch, new), bool), floats, floats
        )
        return self._rows((prompts, made))

    def programs(self) -> dict[str, Program]:
        """Return sampling, the reference's scoring and the update, by name."""
        step, compose = self.plan.step, self.trainable.compose
        make = grpo.make_update if self.plan.algorithm == "grpo" else ppo.make_update
        config: Any = step
        update = make(self.model, config, self.sampling, (), self.optimizer, compose)
        acting = Acting(self.model, self.sampling, step, (), 0, compose)
        made = make_programs(acting, update, self.placement, self.state)
        state, key = self.state(), jax.eval_shape(lambda: jax.random.key(0))
        prompts, written = self.batch()
        rollout = Rollout(prompts, written, written.log_probs)
        scores = self._rows(_array((self.plan.batch,), jnp.float32))
        group, policies = step.sampled_group, policies_of(state)
        return {
            "sample": (made.act[group], (policies, prompts, key)),
            "score": (made.refer[group], (policies, (prompts, written))),
            "update": (made.update, (state, rollout, scores, key)),
        }


class Cost(NamedTuple):
    """What one call of a program takes of one device; numbers that are linear in depth."""

    temporary: float
    """Bytes that exist while it runs only."""
    results: float
    """Bytes of results that are not in the place of a donated argument."""
    flops: float
    """Of matrix products."""
    traffic: dict[str, float]
    """Bytes sent, by mesh axes."""


def measure(program: Program, plan: PlanConfig) -> Cost:
    """Compile a program for shapes, and read off what it takes."""
    function, arguments = program
    compiled = function.lower(*arguments).compile(compiler_options=QUICK)
    memory = compiled.memory_analysis()
    sizes = {"data": plan.mesh.data, "fsdp": plan.mesh.fsdp, "tensor": plan.mesh.tensor}
    work = count_work(compiled.as_text(), sizes, open_trips=max(plan.new - 1, 0))
    return Cost(
        memory.temp_size_in_bytes,
        memory.output_size_in_bytes - memory.alias_size_in_bytes,
        work.flops,
        work.traffic,
    )


def shallower(config: TransformerConfig, layers: int) -> TransformerConfig:
    """Return the same architecture with its first layers only."""
    windows = config.layer_windows
    return dataclasses.replace(
        config,
        num_layers=layers,
        layer_windows=None if windows is None else windows[:layers],
    )


def extrapolate(first: Cost, second: Cost, depths: tuple[int, int], layers: int) -> Cost:
    """Continue the line through two depths to `layers`: every layer costs what the others do."""
    ahead = (layers - depths[0]) / (depths[1] - depths[0])

    def line(one: float, two: float) -> float:
        return one + (two - one) * ahead

    axes = {**first.traffic, **second.traffic}
    traffic = {
        axis: line(first.traffic.get(axis, 0.0), second.traffic.get(axis, 0.0)) for axis in axes
    }
    return Cost(
        line(first.temporary, second.temporary),
        line(first.results, second.results),
        line(first.flops, second.flops),
        traffic,
    )
