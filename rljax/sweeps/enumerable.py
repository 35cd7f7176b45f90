"""Train on a task whose every completion is listed, so that KL and reward are exact, not sampled.

The policy is a table of logits; sampler, scorer and updates are the library's own. All steps of a
cell are one compiled program, which seeds share, and arms that differ by `NUMBERS` only. The seed
draws the task too (reference, rewards): what holds over seeds holds over tasks of the kind.

Written every `log_every` steps, of the policy after the step: `exact/reward`, `exact/kl` (nats per
completion), `exact/objective` (reward - beta KL), beside the update's own metrics. With the last:
`exact/optimum` (beta log Z), `exact/closed` (share of the way from the reference's objective to the
optimum), `exact/frontier` (the most reward that any policy has at this KL), `exact/frontier_gap`
(what is missing to it; below 0 no policy can be).

B completions a step, N completions in all, L slots; a table [S, V] has a row for each prefix.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rljax.algorithms import dpo, grpo, ppo
from rljax.algorithms.actor_critic import init_state, make_act, make_collect
from rljax.algorithms.batch import OnPolicyConfig
from rljax.algorithms.dpo import DPOConfig
from rljax.algorithms.grpo import GRPOConfig
from rljax.algorithms.learner import Metrics, init_supervised
from rljax.algorithms.ppo import PPOConfig
from rljax.environments import frontier
from rljax.environments.sequences import SequenceTree
from rljax.environments.tabular import World, local_rewards
from rljax.kl import make_kl_controller
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.scoring import make_score
from rljax.sweeps.exact import final_numbers, log_probs_of, reference_of
from rljax.sweeps.pairs import Pairs, draw_preferences
from rljax.tasks.preference_batches import PreferenceBatch
from rljax.traced import is_zero, set_numbers, set_traced
from rljax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from rljax.training.writer import MetricsWriter
from rljax.types import Rollout

NUMBERS = (
    "optimizer.learning_rate", "beta", "dpo.beta", "exact_kl_coef",
    *(f"{part}.kl.{name}" for part in ("ppo", "grpo") for name in ("coef", "target", "horizon")),
)  # fmt: skip
"""What only arithmetic reads: arms that differ by these share a program."""


@dataclasses.dataclass(frozen=True)
class EnumerableExperiment:
    """Learning on a task of V^L completions, all of which are listed."""

    method: Literal["ppo", "grpo", "dpo", "best_of_n"] = "ppo"
    """What learns: an on-policy update, DPO on pairs that the reference sampled, or nothing: the
    best of n samples of the reference."""
    ppo: PPOConfig = PPOConfig(batch_size=256, value_coef=1.0)
    grpo: GRPOConfig = GRPOConfig(batch_size=256)
    dpo: DPOConfig = DPOConfig(batch_size=256)
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=0.05, max_grad_norm=None)
    vocabulary: int = 8
    """V."""
    length: int = 4
    """L, tokens of every completion."""
    reward_scale: float = 1.0
    """Deviation of the rewards over all completions."""
    beta: float = 0.1
    """What a nat costs in `exact/objective`; of best_of_n and for reports, training has its own."""
    exact_kl_coef: float = 0.0
    """Weight of the exact KL, whose gradient is added to the sampled one; 0: off."""
    best_of: int = 16
    """n of best_of_n."""
    pairs: int = 20_000
    """Pairs of completions of the reference that DPO learns from; one of each is preferred with
    the probability sigmoid(r1 - r2) (Bradley and Terry)."""
    steps: int = 600
    """Batches learnt from."""
    log_every: int = 5
    """Steps between lines of metrics.jsonl."""
    seed: int = 0
    """Of the task, the samples and the minibatches."""

    def validate(self) -> None:
        """Raise ValueError for values that mean nothing."""
        for name in ("steps", "log_every", "best_of", "pairs", "vocabulary", "length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("reward_scale", "beta"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        if self.exact_kl_coef < 0:
            raise ValueError(f"exact_kl_coef is {self.exact_kl_coef}; it must be at least 0")
        if self.exact_kl_coef and self.method not in ("ppo", "grpo"):
            raise ValueError(f"exact_kl_coef needs an on-policy method, not {self.method}")
        if self.steps % self.log_every:
            raise ValueError(
                f"steps is {self.steps}; it must be a multiple of log_every {self.log_every}"
            )
        self.on_policy.validate()
        self.dpo.validate()

    @property
    def lines(self) -> int:
        """Lines of metrics.jsonl."""
        return self.steps // self.log_every

    @property
    def on_policy(self) -> OnPolicyConfig:
        """The config of the on-policy update."""
        return self.ppo if self.method == "ppo" else self.grpo

    @property
    def sampling(self) -> SamplingConfig:
        """Plain sampling of all slots."""
        return SamplingConfig(max_new_tokens=self.length, temperature=1.0)


# -------------------------------------------------------------------------------------- The task


@functools.lru_cache(maxsize=8)
def make_world(vocabulary: int, length: int, seed: int, reward_scale: float) -> World:
    """Draw a task: a reference of standard normal logits, and rewards of places and pairs."""
    rewards = local_rewards(SequenceTree(vocabulary, length), seed, scale=reward_scale)
    return World(vocabulary, length, eos=None, seed=seed, rewards=rewards)


def world_of(config: EnumerableExperiment) -> World:
    """Draw the task of a config."""
    return make_world(config.vocabulary, config.length, config.seed, config.reward_scale)


def with_task(world: World, reference: jax.Array, rewards: jax.Array) -> World:
    """Return the same tree with another reference and rewards, which may be traced."""
    other = copy.copy(world)
    other.reference, other.rewards = reference, rewards
    return other


# ------------------------------------------------------------------------------------- Learning


def add_exact_kl(world: World, coef: float | jax.Array) -> optax.GradientTransformation:
    """Add the gradient of coef KL(policy || reference) / L to an update's gradients.

    The loss of the on-policy methods, summed over tokens and divided by B L, has that scale.
    """

    def kl(params: Any) -> jax.Array:
        return coef / world.length * world.exact(params["policy"]["table"]).kl

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.tree.map(jnp.add, grads, jax.grad(kl)(params)), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def on_policy_prompts(world: World, algorithm: OnPolicyConfig) -> Any:
    """Return the prompts of a batch."""
    rows, group = jnp.arange(algorithm.batch_size), algorithm.samples_per_prompt
    return world.prompts(rows // group, rows % group)


def make_sampler(
    world: World, algorithm: OnPolicyConfig, sampling: SamplingConfig
) -> Callable[[Any, jax.Array], tuple[Rollout, jax.Array]]:
    """Build sample(params, key) -> rollout, scores [B]."""
    act = make_act(world.model, sampling, world.eos_ids, 0)
    collect = make_collect(act, make_score(world.model, sampling, world.eos_ids))

    def sample(params: Any, key: jax.Array) -> tuple[Rollout, jax.Array]:
        prompts = on_policy_prompts(world, algorithm)
        rollout = collect(params, {"table": world.reference}, prompts, key)
        return rollout, world.judge(rollout.completions)

    return sample


def learn_on_policy(
    config: EnumerableExperiment, world: World, key: jax.Array
) -> tuple[jax.Array, Metrics]:
    """Train by the on-policy method: the last table, and metrics of every line."""
    algorithm, sampling = config.on_policy, config.sampling
    updates = algorithm.num_epochs * algorithm.num_minibatches
    optimizer = make_optimizer(config.optimizer, num_steps=config.steps, updates_per_step=updates)
    if not is_zero(config.exact_kl_coef):
        optimizer = optax.chain(add_exact_kl(world, config.exact_kl_coef), optimizer)
    module: Any = ppo if config.method == "ppo" else grpo
    update = module.make_update(world.model, algorithm, sampling, world.eos_ids, optimizer)
    sample = make_sampler(world, algorithm, sampling)
    state = init_state(
        {"table": world.reference},
        world.model.config.hidden_size,
        optimizer,
        critic="shared" if config.method == "ppo" else "none",
        kl_coef=make_kl_controller(algorithm.kl).init(),
    )

    def step(state: Any, key: jax.Array) -> tuple[Any, Metrics]:
        sample_key, shuffle_key = jax.random.split(key)
        rollout, scores = sample(state.params, sample_key)
        return update(state, rollout, scores, shuffle_key)

    return scan_steps(config, world, step, state, key)


def first_gradient(
    world: World,
    algorithm: GRPOConfig,
    sampling: SamplingConfig,
    policy: jax.Array,
    rollout: Rollout,
    scores: jax.Array,
    key: jax.Array,
) -> tuple[jax.Array, Metrics]:
    """Compute what one update by a batch adds to the table at rate 1: [S, V], and its metrics."""
    ascent = optax.sgd(1.0)
    update = grpo.make_update(world.model, algorithm, sampling, world.eos_ids, ascent)
    state = init_state(
        {"table": policy},
        world.model.config.hidden_size,
        ascent,
        critic="none",
        kl_coef=make_kl_controller(algorithm.kl).init(),
    )
    state, metrics = update(state, rollout, scores, key)
    return state.params["policy"]["table"] - policy, metrics


def scan_steps(
    config: EnumerableExperiment,
    world: World,
    step: Callable[[Any, jax.Array], tuple[Any, Metrics]],
    state: Any,
    key: jax.Array,
) -> tuple[jax.Array, Metrics]:
    """Run all steps: the last table, and metrics [lines] of every line of metrics.jsonl."""

    def one(carry: Any, key: jax.Array) -> tuple[Any, None]:
        return step(carry[0], key), None

    def line(carry: Any, keys: jax.Array) -> tuple[Any, Metrics]:
        carry, _ = jax.lax.scan(one, carry, keys)
        state, metrics = carry
        reward, kl = world.exact(state.params["policy"]["table"])
        exact = {
            "exact/reward": reward,
            "exact/kl": kl,
            "exact/objective": reward - config.beta * kl,
        }
        return carry, metrics | exact

    keys = jax.random.split(key, (config.lines, config.log_every))
    empty = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(step, state, keys[0, 0])[1]
    )
    (state, _), metrics = jax.lax.scan(line, (state, empty), keys)
    return state.params["policy"]["table"], metrics


def draw_pairs(config: EnumerableExperiment, world: World, key: jax.Array) -> PreferenceBatch:
    """Sample pairs from the reference, and who is preferred."""
    count, slots = config.pairs, world.length
    which_key, label_key = jax.random.split(key)
    log_reference = world.log_probs(world.reference)
    which = jax.random.categorical(which_key, log_reference, shape=(count, 2))
    ones = jnp.ones((count, 1), jnp.int32)
    pairs = Pairs(
        prompt_tokens=0 * ones,
        prompt_mask=ones > 0,
        tokens=jnp.asarray(world.tokens)[which],
        mask=jnp.ones((count, 2, slots), bool),
        ref_log_probs=log_reference[which],
    )
    lead = world.rewards[which[:, 0]] - world.rewards[which[:, 1]]
    return draw_preferences(pairs, lead, label_key, batch_size=config.dpo.batch_size)


def learn_from_pairs(
    config: EnumerableExperiment, world: World, key: jax.Array
) -> tuple[jax.Array, Metrics]:
    """Train by DPO: the last table, and metrics of every line."""
    optimizer = make_optimizer(config.optimizer, num_steps=config.steps)
    schedule = make_schedule(config.optimizer, num_steps=config.steps)
    update = dpo.make_update(world.model, config.dpo, optimizer, schedule)
    pairs_key, key = jax.random.split(key)
    pairs = draw_pairs(config, world, pairs_key)
    size = config.dpo.batch_size

    def step(state: Any, key: jax.Array) -> tuple[Any, Metrics]:
        rows = jax.random.randint(key, (size,), 0, config.pairs)
        return update(state, jax.tree.map(lambda x: x[rows], pairs), key)

    state = init_supervised({"policy": {"table": world.reference}}, optimizer)
    return scan_steps(config, world, step, state, key)


def learn(config: EnumerableExperiment, world: World, key: jax.Array) -> tuple[jax.Array, Metrics]:
    """Train by the config's method: the last table, and metrics of every line [lines]."""
    chosen = learn_from_pairs if config.method == "dpo" else learn_on_policy
    return chosen(config, world, key)


def split_numbers(config: EnumerableExperiment) -> tuple[EnumerableExperiment, dict[str, float]]:
    """Return what a program is compiled for, and the numbers that it takes as arguments.

    A number of 0 switches something off, which is another program; others stand as 1 in its config.
    """
    numbers = {}
    for path in NUMBERS:
        value: Any = config
        for name in path.split("."):
            value = getattr(value, name)
        if value:
            numbers[path] = float(value)
    return set_numbers(config, dict.fromkeys(numbers, 1.0) | {"seed": 0}), numbers


@functools.lru_cache(maxsize=32)
def _program(config: EnumerableExperiment) -> Any:
    """Compile the training of a config; task, seed and numbers are its arguments."""
    tree = make_world(config.vocabulary, config.length, 0, 1.0)

    def run(
        reference: jax.Array, rewards: jax.Array, key: jax.Array, numbers: dict[str, jax.Array]
    ) -> tuple[jax.Array, Metrics]:
        return learn(set_traced(config, numbers), with_task(tree, reference, rewards), key)

    return jax.jit(run)


# -------------------------------------------------------------------------------------- Running


def train_table(config: EnumerableExperiment) -> tuple[jax.Array, dict[str, np.ndarray]]:
    """Train a table: the last one [S, V], and metrics of every line [lines].

    Raises ValueError for an impossible config, and for best_of_n, which trains none.
    """
    config.validate()
    if config.method == "best_of_n":
        raise ValueError("method best_of_n trains no table")
    world = world_of(config)
    static, numbers = split_numbers(config)
    program = _program(dataclasses.replace(static, reward_scale=1.0))
    key = jax.random.key(config.seed)
    table, metrics = program(world.reference, world.rewards, key, numbers)
    return table, jax.device_get(metrics)


def train(config: EnumerableExperiment) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Run a config: log-probabilities [N] in the end, and metrics of every line [lines].

    Raises ValueError for an impossible config.
    """
    config.validate()
    world = world_of(config)
    if config.method == "best_of_n":
        log_reference, rewards = reference_of(world)
        return frontier.best_of_n(log_reference, rewards, config.best_of), {}
    table, metrics = train_table(config)
    return log_probs_of(world, table), metrics


def run_enumerable(config: EnumerableExperiment, run_dir: str | Path) -> None:
    """Train, and write the run's metrics: the program of a sweep.

    Raises ValueError for an impossible config.
    """
    log_policy, metrics = train(config)
    write_run(config, run_dir, metrics, final_numbers(world_of(config), log_policy, config.beta))


def write_run(
    config: EnumerableExperiment,
    run_dir: str | Path,
    metrics: dict[str, np.ndarray],
    last: dict[str, float],
) -> None:
    """Write metrics.jsonl: a line for each of `metrics` [lines], and `last` with the last step."""
    rows: list[dict[str, Any]] = [
        {name: values[i] for name, values in metrics.items()} for i in range(config.lines)
    ]
    rows = rows if metrics else [{}]
    rows[-1] |= last
    first = config.steps - (len(rows) - 1) * config.log_every
    with MetricsWriter(run_dir) as writer:
        for i, row in enumerate(rows):
            writer.scalars(first + i * config.log_every, row)
