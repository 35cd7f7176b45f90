"""Many steps of on-policy training as one compiled program: sampling, reward and update, looped.

The functions are those of the unfused loop, called inside a trace; prompts come in the same order,
keys are the same, and so are the numbers. What needs the host stands between two programs.

K steps of a program at most, B completions a step, G of each prompt, N prompts, P prompt slots.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.algorithms.buckets import SLOTS
from rljax.algorithms.metrics import split_tokens
from rljax.rewards.protocol import Judgement, RewardError, TokenTexts
from rljax.rollout.agreement import Disagreement, check_coarse, mean_gap_message
from rljax.rollout.keys import Role, role_key
from rljax.tasks.evaluation import decode_completions
from rljax.tasks.order import batch_indices
from rljax.tasks.prompts import PromptSet, count_repeats, pad_prompts
from rljax.training.compilation import announce
from rljax.training.policy_report import completion_rows, log_spread, tables_of
from rljax.training.processes import to_host
from rljax.training.writer import MetricsWriter
from rljax.types import Prompts, Rollout, TrainState

if TYPE_CHECKING:
    from rljax.training.setup import OnPolicy

Metrics = dict[str, jax.Array]


class Table(NamedTuple):
    """A set of prompts on the device."""

    tokens: jax.Array
    """[N, P] int32, all padded to one width."""
    mask: jax.Array
    """[N, P] bool."""
    columns: dict[str, TokenTexts]
    """What token rewards read, a row for each prompt."""


class Order(NamedTuple):
    """Which prompts stand in the batches of K steps."""

    indices: Any
    """[K, B / G] int32."""
    samples: Any
    """[K, B] int32: which of its prompt's samples each completion is."""


class Batch(NamedTuple):
    """What is known of a step's completions when it is done."""

    rollout: Rollout
    scores: jax.Array
    """[B] float32; NaN where the reward failed."""
    components: dict[str, jax.Array]
    """[B] float32 each: every reward's own scores."""


class Record(NamedTuple):
    """What is kept of each step for the host."""

    metrics: Metrics
    scores: jax.Array
    components: dict[str, jax.Array]
    lengths: jax.Array
    """[B] int32: tokens of each completion."""
    shown: Rollout
    """The first completions of the batch, to be written."""


def make_table(prompts: PromptSet, *, pad_id: int, multiple: int) -> Table:
    """Put prompts on the device, left-padded to the longest, rounded up to a multiple."""
    tokens, mask = pad_prompts(prompts.tokens, pad_id=pad_id, multiple=multiple)
    return jax.tree.map(jnp.asarray, Table(tokens, mask, prompts.token_columns))


def batch_order(
    start: int, count: int, *, size: int, batch_size: int, group: int, seed: int
) -> Order:
    """List the prompts of steps start to start + count, as the unfused loop draws them.

    size: number of prompts; batch_size: B; group: G.
    """
    distinct = [
        batch_indices(step, size=size, batch_size=batch_size // group, seed=seed)
        for step in range(start, start + count)
    ]
    samples = [count_repeats(np.repeat(indices, group)) for indices in distinct]
    return Order(np.stack(distinct), np.stack(samples))


def gather(table: Table, indices: jax.Array, samples: jax.Array, first_id: int) -> Prompts:
    """Pick the prompts [B] of a batch."""
    return Prompts(table.tokens[indices], table.mask[indices], indices + first_id, samples)


def train_step(
    setup: OnPolicy,
    table: Table,
    state: TrainState,
    step: jax.Array,
    indices: jax.Array,
    samples: jax.Array,
) -> tuple[TrainState, Metrics, Batch]:
    """Sample, judge, learn: a pure function of arrays. indices: [B / G]; samples: [B]."""
    algorithm, reward, seed = setup.algorithm, setup.task.reward, setup.config.seed
    group, first_id = algorithm.samples_per_prompt, setup.task.train.first_id
    rows = jnp.repeat(indices, group)
    prompts = gather(table, rows, samples, first_id)
    shared = algorithm.sampled_group
    made = setup.act(state, prompts, role_key(seed, Role.SAMPLING, step), shared)
    rollout = setup.rollout(state, prompts, made, shared)
    columns = jax.tree.map(lambda column: column[rows], table.columns)
    scores, components = reward.judge_tokens(prompts, made, columns)
    greedy = []
    if algorithm.wants_greedy:
        one_each = jax.tree.map(lambda x: x[::group], (prompts, columns))
        best = setup.act_greedily(state, one_each[0])
        greedy = [jnp.repeat(reward.judge_tokens(one_each[0], best, one_each[1])[0], group)]
    key = role_key(seed, Role.SHUFFLING, step)
    state, metrics = setup.programs.update(state, rollout, scores, key, *greedy)
    return sync(setup, state, step + 1), metrics, Batch(rollout, scores, components)


def sync(setup: OnPolicy, state: TrainState, done: jax.Array) -> TrainState:
    """Move the reference and the masking policy where it is time to, after `done` steps."""
    algorithm = setup.algorithm
    every = algorithm.ref_sync_every
    if every:
        mix = algorithm.ref_sync_mix
        state = jax.lax.cond(
            done % every == 0, lambda s: setup.programs.sync_reference(s, mix), lambda s: s, state
        )
    due = algorithm.mask_is_due(done)
    return (
        state if due is False else jax.lax.cond(due, setup.programs.sync_mask, lambda s: s, state)
    )


def loop_steps(
    step: Any, state: TrainState, first: jax.Array, count: jax.Array, order: Order
) -> tuple[TrainState, Any]:
    """Run step(state, number, indices, samples) -> state, record for `count` steps from `first`.

    count may be traced and is at most K; records come stacked [K, ...], zeros from `count` on.
    """

    def one(i: jax.Array, state: TrainState) -> tuple[TrainState, Any]:
        return step(state, first + i, order.indices[i], order.samples[i])

    size = order.indices.shape[0]
    _, record = jax.eval_shape(one, jnp.int32(0), state)
    records = jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), record)

    def body(i: jax.Array, carry: tuple[TrainState, Any]) -> tuple[TrainState, Any]:
        state, record = one(i, carry[0])
        return state, jax.tree.map(lambda all_, new: all_.at[i].set(new), carry[1], record)

    return jax.lax.fori_loop(0, count, body, (state, records))


class Fused:
    """The fused program of a run, and what the host does after it."""

    def __init__(self, setup: OnPolicy) -> None:
        self.table = self.make_table(setup)

        def run(
            table: Table, state: TrainState, first: jax.Array, count: jax.Array, order: Order
        ) -> tuple[TrainState, Record]:
            return self.steps(setup, table, state, first, count, order)

        # not donated: the state from before is what a chunk that fails is saved as
        outputs = setup.placement.outputs(setup.state_shapes, rest=True)
        self.run = setup.placement.jit(run, **outputs)

    @staticmethod
    def make_table(setup: OnPolicy) -> Table:
        """Put the prompts to train on on the device."""
        pad, multiple = setup.pretrained.pad_token_id, setup.config.prompt_multiple
        return make_table(setup.task.train, pad_id=pad, multiple=multiple)

    @staticmethod
    def steps(
        setup: OnPolicy,
        table: Table,
        state: TrainState,
        first: jax.Array,
        count: jax.Array,
        order: Order,
    ) -> tuple[TrainState, Record]:
        """Train for `count` steps from `first` on: a pure function of arrays."""

        def keep(metrics: Metrics, batch: Batch) -> Record:
            shown = jax.tree.map(lambda x: x[: setup.config.log_completions], batch.rollout)
            lengths = jnp.sum(batch.rollout.completions.mask, axis=1)
            shown = shown._replace(mask_hidden=None)
            return Record(metrics, batch.scores, batch.components, lengths, shown)

        def step(state: TrainState, *arguments: jax.Array) -> tuple[TrainState, Record]:
            state, metrics, batch = train_step(setup, table, state, *arguments)
            return state, keep(metrics, batch)

        return loop_steps(step, state, first, count, order)

    def advance(
        self, setup: OnPolicy, state: TrainState, step: int, writer: MetricsWriter, *, first: bool
    ) -> tuple[TrainState, list[dict[str, float]]]:
        """Train up to the next step at which the host has something to do; write what was made.

        Returns the state and the metrics of each step. The first step of a process runs alone: its
        agreement of sampler and learner is checked before more is learnt.
        """
        config, algorithm = setup.config, setup.algorithm
        count = 1 if first else chunk_length(setup, step)
        order = batch_order(
            step,
            config.fused_steps,
            size=len(setup.task.train),
            batch_size=algorithm.batch_size,
            group=algorithm.samples_per_prompt,
            seed=config.seed,
        )
        started = time.perf_counter()
        with announce("the fused steps"):
            state, record = self.run(self.table, state, step, count, order)
        records: Record = jax.device_get(to_host(record))
        seconds = (time.perf_counter() - started) / count
        rows = [jax.tree.map(lambda x, i=i: x[i], records) for i in range(count)]
        for i, row in enumerate(rows):
            check_scores(setup, step + i + 1, row.scores)
        if first:
            check_agreement(setup, step, rows[0])
        indices = np.repeat(order.indices, algorithm.samples_per_prompt, axis=1)
        return state, [
            self._report(setup, step + i, row, indices[i], seconds, writer)
            for i, row in enumerate(rows)
        ]

    def _report(
        self,
        setup: OnPolicy,
        step: int,
        record: Record,
        indices: np.ndarray,
        seconds: float,
        writer: MetricsWriter,
    ) -> dict[str, float]:
        """Write a step's completions, and return its metrics."""
        shown, scores = record.shown, record.scores
        texts = decode_completions(setup.tokenizer, shown.completions)
        prompts = [setup.task.train.texts[int(i)] for i in indices[: len(texts)]]
        metrics, of_tokens = split_tokens(record.metrics)
        tables = tables_of(setup, step + 1, shown, of_tokens)
        writer.completions(step + 1, completion_rows(prompts, shown, texts, scores, tables))
        log_spread(writer, step + 1, scores, record.lengths)
        report = {name: float(value) for name, value in metrics.items()}
        tokens = float(np.sum(record.lengths))
        width = self.table.tokens.shape[1]
        slots = report[SLOTS]
        report |= setup.rates(step, {"step": seconds}, tokens=tokens, width=width, slots=slots)
        return report | Judgement(scores, (), record.components).metrics()


def chunk_length(setup: OnPolicy, step: int) -> int:
    """Count the steps until the next evaluation, checkpoint or end, `fused_steps` at most."""
    config = setup.config
    marks = [config.steps, (step // config.checkpoint_every + 1) * config.checkpoint_every]
    if config.eval_every:
        marks.append((step // config.eval_every + 1) * config.eval_every)
    return min(config.fused_steps, min(marks) - step)


def check_scores(setup: OnPolicy, step: int, scores: np.ndarray) -> None:
    """Raise RewardError where more scores of a step than allowed are NaN."""
    failed, allowed = int(np.sum(~np.isfinite(scores))), setup.task.max_reward_failures
    if failed > allowed * len(scores):
        raise RewardError(
            f"the reward failed on {failed} of {len(scores)} completions of step {step}, more than "
            f"--task.max-reward-failures {allowed:g} allows: their scores are NaN or infinite"
        )


def check_agreement(setup: OnPolicy, step: int, record: Record) -> None:
    """Stop if sampler, learner or reference disagree at the first step of a process.

    The learner's side is the first minibatch's; the unfused loop compares the whole batch.
    """
    config = setup.config
    if config.sampling.coarse:
        if config.max_ratio_gap is not None and "importance/kl" in record.metrics:
            check_coarse(float(record.metrics["importance/kl"]))
        return  # the KL from the reference is the sampler's here, which is not 0 at the start
    if config.model.dtype != "float32":
        mean = float(record.metrics["health/sampler_logprob_mean_gap"])
        if config.max_mean_gap is not None and not mean <= config.max_mean_gap:
            raise Disagreement(mean_gap_message(mean, config.max_mean_gap, "learner"))
        return
    gap = float(np.expm1(record.metrics["health/sampler_logprob_gap"]))
    if config.max_ratio_gap is not None and not gap <= config.max_ratio_gap:
        raise Disagreement(
            f"sampler and learner disagree on the policy: |ratio - 1| is {gap:.3g} (allowed "
            f"{config.max_ratio_gap:g}) in the first minibatch; without --fused-steps the message "
            "says where (see --max-ratio-gap)"
        )
    nats = float(record.metrics["objective/kl"]) * len(record.lengths)
    kl = nats / max(int(np.sum(record.lengths)), 1)
    if config.max_start_kl is not None and step == 0 and not abs(kl) <= config.max_start_kl:
        raise Disagreement(
            f"the KL from the reference is {kl:.3g} nats per token before the first update "
            f"(allowed {config.max_start_kl:g}): policy and reference do not start from the same "
            "weights, or are not scored under the same distribution (see --max-start-kl)"
        )
