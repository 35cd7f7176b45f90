"""The dry run of a supervised stage: its data, its memory, and a few of its real steps."""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from rljax.doctor.findings import Findings
from rljax.doctor.memory import Needs, count, program_needs, report_memory, room
from rljax.experiment import SupervisedExperiment
from rljax.rollout.keys import Role, role_key
from rljax.tasks.packing import PackedData
from rljax.tasks.preference_batches import PreferenceSet
from rljax.training.progress import format_duration
from rljax.training.reward_models import ends_in_eos
from rljax.training.supervised import Prepared

Experiment = TypeVar("Experiment", bound=SupervisedExperiment)
Scores = Callable[[Prepared, Any, Any], np.ndarray]
LOOKED_AT = 50  # steps in which each kind of batch is looked for
SHOWN = 10


class Kind(NamedTuple):
    """Batches of one structure and shapes: they share a compiled program."""

    step: int
    """A step that has such a batch."""
    batch: Any
    share: float
    """Of the steps looked at."""


def shortened(experiment: Experiment) -> Experiment:
    """Return an experiment that reads no more data than a dry run does."""
    batches = 1 if experiment.judges else 0
    return dataclasses.replace(experiment, steps=2, eval_every=0, eval_batches=batches)


def check_supervised(
    experiment: SupervisedExperiment,
    prepare: Callable[[Path], Prepared],
    *,
    scores: Scores | None = None,
) -> None:
    """Look at everything that a run needs; print a verdict, exit with 1 if it is bad.

    Args:
      experiment: the config.
      prepare: gets a folder that is thrown away, where a run would have its directory.
      scores: of a reward model: (prepared, state, batch) -> scores of the batch's completions.
    """
    findings = Findings()
    findings.config(experiment)
    with findings.catching(), tempfile.TemporaryDirectory() as folder:
        prepared = prepare(Path(folder))
        _check(findings, experiment, prepared, scores)
    findings.verdict()


def _check(
    findings: Findings,
    experiment: SupervisedExperiment,
    prepared: Prepared,
    scores: Scores | None,
) -> None:
    learner, placement = prepared.learner, prepared.placement
    available, state = room(), placement.put(learner.init())
    whole = count(prepared.pretrained.params)
    trained = count(state.params)
    findings.say("model", f"{whole:,} parameters; {trained:,} are trained")
    report_data(findings, prepared)
    kinds = batch_kinds(experiment, prepared)
    kept = placement.outputs(lambda: jax.eval_shape(learner.init), rest=True)
    update = placement.jit(learner.update, donate_argnums=0, **kept)
    needs: dict[str, Needs] = {}
    for number, kind in enumerate(kinds, start=1):
        name = "update" if len(kinds) == 1 else f"update, batch of kind {number}"
        key = role_key(experiment.seed, Role.SHUFFLING, kind.step)
        needs[name] = program_needs(update, state, placement.rows(kind.batch), key, name=name)
    if experiment.judges:
        evaluate = placement.jit(learner.evaluate, **placement.outputs())
        batch = next(iter(learner.eval_batches()), None)
        if batch is None:
            findings.wrong("no data is held out to evaluate on", "set --eval-batches 0")
        else:
            rows = placement.rows(batch)
            needs["evaluation"] = program_needs(evaluate, state, rows, name="the evaluation")
    if not report_memory(findings, state, needs, available):
        return
    state, seconds = _take_steps(findings, experiment, update, prepared, state, kinds)
    if scores is not None:
        _check_scores(findings, scores(prepared, state, kinds[0].batch))
    mean = sum(kind.share * value for kind, value in zip(kinds, seconds, strict=True))
    spoken = ", ".join(f"{value:.2f}" for value in seconds)
    findings.say(
        "time",
        f"{mean:.2f} s a step, measured on one real step after a first one ({spoken}); "
        f"{experiment.steps} steps take about {format_duration(mean * experiment.steps)}",
    )


def batch_kinds(experiment: SupervisedExperiment, prepared: Prepared) -> list[Kind]:
    """Find the kinds of batches that the first steps learn: each is compiled once."""
    found: dict[Any, tuple[int, Any, int]] = {}
    looked = min(experiment.steps, LOOKED_AT)
    for step in range(looked):
        batch = prepared.learner.batch(step)
        shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(batch))
        kind = (jax.tree.structure(batch), shapes)
        first, kept, times = found.get(kind, (step, batch, 0))
        found[kind] = (first, kept, times + 1)
    return [Kind(step, batch, times / looked) for step, batch, times in found.values()]


def report_data(findings: Findings, prepared: Prepared) -> None:
    """Say how long the longest row or prompt is, and whether what is learnt has ends."""
    data, model = prepared.train, prepared.pretrained
    context, ends = model.model.config.context_length, model.eos_token_ids
    if isinstance(data, PackedData):
        rows = data.rows
        longest = _longest_document(rows.segments)
        targets = int(np.sum(rows.targets))
        ended = int(np.sum(np.isin(rows.tokens, ends) & rows.targets))
        findings.say(
            "data",
            f"{data.documents} documents in {len(data)} rows of {rows.tokens.shape[1]} tokens; the "
            f"longest has {longest} of a context of {context}",
        )
        findings.say(
            "ends",
            f"{ended} of {targets} targets end a text"
            + ("" if ended else ": what is trained will not learn to stop (--data.append-eos)"),
        )
        if not targets:
            findings.wrong("no token is a target", "records need a completion, or a text")
    elif isinstance(data, PreferenceSet):
        sides = data.rows
        prompt = int(np.max(np.sum(sides.prompt_mask, axis=-1)))
        written = int(np.max(np.sum(sides.mask, axis=-1)))
        findings.say(
            "data",
            f"{len(data)} records; the longest prompt has {prompt} tokens, the longest completion "
            f"{written}, of a context of {context}",
        )
        most = "most" if ends_in_eos(data, ends) else "less than half of the"
        findings.say("ends", f"{most} completions end in EOS")


def _longest_document(segments: np.ndarray) -> int:
    """Count the tokens of the longest document of packed rows [N, T]; 0 is padding."""
    longest = 0
    for number in range(1, int(segments.max(initial=0)) + 1):
        longest = max(longest, int(np.max(np.sum(segments == number, axis=1))))
    return longest


def _take_steps(
    findings: Findings,
    experiment: SupervisedExperiment,
    update: Callable[..., Any],
    prepared: Prepared,
    state: Any,
    kinds: list[Kind],
) -> tuple[Any, list[float]]:
    """Learn each kind of batch twice; return the state and each one's second time in seconds."""
    seconds = []
    for kind in kinds:
        for _ in range(2):
            started = time.perf_counter()
            rows = prepared.placement.rows(kind.batch)
            key = role_key(experiment.seed, Role.SHUFFLING, kind.step)
            state, found = update(state, rows, key)
            metrics = {name: float(value) for name, value in jax.device_get(found).items()}
            took = time.perf_counter() - started
        seconds.append(took)
        broken = [name for name, value in metrics.items() if not math.isfinite(value)]
        if broken:
            findings.wrong(
                f"{', '.join(broken)} not finite after two steps",
                "a lower --optimizer.learning-rate, or look at the data of the first steps",
            )
        said = {name: metrics[name] for name in ("loss", "completion/truncated_fraction")
                if name in metrics}  # fmt: skip
        findings.say("steps", ", ".join(f"{name} {value:.4g}" for name, value in said.items()))
    return state, seconds


def _check_scores(findings: Findings, scores: np.ndarray) -> None:
    """The smoke test of a reward model, after two steps."""
    shown = ", ".join(f"{score:+.3f}" for score in scores[:SHOWN])
    findings.say("rewards", f"of {len(scores[:SHOWN])} completions ({scores.dtype}): {shown}")
    if not np.isfinite(scores).all():
        findings.wrong(
            "the reward model gives scores that are not finite", "a lower --optimizer.learning-rate"
        )
    elif np.ptp(scores) == 0:
        findings.wrong(
            f"all {len(scores)} completions of a batch score {scores[0]:g} after two steps",
            "completions that differ, or a higher --optimizer.learning-rate",
        )
