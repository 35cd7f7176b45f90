"""Build the optimizer from its config: clipping, Adam of either form, decay, schedules."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

ParamGroup = Literal["policy", "critic"]
CRITIC_KEYS = ("critic", "value_head")
"""Top-level parameter keys that belong to the critic's group."""


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam, its learning rate over time, weight decay and gradient clipping."""

    learning_rate: float = 1e-5
    """Highest learning rate, of the policy (and of the critic, unless it has its own)."""
    critic_learning_rate: float | None = None
    """Highest learning rate of the critic's parameters; None: the policy's."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after the warm-up: in a line, as half a cosine, or not at all."""
    warmup_steps: int = 0
    """Training steps over which the learning rate rises in a line; the first is not 0."""
    final_fraction: float = 0.0
    """Share of the learning rate left at the end; 'constant' does not read it."""
    adam_form: Literal["tf", "torch"] = "torch"
    """Where Adam adds eps: 'tf' to the biased root (as in TensorFlow, and so in OpenAI's 2019
    code: small gradients move far less early on), 'torch' after the bias correction."""
    adam_b1: float = 0.9
    """Decay of Adam's mean of gradients."""
    adam_b2: float = 0.999
    """Decay of Adam's mean of squared gradients."""
    adam_eps: float = 1e-5
    """Added to the root of the squared gradients' mean."""
    weight_decay: float = 0.0
    """Decoupled decay (AdamW), times the learning rate. Matrices named 'kernel' decay; norms,
    biases and embeddings do not."""
    max_grad_norm: float | None = 1.0
    """Gradients are scaled down to this norm, over policy and critic together; None: never."""

    def __post_init__(self) -> None:
        rates = {"learning_rate": self.learning_rate, "adam_eps": self.adam_eps}
        if self.critic_learning_rate is not None:
            rates["critic_learning_rate"] = self.critic_learning_rate
        if self.max_grad_norm is not None:
            rates["max_grad_norm"] = self.max_grad_norm
        for name, value in rates.items():
            if not 0 < value < float("inf"):
                raise ValueError(f"optimizer {name} must be positive and finite, got {value}")
        for name, value in (("adam_b1", self.adam_b1), ("adam_b2", self.adam_b2)):
            if not 0 <= value < 1:
                raise ValueError(f"optimizer {name} must be in [0, 1), got {value}")
        if not 0 <= self.final_fraction <= 1:
            raise ValueError(f"optimizer final_fraction not in [0, 1]: {self.final_fraction}")
        if self.warmup_steps < 0 or not self.weight_decay >= 0:
            raise ValueError(
                "optimizer warmup_steps and weight_decay must not be negative, got "
                f"{self.warmup_steps} and {self.weight_decay}"
            )
        if self.schedule not in ("linear", "cosine", "constant"):
            raise ValueError(
                f"optimizer schedule not linear, cosine or constant: {self.schedule!r}"
            )
        if self.adam_form not in ("tf", "torch"):
            raise ValueError(f"optimizer adam_form must be tf or torch, got {self.adam_form!r}")


def make_schedule(
    config: OptimizerConfig, *, num_steps: int, updates_per_step: int = 1
) -> Callable[[jax.Array | int], jax.Array]:
    """Build the schedule, gradient updates done -> share of the learning rate, in [0, 1].

    A training step (one rollout) makes `updates_per_step` updates, all at the same rate, as in
    OpenAI's 2019 code. Step s of n after w warm-up steps: (s + 1) / w while s < w, then with
    x = (s - w) / (n - w): linear 1 - (1 - f) x, cosine f + (1 - f) (1 + cos(pi x)) / 2. Raises
    ValueError when the warm-up is not shorter than the training.
    """
    if num_steps <= 0 or updates_per_step <= 0:
        raise ValueError(f"steps must be positive, got {num_steps=} {updates_per_step=}")
    warmup = config.warmup_steps
    if warmup >= num_steps:
        raise ValueError(f"warmup_steps {warmup} must be fewer than the {num_steps} training steps")

    def schedule(count: jax.Array | int) -> jax.Array:
        step = jnp.asarray(count) // updates_per_step
        progress = jnp.clip((step - warmup) / (num_steps - warmup), 0, 1)
        left = {
            "linear": 1 - progress,
            "cosine": 0.5 * (1 + jnp.cos(jnp.pi * progress)),
            "constant": jnp.ones_like(progress),
        }[config.schedule]
        final = config.final_fraction
        return jnp.where(step < warmup, (step + 1) / max(warmup, 1), final + (1 - final) * left)

    return schedule


def clip_by_global_norm(limit: float) -> optax.GradientTransformation:
    """Scale gradients so that their norm over all parameters is at most `limit`.

    The factor is one number that XLA multiplies in where Adam reads the gradients; optax's division
    makes it hold a second copy of them. Pascanu et al. 2013, section 3.2.
    """

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        factor = limit / jnp.maximum(optax.tree.norm(grads), limit)
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), grads), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def scale_by_adam_tf(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Rescale gradients by Adam in TensorFlow's form ("epsilon hat" of the paper's section 2).

    sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + eps): eps is added before the bias correction, and
    so weighs 1 / sqrt(1 - b2^t) more than in torch's form. Kingma and Ba 2015
    (https://arxiv.org/abs/1412.6980); Huang et al. 2023, detail "Adam".
    """

    def init(params: Any) -> optax.ScaleByAdamState:
        # two trees: a program that is given the state to overwrite may not get a buffer twice
        mu, nu = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        return optax.ScaleByAdamState(count=jnp.zeros((), jnp.int32), mu=mu, nu=nu)

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, optax.ScaleByAdamState]:
        del params
        count = state.count + 1
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * jnp.square(g), state.nu, grads)
        scale = jnp.sqrt(1 - b2**count) / (1 - b1**count)
        updates = jax.tree.map(
            lambda m, v: (scale * m / (jnp.sqrt(v) + eps)).astype(m.dtype), mu, nu
        )
        return updates, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return optax.GradientTransformation(init, update)


class ScaleByRatesState(NamedTuple):
    """Number of updates done."""

    count: jax.Array


def scale_by_rates(
    schedule: Callable[[jax.Array], jax.Array],
    rates: dict[ParamGroup, float],
    group_of: Callable[[tuple[Any, ...]], ParamGroup],
) -> optax.GradientTransformation:
    """Multiply updates by minus the learning rate of each parameter's group.

    Adam acts on each number by itself, so two groups with rates of their own are one Adam followed
    by this.
    """

    def init(params: Any) -> ScaleByRatesState:
        del params
        return ScaleByRatesState(jnp.zeros((), jnp.int32))

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, ScaleByRatesState]:
        del params
        share = schedule(state.count)
        updates = jax.tree_util.tree_map_with_path(
            lambda path, g: (-rates[group_of(path)] * share * g).astype(g.dtype), grads
        )
        return updates, ScaleByRatesState(state.count + 1)

    return optax.GradientTransformation(init, update)


def group_by_top_key(path: tuple[Any, ...]) -> ParamGroup:
    """Assign a parameter to the critic when its first key is one of `CRITIC_KEYS`."""
    return "critic" if path and getattr(path[0], "key", None) in CRITIC_KEYS else "policy"


def decays(params: Any) -> Any:
    """Mark the parameters that weight decay acts on: matrices under the name 'kernel'."""

    def is_kernel(path: tuple[Any, ...], leaf: jax.Array) -> bool:
        return leaf.ndim >= 2 and getattr(path[-1], "key", None) == "kernel"

    return jax.tree_util.tree_map_with_path(is_kernel, params)


def make_optimizer(
    config: OptimizerConfig,
    *,
    num_steps: int,
    updates_per_step: int = 1,
    group_of: Callable[[tuple[Any, ...]], ParamGroup] = group_by_top_key,
) -> optax.GradientTransformation:
    """Build the whole optimizer: clip by global norm, Adam, decoupled decay, learning rates.

    `num_steps` training steps of `updates_per_step` gradient updates each; `group_of` maps a
    parameter's path to its group (by default the top-level keys 'critic' and 'value_head' are the
    critic's). Weight decay needs `params` in `update`. Raises ValueError as `make_schedule` does.
    """
    critic_rate = config.critic_learning_rate
    rates: dict[ParamGroup, float] = {
        "policy": config.learning_rate,
        "critic": config.learning_rate if critic_rate is None else critic_rate,
    }
    schedule = make_schedule(config, num_steps=num_steps, updates_per_step=updates_per_step)
    b1, b2, eps = config.adam_b1, config.adam_b2, config.adam_eps
    steps: list[optax.GradientTransformation] = []
    if config.max_grad_norm is not None:
        steps.append(clip_by_global_norm(config.max_grad_norm))
    steps.append(
        scale_by_adam_tf(b1, b2, eps)
        if config.adam_form == "tf"
        else optax.scale_by_adam(b1, b2, eps)
    )
    if config.weight_decay > 0:
        steps.append(optax.add_decayed_weights(config.weight_decay, mask=decays))
    steps.append(scale_by_rates(schedule, rates, group_of))
    return optax.chain(*steps)
