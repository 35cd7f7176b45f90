"""The learner of DPO and its relatives, and what it shares with that of reward models."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rljax.algorithms import dpo
from rljax.algorithms.learner import init_supervised
from rljax.errors import UserError
from rljax.experiment import PreferenceExperiment
from rljax.models import Pretrained
from rljax.parallel import over_rows
from rljax.tasks.preference_batches import (
    Encoder,
    PreferenceData,
    PreferenceSet,
    make_preferences,
    with_mismatched,
)
from rljax.tasks.preference_forms import Form
from rljax.tasks.preferences import PreferenceConfig, Source
from rljax.tasks.sources import DataError
from rljax.training.compilation import announce
from rljax.training.mesh import ONE_DEVICE, Placement
from rljax.training.parts import make_part
from rljax.training.policies import build_model, load_model
from rljax.training.processes import any_of, count, is_first
from rljax.training.supervised import Learner, held_out_batches, make_rate

REFERENCE_FILE = "reference_{}.npz"


def load_preferences(
    config: PreferenceConfig,
    form: Form,
    pretrained: Pretrained,
    margin_scale: float,
    source: Source | None = None,
) -> PreferenceData:
    """Read preferences for a model; source: what was read of them before it was there.

    Raises DataError where margins are wanted and not every pair has one.
    """
    encoder = Encoder(
        pretrained.tokenizer,
        pretrained.eos_token_ids,
        pretrained.pad_token_id,
        pretrained.model.config.context_length,
    )
    data = make_preferences(config, form, encoder, source)
    if margin_scale and not data.has_margins:
        raise DataError(
            f"margin_scale is {margin_scale}, but not every pair of {config.source} has a margin: "
            "give `margin` or scores, or set it to 0"
        )
    return data


# ------------------------------------------------------------------------------------------ DPO


def fill_reference(
    side: PreferenceSet,
    log_probs: Callable[[Any], jax.Array],
    batch_size: int,
    cache: Path,
    wanted: np.ndarray,
) -> PreferenceSet:
    """Put the reference's log-probs of records into a set, from `cache` where that holds them.

    log_probs: batch -> [B, K]. wanted: which records will be read; the others may stay NaN.
    """
    found = _cached(cache, side)
    missing = wanted[np.isnan(found[wanted]).any(axis=1)]
    if any_of(len(missing) > 0):
        if count() > 1:  # each may have found another file, but all have to do the same
            missing = wanted
        print(f"the reference scores {len(missing)} records, once: kept in {cache}")
        for index, batch in enumerate(side.batches(batch_size, missing)):
            with announce("the reference's scoring"):
                made = np.asarray(log_probs(batch))
            places = missing[index * batch_size :][:batch_size]
            found[places] = made[: len(places)]
        if is_first():
            temporary = cache.with_name(f".{cache.name}")
            np.savez(temporary, digest=side.digest(), log_probs=found)
            temporary.replace(cache)
    return dataclasses.replace(side, rows=side.rows._replace(ref_log_probs=found))


def _cached(cache: Path, side: PreferenceSet) -> np.ndarray:
    """Read log-probs that were kept, if they are of this data; NaN where there are none."""
    if cache.exists():
        with np.load(cache) as saved:
            if str(saved["digest"]) == side.digest():
                return saved["log_probs"]
    return np.full(side.rows.ref_log_probs.shape, np.nan, np.float32)


def prepare_preferences(
    experiment: PreferenceExperiment,
    pretrained: Pretrained,
    directory: Path,
    placement: Placement = ONE_DEVICE,
    source: Source | None = None,
) -> PreferenceData:
    """Read the preferences, and what the reference thinks of them where the loss wants to know.

    The model as it starts, which is the reference unless another is given, is the frozen base of
    adapters too: it is scored before they exist, and needs no second copy.

    directory: the run's, where the log-probs are kept for when the run goes on. placement: where
    the reference stands while it scores. source: what was read before the model was there.
    """
    config = experiment.dpo
    data = load_preferences(experiment.data, config.form, pretrained, config.margin_scale, source)
    print(data.summary)
    score = dpo.make_preference_score(build_model(experiment.model, pretrained), config.score_rows)
    log_probs = functools.partial(dpo.sequence_log_probs, score)
    compiled = placement.jit(lambda *args: over_rows(log_probs)(*args), **placement.outputs())
    reference = pretrained
    if experiment.reference is not None:
        reference = load_model(experiment.reference, experiment.model.dtype)
        check_reference(pretrained, reference)

    def filled(side: PreferenceSet, name: str, wanted: np.ndarray) -> PreferenceSet:
        if config.loss == "kto":
            side = with_mismatched(side)
        if not config.needs_reference:
            return side
        cache = directory / REFERENCE_FILE.format(name)
        params = placement.put(reference.params)
        return fill_reference(
            side,
            lambda batch: compiled(params, placement.rows(batch)),
            config.batch_size,
            cache,
            wanted,
        )

    size, steps, seed = config.batch_size, experiment.steps, experiment.seed
    train = filled(data.train, "train", data.train.read_by(steps, batch_size=size, seed=seed))
    held_out = data.held_out
    if held_out is not None:
        judged = np.arange(len(held_out))
        if experiment.eval_batches is not None:
            judged = judged[: experiment.eval_batches * size]
        held_out = filled(held_out, "held_out", judged)
    return data._replace(train=train, held_out=held_out)


def check_reference(policy: Pretrained, reference: Pretrained) -> None:
    """Raise UserError unless the reference reads tokens as the policy does."""
    if policy.model.config != reference.model.config:
        raise UserError(
            "--reference must have the policy's architecture: their configurations differ"
        )
    if policy.tokenizer.get_vocab() != reference.tokenizer.get_vocab():
        raise UserError("--reference must have the policy's tokenizer: their vocabularies differ")


def make_preference_learner(
    experiment: PreferenceExperiment, pretrained: Pretrained, data: PreferenceData
) -> Learner:
    """Put a model and preferences with the reference's log-probs together."""
    model = build_model(experiment.model, pretrained)
    optimizer, learning_rate = make_rate(experiment)
    config = experiment.dpo
    part = make_part(experiment, pretrained.params)
    compose = part.trainable.compose

    def finish(means: dict[str, float]) -> dict[str, float]:
        return means | {"rewards/margin": means["rewards/chosen"] - means["rewards/rejected"]}

    return Learner(
        init=lambda: init_supervised({"policy": part.policy()}, optimizer, part.base),
        update=dpo.make_update(model, config, optimizer, learning_rate, compose),
        evaluate=dpo.make_evaluate(model, config, compose),
        batch=lambda step: data.train.batch(
            step, batch_size=config.batch_size, seed=experiment.seed
        ),
        eval_batches=held_out_batches(data.held_out, config.batch_size),
        finish=finish,
        saved=part.saved,
        restored=part.restored,
    )
