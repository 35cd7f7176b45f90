"""Runs of nano size: a recurrent policy on a world of arrays, pretrained and trained in seconds.

The updates, sampler and scorer are the library's. A whole run, every step of it, is one compiled
program of the seed, which runs of one config share: a cell costs what its arithmetic costs. Cells
of a sweep with `program="rljax/sweeps/nano.py:train_nano"`.

B completions a step, G of each prompt, S steps.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rljax.algorithms import grpo, ppo
from rljax.algorithms.actor_critic import Act, init_state, make_act
from rljax.algorithms.batch import OnPolicyConfig
from rljax.algorithms.grpo import GRPOConfig
from rljax.algorithms.monte_carlo import monte_carlo_values
from rljax.algorithms.ppo import PPOConfig
from rljax.group_advantages import informative_groups
from rljax.kl import make_kl_controller
from rljax.masking import masked_mean
from rljax.models.gru import make_gru
from rljax.models.transformer import Model
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.keys import Role, role_key
from rljax.rollout.scoring import Score, make_score
from rljax.sweeps.walks import Walks
from rljax.sweeps.worlds import Praise, Slips, World, means
from rljax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from rljax.training.writer import MetricsWriter
from rljax.types import Completions, Prompts, Rollout, TrainState

Metrics = dict[str, jax.Array]
Params = dict[str, Any]
PRETRAIN_ROWS = 128
QUICK: dict[str, int | bool] = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
"""Compiler options: a program of nano size takes longer to compile than to run."""
if jax.__version_info__ < (0, 12):  # later ones know no other way than the emitters
    QUICK["xla_cpu_use_fusion_emitters"] = False


@dataclasses.dataclass(frozen=True)
class NanoConfig(abc.ABC):
    """A run of nano size, without its algorithm."""

    world: Slips | Walks | Praise = Slips()
    hidden_size: int = 48
    """Width of the recurrent layer."""
    pretrain_steps: int = 300
    """Updates of the start, on 128 demonstrations each, at a rate that falls from 0.01 in half a
    cosine. The start depends on the world and on sizes, not on the seed."""
    sampling: SamplingConfig = SamplingConfig(max_new_tokens=8, temperature=1.0)
    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-3)
    steps: int = 60
    """Training steps."""
    seed: int = 0
    """Of prompts, sampling and minibatches."""

    @property
    @abc.abstractmethod
    def algorithm(self) -> OnPolicyConfig:
        """The algorithm's part."""

    def make_parts(self) -> Parts:
        """Build the functions of a run; a subclass may put a fault into them."""
        return Parts(self)

    def validate(self) -> None:
        """Raise ValueError for sizes that mean nothing."""
        for name in ("hidden_size", "steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.pretrain_steps < 0:
            raise ValueError(f"pretrain_steps is {self.pretrain_steps}; it must be at least 0")
        make_schedule(self.optimizer, num_steps=self.steps)


@dataclasses.dataclass(frozen=True)
class NanoGRPO(NanoConfig):
    """A nano run without a critic."""

    grpo: GRPOConfig = GRPOConfig()

    @property
    def algorithm(self) -> GRPOConfig:
        """The algorithm's part."""
        return self.grpo


@dataclasses.dataclass(frozen=True)
class NanoPPO(NanoConfig):
    """A nano run of PPO."""

    ppo: PPOConfig = PPOConfig()
    value_samples: int = 0
    """Values are the mean score of so many completions of each prefix (VinePPO); 0: the critic's.
    The critic then learns in vain: set ppo.value_coef to 0."""

    def validate(self) -> None:
        """Raise ValueError for sizes that mean nothing."""
        super().validate()
        if self.value_samples < 0 or (self.value_samples and self.ppo.value_coef):
            raise ValueError(
                f"value_samples is {self.value_samples}; it must be at least 0, and above 0 "
                f"ppo.value_coef, which is {self.ppo.value_coef}, must be 0"
            )

    @property
    def algorithm(self) -> PPOConfig:
        """The algorithm's part."""
        return self.ppo


class Parts:
    """The functions of a run.

    Attributes:
      act, score: of the policy in training; single: act, without groups; greedy: the most
        probable completions.
      start: the state of step 0. update: the algorithm's.
    """

    def __init__(self, config: NanoConfig) -> None:
        world, algorithm = config.world, config.algorithm
        self.config, self.model = config, make_gru(world.vocabulary, config.hidden_size)
        ends = (world.eos,)
        self.table = jnp.asarray(world.prompts())
        updates = algorithm.num_epochs * algorithm.num_minibatches
        self.optimizer = make_optimizer(
            config.optimizer, num_steps=config.steps, updates_per_step=updates
        )
        is_ppo = isinstance(algorithm, PPOConfig)
        makes: Any = ppo.make_update if is_ppo else grpo.make_update
        self.update: Callable[..., tuple[TrainState, Metrics]] = makes(
            self.model, algorithm, config.sampling, ends, self.optimizer
        )
        self.act = self._sampler(config.sampling, algorithm.sampled_group)
        self.greedy = self._sampler(dataclasses.replace(config.sampling, temperature=0.0), 1)
        self.single = self._sampler(config.sampling, 1)
        self.score: Score = make_score(self.model, config.sampling, ends)

    def _sampler(self, sampling: SamplingConfig, group: int) -> Act:
        algorithm, eos = self.config.algorithm, self.config.world.eos
        return make_act(
            self.model,
            sampling,
            (eos,),
            eos,
            truncate_token=algorithm.truncate_token,
            truncate_after=algorithm.truncate_after,
            group=group,
        )

    def first_state(self, params: Params) -> TrainState:
        """Make the state of step 0 of a start."""
        algorithm = self.config.algorithm
        critic = algorithm.critic if isinstance(algorithm, PPOConfig) else "none"
        return init_state(
            params,
            self.config.hidden_size,
            self.optimizer,
            critic=critic,
            kl_coef=make_kl_controller(algorithm.kl).init(),
        )

    def ask(self, key: jax.Array, rows: int) -> Prompts:
        """Draw the prompts of `rows` completions, whole groups."""
        group = self.config.algorithm.samples_per_prompt
        ids = jax.random.randint(key, (rows // group,), 0, len(self.table))
        return self.prompts(jnp.repeat(ids, group))

    def prompts(self, ids: jax.Array) -> Prompts:
        """Make a batch of the prompts with these numbers [B]."""
        tokens = self.table[ids]
        return Prompts(tokens, jnp.ones_like(tokens, bool), ids, jnp.arange(len(ids)))

    def sampled_values(
        self, state: TrainState, prompts: Prompts, made: Completions, key: jax.Array
    ) -> jax.Array:
        """Estimate the value before each token [B, C] by completions of its prefix."""
        assert isinstance(self.config, NanoPPO)
        return monte_carlo_values(
            self.single,
            lambda ids, text: self.config.world.judge(ids, text)["score"],
            state.params,
            prompts,
            made,
            jax.random.fold_in(key, 1),
            samples=self.config.value_samples,
        )

    def refer(self, state: TrainState, prompts: Prompts, made: Completions) -> Rollout:
        """Add what the reference thinks of completions."""
        return Rollout(prompts, made, self.score(state.ref_params, prompts, made).log_probs)


@functools.lru_cache(maxsize=8)
def make_parts(config: NanoConfig) -> Parts:
    """Build the functions of a run, once for a config."""
    return config.make_parts()


def pretrain(model: Model, world: World, steps: int) -> Params:
    """Learn demonstrations by their likelihood, from a fixed key."""
    table = jnp.asarray(world.prompts())
    optimizer = optax.adam(optax.cosine_decay_schedule(0.01, max(steps, 1)), b2=0.98)

    def loss(params: Params, key: jax.Array) -> jax.Array:
        which, how = jax.random.split(key)
        ids = jax.random.randint(which, (PRETRAIN_ROWS,), 0, len(table))
        shown, mask = world.demonstrate(how, ids)
        asked = table[ids]
        hidden = model.hidden(params, jnp.concatenate([asked, shown[:, :-1]], axis=1))
        logits = model.head(params, hidden[:, asked.shape[1] - 1 :])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, shown)
        return jnp.sum(losses * mask) / jnp.sum(mask)

    def step(carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params, key)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    params = model.init(jax.random.key(0))
    carry = (params, optimizer.init(params))
    return jax.lax.scan(step, carry, jax.random.split(jax.random.key(1), steps))[0][0]


@functools.lru_cache(maxsize=8)
def start_of(world: World, hidden_size: int, steps: int) -> Params:
    """Pretrain the start of all runs on a world, once in a process."""
    model = make_gru(world.vocabulary, hidden_size)
    return jax.jit(lambda: pretrain(model, world, steps), compiler_options=QUICK)()


def collect(parts: Parts, state: TrainState, key: jax.Array) -> tuple[Rollout, jax.Array, Metrics]:
    """Sample and judge a batch: rollout, scores [B], and what is told of all that was sampled.

    With dynamic sampling all further batches are sampled at once; the first groups of unequal
    scores make up the batch, in their order, and only the batches that they come from count as
    `objective/samples`. `world/*` are means over all of them, whether they are learnt from or not.
    """
    algorithm, world = parts.config.algorithm, parts.config.world
    asked, sampled = jax.random.split(key)
    rows, group = algorithm.batch_size, algorithm.samples_per_prompt
    batches = 1 + algorithm.further_batches
    prompts = parts.ask(asked, rows * batches)
    made = parts.act(state.params, prompts, sampled)
    judged = world.judge(prompts.ids, made)
    told = means(judged)
    scores, used = judged["score"], jnp.int32(1)
    if batches > 1:
        good = jnp.ones(rows * batches, bool)
        useful = informative_groups(scores, good, group_size=group)
        order = jnp.argsort(~useful, stable=True)[: rows // group]
        enough = jnp.sum(useful) >= rows // group
        used = jnp.where(enough, order[-1] * group // rows + 1, batches)
        chosen = (order[:, None] * group + jnp.arange(group)).reshape(-1)
        prompts, made, scores = jax.tree.map(lambda x: x[chosen], (prompts, made, scores))
    if isinstance(parts.config, NanoPPO) and parts.config.value_samples:
        made = made._replace(values=parts.sampled_values(state, prompts, made, key))
    told["objective/samples"] = used * rows
    return parts.refer(state, prompts, made), scores, told


def exact_metrics(parts: Parts, state: TrainState, rollout: Rollout) -> Metrics:
    """Compare values with those of the policy that sampled, where a world can be solved.

    `value/exact_error`: mean |value - exact value| over the batch's tokens; `objective/exact`: the
    policy's expected score over all prompts.
    """
    world, made = parts.config.world, rollout.completions
    if not isinstance(world, Walks):
        return {}
    values = world.exact_values(parts.model, state.params["policy"])
    right = values[world.prefixes(rollout.prompts.ids, made.tokens)]
    return {
        "value/exact_error": masked_mean(jnp.abs(made.values - right), made.mask),
        "objective/exact": jnp.mean(values[: len(parts.table)]),
    }


def train_step(parts: Parts, state: TrainState, seed: jax.Array) -> tuple[TrainState, Metrics]:
    """Sample, judge, learn."""
    algorithm, world = parts.config.algorithm, parts.config.world
    key = role_key(seed, Role.SAMPLING, state.step)
    rollout, scores, told = collect(parts, state, key)
    greedy = []
    if algorithm.wants_greedy:
        group = algorithm.samples_per_prompt
        one_each = jax.tree.map(lambda x: x[::group], rollout.prompts)
        best = parts.greedy(state.params, one_each, key)
        greedy = [jnp.repeat(world.judge(one_each.ids, best)["score"], group)]
    exact = exact_metrics(parts, state, rollout)
    shuffled = role_key(seed, Role.SHUFFLING, state.step)
    state, metrics = parts.update(state, rollout, scores, shuffled, *greedy)
    return state, metrics | told | exact


@functools.lru_cache(maxsize=4)
def make_program(config: NanoConfig) -> Callable[[Params, jax.Array], tuple[TrainState, Metrics]]:
    """Compile a whole run: (start, seed) -> the last state, metrics [S]; the config's seed is 0."""
    parts = make_parts(config)

    def run(params: Params, seed: jax.Array) -> tuple[TrainState, Metrics]:
        def one(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
            return train_step(parts, state, seed)

        return jax.lax.scan(one, parts.first_state(params), length=config.steps)

    return jax.jit(run, compiler_options=QUICK)


def train_nano(config: NanoConfig, run_dir: Path) -> None:
    """Train a nano run, and write its metrics: the program of a sweep."""
    params = start_of(config.world, config.hidden_size, config.pretrain_steps)
    program = make_program(dataclasses.replace(config, seed=0))
    _, metrics = program(params, jnp.int32(config.seed))
    write_rows(run_dir, jax.device_get(metrics))


def write_rows(run_dir: Path, metrics: dict[str, np.ndarray]) -> None:
    """Write metrics [S] of the steps 1 to S."""
    steps = len(next(iter(metrics.values())))
    with MetricsWriter(run_dir, None, None) as writer:
        for step in range(steps):
            writer.scalars(step + 1, {name: float(x[step]) for name, x in metrics.items()})
