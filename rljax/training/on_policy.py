"""Train a policy on its own completions, whatever the algorithm: sample, judge, learn.

Evaluation, checkpoints and the exact resumption of a run are alike for all of them.
"""

from __future__ import annotations

import functools
import time
from typing import Any

import jax
import numpy as np

from rljax.algorithms.buckets import SLOTS
from rljax.algorithms.metrics import split_tokens
from rljax.errors import UserError
from rljax.training.alarms import Watch, policy_alarms
from rljax.training.batches import collect
from rljax.training.checkpoint import Checkpoints
from rljax.training.compilation import CompileCounter, announce
from rljax.training.config_json import config_to_json, flatten_config
from rljax.training.first_step import check_first_step, compile_learning
from rljax.training.overlap import collect_ahead, sample_first, staleness
from rljax.training.policy_report import (
    completion_rows,
    log_evaluation,
    log_spread,
    report,
    tables_of,
)
from rljax.training.progress import Progress
from rljax.training.run import Run
from rljax.training.setup import OnPolicy
from rljax.training.writer import MetricsWriter, open_writer
from rljax.types import TrainState


def check_finite(metrics: dict[str, float], step: int) -> None:
    """Raise UserError if the update gave a NaN or an infinity."""
    for name in ("policy/loss", "value/loss", "optim/grad_norm"):
        if not np.isfinite(metrics.get(name, 0.0)):
            raise UserError(
                f"{name} is {metrics[name]} at step {step}: the update broke the policy, which is "
                "not saved. Lower --optimizer.learning-rate, or look at the scores of this step "
                "in completions.jsonl; the last checkpoint is intact"
            )


def one_step(
    setup: OnPolicy, state: TrainState, step: int, writer: MetricsWriter, *, first: bool
) -> tuple[TrainState, list[dict[str, float]]]:
    """Sample, judge, learn: one batch of completions. Returns the state and the step's metrics."""
    config, algorithm = setup.config, setup.algorithm
    ahead = None
    if config.overlap:
        batch, ahead = collect_ahead(setup, state, step, first=first)
    else:
        meanwhile = functools.partial(compile_learning, setup, state, step) if first else None
        batch = collect(setup, state, step, meanwhile)
        if first:
            check_first_step(setup, state, batch.rollout, batch.texts)
    rollout, made = batch.rollout, batch.rollout.completions
    lengths = np.sum(np.asarray(made.mask), axis=1)
    log_spread(writer, step + 1, batch.scores, lengths)
    more = setup.greedy_scores(state, step)
    update_started = time.perf_counter()
    with announce("the update"):
        given = setup.update_arguments(state, step, rollout, batch.scores, *more)
        state, metrics = setup.programs.update(*given)
    if algorithm.ref_sync_every and (step + 1) % algorithm.ref_sync_every == 0:
        state = setup.programs.sync_reference(state, algorithm.ref_sync_mix)
    if algorithm.mask_is_due(step + 1):
        state = setup.programs.sync_mask(state)
    metrics, of_tokens = split_tokens(jax.device_get(metrics))
    tables = tables_of(setup, step + 1, rollout, of_tokens)
    shown = batch.prompts[: config.log_completions]
    rows_of_text = completion_rows(shown, rollout, batch.texts, batch.scores, tables)
    writer.completions(step + 1, rows_of_text)
    report = {name: float(value) for name, value in metrics.items()}
    times = batch.seconds | {"update": time.perf_counter() - update_started}
    tokens, width = float(np.sum(lengths)), rollout.prompts.tokens.shape[1]
    report |= setup.rates(step, times, tokens=tokens, width=width, slots=report[SLOTS])
    report |= batch.judged
    if algorithm.further_batches:
        report["objective/samples"] = batch.samples
    if config.overlap:
        report["health/staleness"] = staleness(step)
    return state._replace(ahead=ahead), [report]


def train(setup: OnPolicy, run: Run) -> None:
    """Run the steps that are left, then judge and report."""
    config = setup.config
    checkpoints = Checkpoints(run.checkpoint_dir, keep_last=config.keep_checkpoints)
    held: dict[str, Any] = {"before": None}
    sizes: dict[str, int] | None = None
    found = checkpoints.restore(setup.saved_shapes()) if run.resumed else None
    if found is None:
        state = setup.first_state()
    else:
        _, restored, held = found
        sizes = held.pop("files")
        reference = restored.ref_params or setup.start_reference()
        state = restored._replace(ref_params=reference)
        print(f"resumed {run.directory} at step {int(state.step)}")
    start = int(state.step)
    writer = open_writer(run.directory, start if found else None, sizes)
    watch = Watch(policy_alarms(config), writer, run.directory, resumed=found is not None)
    with checkpoints, writer, CompileCounter() as compiled, Progress(config.steps, start) as bar:
        if found is None:
            writer.config_text(config_to_json(config))
            writer.hparams(flatten_config(config), ["objective/scores", "objective/kl"])
            if config.eval_prompts:
                result = setup.evaluate(state)
                log_evaluation(writer, 0, result)
                held["before"] = result.scores.tolist()
                held["measured_before"] = dict(result.report.metrics)
            if config.overlap:
                state = sample_first(setup, state)
        done = start
        while done < config.steps:
            advance = one_step if setup.fused is None else setup.fused.advance
            try:
                state, rows = advance(setup, state, done, writer, first=done == start)
            except UserError:
                save(setup, checkpoints, state, done, held, writer, None)  # nothing is lost
                raise
            for metrics in rows:
                done += 1
                metrics["perf/compile_count"] = compiled.count
                watch.see(done, metrics)
                writer.scalars(done, metrics)
                bar.update(done, score=metrics["objective/scores"], KL=metrics["objective/kl"])
                check_finite(metrics, done)
            if config.eval_every and done % config.eval_every == 0 and done < config.steps:
                log_evaluation(writer, done, setup.evaluate(state))
            stopping = run.should_stop
            if stopping or done == config.steps or done % config.checkpoint_every == 0:
                save(setup, checkpoints, state, done, held, writer, metrics["objective/scores"])
            if stopping and done < config.steps:
                print(f"stopped at step {done}; the same command resumes")
                return
        if config.eval_prompts:
            result = setup.evaluate(state)
            log_evaluation(writer, config.steps, result)
            before = np.asarray(held["before"], np.float32)
            report(before, held.get("measured_before", {}), result, run.directory)


def save(
    setup: OnPolicy,
    checkpoints: Checkpoints,
    state: TrainState,
    step: int,
    held: dict[str, Any],
    writer: MetricsWriter,
    score: float | None,
) -> None:
    """Save the state of a step, after its metrics are on disk."""
    files = writer.flush()
    checkpoints.save(step, setup.saved_part(state), {**held, "files": files}, score=score)
