"""One loop for every supervised stage: steps, evaluation, checkpoints, metrics, exact resume.

A stage (pretraining, fine-tuning, a reward model, preferences, distillation) is a `Learner`: a few
pure functions. `run_supervised` takes it from a run directory to a report.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
import optax

from rljax.errors import UserError
from rljax.experiment import SupervisedExperiment
from rljax.models import Pretrained
from rljax.rollout.keys import Role, role_key
from rljax.training.alarms import Alarms, Watch
from rljax.training.checkpoint import Checkpoints
from rljax.training.compilation import CompileCounter, announce
from rljax.training.config_json import config_to_json, flatten_config
from rljax.training.mesh import ONE_DEVICE, Placement
from rljax.training.optimizer import make_optimizer, make_schedule
from rljax.training.processes import is_first
from rljax.training.progress import Progress
from rljax.training.run import Run
from rljax.training.writer import MetricsWriter, open_writer

CHANGEABLE = ("workdir", "steps", "checkpoint_every", "keep_checkpoints", "mesh", "alarms")
"""Fields of a `SupervisedExperiment` that may differ when a run goes on: `open_run`'s ignore."""


def _same(value: Any) -> Any:
    return value


class Learner(NamedTuple):
    """What a supervised stage is; the loop compiles `update` and `evaluate`."""

    init: Callable[[], Any]
    """() -> the state of step 0: a pytree of arrays. It is traced for its shapes when a run is
    resumed, and its arrays are given away (donated) to the first update."""
    update: Callable[[Any, Any, jax.Array], tuple[Any, dict[str, jax.Array]]]
    """(state, batch, key) -> state, metrics (scalars). `loss` must be among them. Names without a
    slash are written as train/NAME; `tokens` also gives perf/tokens_per_s."""
    evaluate: Callable[[Any, Any], dict[str, tuple[jax.Array, jax.Array]]]
    """(state, batch) -> {name: (sum, count)}, added up over the batches and written as eval/NAME.
    `loss` must be among them: its lowest value marks the best checkpoint."""
    batch: Callable[[int], Any]
    """(step) -> pytree of NumPy arrays: a pure function of the seed and the step. Each structure
    and shape is compiled once: there should be few."""
    eval_batches: Callable[[], Iterable[Any]]
    """() -> held-out batches, the same and in the same order every time."""
    finish: Callable[[dict[str, float]], dict[str, float]] = _same
    """Evaluation's means -> means and what follows from them, such as a perplexity."""
    saved: Callable[[Any], Any] = _same
    """state -> what checkpoints hold of it: all but what the config alone gives back."""
    restored: Callable[[Any], Any] = _same
    """What a checkpoint holds -> the state; undoes `saved`."""


class Prepared(NamedTuple):
    """All that a supervised script has ready before its run begins."""

    pretrained: Pretrained
    """The model that training starts from."""
    train: Any
    """The data to train on: `PackedData` or a `PreferenceSet`."""
    learner: Learner
    placement: Placement
    alarms: Alarms | None = None


def make_rate(
    experiment: SupervisedExperiment,
) -> tuple[optax.GradientTransformation, Callable[[jax.Array], jax.Array]]:
    """Build the optimizer, and step -> learning rate."""
    config = experiment.optimizer
    schedule = make_schedule(config, num_steps=experiment.steps)
    optimizer = make_optimizer(config, num_steps=experiment.steps)
    return optimizer, lambda step: config.learning_rate * schedule(step)


class Batched(Protocol):
    """Held-out data."""

    def batches(self, batch_size: int) -> Iterable[Any]: ...


def held_out_batches(held_out: Batched | None, batch_size: int) -> Callable[[], Iterable[Any]]:
    """Build a learner's `eval_batches`; there are none where nothing is held out."""
    return lambda: () if held_out is None else held_out.batches(batch_size)


def evaluate(
    learner: Learner,
    compiled: Callable[..., Any],
    state: Any,
    limit: int | None,
    placement: Placement = ONE_DEVICE,
) -> dict[str, float]:
    """Average a learner's held-out sums over at most `limit` batches, in float64.

    Raises:
      UserError: there is no held-out batch, or not one count for a name.
    """
    sums: dict[str, float] = {}
    counts: dict[str, float] = {}
    for batch in itertools.islice(learner.eval_batches(), limit):
        with announce("the evaluation"):
            results = jax.device_get(compiled(state, placement.rows(batch)))
        for name, (total, count) in results.items():
            sums[name] = sums.get(name, 0.0) + float(total)
            counts[name] = counts.get(name, 0.0) + float(count)
    empty = [name for name, count in counts.items() if count == 0]
    if not sums or empty:
        raise UserError(
            f"the held-out data gives nothing to average for {', '.join(empty) or 'any metric'}: "
            "hold more data out, or set --eval-batches 0"
        )
    return learner.finish({name: sums[name] / counts[name] for name in sums})


def check_finite(metrics: Mapping[str, float], step: int) -> None:
    """Raise UserError if a metric of an update is a NaN or an infinity."""
    for name, value in metrics.items():
        if not np.isfinite(value):
            raise UserError(
                f"{name} is {value} at step {step}: the update broke the parameters, which are "
                "not saved. Lower --optimizer.learning-rate, or look at the data of this step; "
                "the last checkpoint is intact"
            )


def report(before: Mapping[str, float], after: Mapping[str, float], directory: Path) -> None:
    """Print how the held-out numbers changed and save them as result.json."""
    result = {"before": dict(before), "after": dict(after)}
    if is_first():
        (directory / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"held-out data:{'before':>17}{'after':>12}")
    for name, value in after.items():
        print(f"  {name:<17}{before[name]:>12.4f}{value:>12.4f}")


class _Loop:
    """The parts of a run that its steps share."""

    def __init__(
        self,
        experiment: SupervisedExperiment,
        learner: Learner,
        checkpoints: Checkpoints,
        writer: MetricsWriter,
        held: dict[str, Any],
        placement: Placement,
        watch: Watch,
    ) -> None:
        self.experiment, self.learner, self.placement = experiment, learner, placement
        self.checkpoints, self.writer, self.held = checkpoints, writer, held
        self.watch = watch
        kept = placement.outputs(lambda: jax.eval_shape(learner.init), rest=True)
        self._update = placement.jit(learner.update, donate_argnums=0, **kept)
        self._evaluate = placement.jit(learner.evaluate, **placement.outputs())

    def update(self, state: Any, batch: Any, step: int) -> tuple[Any, dict[str, jax.Array]]:
        """Start one update; its results may still be under way when this returns."""
        rows = self.placement.rows(batch)
        with announce("the update"):
            return self._update(state, rows, role_key(self.experiment.seed, Role.SHUFFLING, step))

    def judge(self, state: Any, step: int) -> dict[str, float]:
        """Evaluate, write, and keep what the report needs."""
        limit = self.experiment.eval_batches
        means = evaluate(self.learner, self._evaluate, state, limit, self.placement)
        self.writer.scalars(step, {f"eval/{name}": value for name, value in means.items()})
        self.held["before" if step == 0 else "after"] = means
        return means

    def save(self, state: Any, step: int, loss: float | None) -> None:
        """Save the state of a step, after its metrics are on disk."""
        files = self.writer.flush()
        host = {**self.held, "files": files}
        score = None if loss is None else -loss
        self.checkpoints.save(step, self.learner.saved(state), host, score=score)

    def after_step(self, state: Any, step: int, *, stopping: bool) -> None:
        """Evaluate and save where it is time to; a new best is always saved."""
        experiment = self.experiment
        last = step == experiment.steps
        due = last or (experiment.eval_every and step % experiment.eval_every == 0)
        loss, best = None, False
        if due and experiment.judges:
            loss = self.judge(state, step)["loss"]
            best = loss < self.held.get("best", float("inf"))
            if best:
                self.held["best"] = loss
        if last or best or stopping or step % experiment.checkpoint_every == 0:
            self.save(state, step, loss)


def run_supervised(
    experiment: SupervisedExperiment,
    learner: Learner,
    run: Run,
    placement: Placement = ONE_DEVICE,
    alarms: Alarms | None = None,
) -> Any:
    """Run the steps that are left, then report; return the last state. alarms: None has none.

    The same numbers come out, bit for bit, however often the run is stopped or killed on the way.
    A checkpoint's score is minus the held-out loss: `best` is the one with the lowest.

    Raises:
      UserError: a metric is not finite, or a checkpoint or a metric cannot be written or read.
    """
    checkpoints = Checkpoints(run.checkpoint_dir, keep_last=experiment.keep_checkpoints)
    found = None
    if run.resumed:
        shapes = placement.like(jax.eval_shape(learner.init))
        found = checkpoints.restore(learner.saved(shapes))
    fresh = found is None
    held: dict[str, Any] = {}
    start, sizes = 0, None
    if found is None:
        state = placement.put(learner.init())
    else:
        start, part, held = found
        sizes = held.pop("files")
        state = placement.put(learner.restored(part))
        print(f"resumed {run.directory} at step {start}")
    del found  # the first update gives its arrays away
    writer = open_writer(run.directory, None if fresh else start, sizes)
    watch = Watch(alarms, writer, run.directory, resumed=not fresh)
    with checkpoints, writer, CompileCounter() as compiled:
        loop = _Loop(experiment, learner, checkpoints, writer, held, placement, watch)
        if fresh:
            writer.config_text(config_to_json(experiment))
            writer.hparams(flatten_config(experiment), ["train/loss", "eval/loss"])
            if experiment.judges:
                loop.judge(state, 0)
        state, done = _steps(loop, state, start, run, compiled)
    if done < experiment.steps:
        print(f"stopped at step {done}; the same command resumes")
    elif experiment.judges:
        report(held["before"], held["after"], run.directory)
    return state


def _steps(
    loop: _Loop, state: Any, start: int, run: Run, compiled: CompileCounter
) -> tuple[Any, int]:
    """Take the steps from `start` on; return the state and how many are done."""
    steps, learner = loop.experiment.steps, loop.learner
    with Progress(steps, start) as bar:
        batch = learner.batch(start) if start < steps else None
        for step in range(start, steps):
            started = time.perf_counter()
            state, results = loop.update(state, batch, step)
            updating = time.perf_counter()
            done = step + 1
            batch = learner.batch(done) if done < steps else None  # while the device works
            data_s = time.perf_counter() - updating
            metrics = _named(jax.device_get(results))
            seconds = time.perf_counter() - started
            check_finite(metrics, done)
            metrics |= {
                "time/step_s": seconds,
                "time/data_s": data_s,
                "perf/compile_count": compiled.count,
            }
            if "train/tokens" in metrics:
                metrics["perf/tokens_per_s"] = metrics["train/tokens"] / seconds
            loop.watch.see(done, metrics)
            loop.writer.scalars(done, metrics)
            bar.update(done, loss=metrics["train/loss"])
            stopping = run.should_stop
            loop.after_step(state, done, stopping=stopping)
            if stopping:
                return state, done
    return state, max(start, steps)


def _named(results: Mapping[str, Any]) -> dict[str, float]:
    """Give an update's metrics their groups."""
    return {
        name if "/" in name else f"train/{name}": float(value) for name, value in results.items()
    }
