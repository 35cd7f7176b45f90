"""The learner of reward models, their normalisation, and what they are worth on held-out data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax import compiler
from rljax.algorithms import reward_model
from rljax.algorithms.learner import init_supervised
from rljax.errors import UserError
from rljax.experiment import RewardExperiment
from rljax.models import Pretrained
from rljax.models.heads import init_reward_head
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.keys import Role, role_key
from rljax.rollout.sampler import make_sampler
from rljax.tasks.preference_batches import PreferenceData, PreferenceSet
from rljax.tasks.preferences import Source
from rljax.tasks.sources import DataError
from rljax.training.compilation import announce
from rljax.training.parts import make_part
from rljax.training.policies import build_model
from rljax.training.preferences import load_preferences
from rljax.training.supervised import Learner, Prepared, held_out_batches, make_rate
from rljax.types import Completions, Prompts

SAMPLE_ROWS = 32


def load_reward_data(
    experiment: RewardExperiment, pretrained: Pretrained, source: Source | None = None
) -> PreferenceData:
    """Read the preferences in the form that the loss wants.

    source: what was read of them before the model was there.

    Raises DataError where margins are wanted and missing, and for ties under Plackett-Luce.
    """
    config = experiment.reward_model
    data = load_preferences(experiment.data, config.form, pretrained, config.margin_scale, source)
    if config.loss == "plackett_luce":
        for side in (data.train, data.held_out):
            for record in side.records if side is not None else ():
                if len(set(record.values)) < len(record.values):
                    raise DataError(
                        f"{record.where}: two completions are worth the same, but "
                        "reward_model.loss plackett_luce needs a whole order: take all_pairs"
                    )
    return data


def sample_reference(
    experiment: RewardExperiment, pretrained: Pretrained, side: PreferenceSet
) -> tuple[Prompts, Completions]:
    """Sample completions of the model as it starts, for the normalisation of scores.

    Prompts are the first different ones of the data, several samples of each where they are few.
    EOS is left out where the data's completions do not end in it.
    """
    config = experiment.reward_model
    sampling = SamplingConfig(
        max_new_tokens=side.rows.tokens.shape[2], temperature=config.normalise_temperature
    )
    eos, pad = pretrained.eos_token_ids, pretrained.pad_token_id
    model = build_model(experiment.model, pretrained)
    sample = compiler.jit(make_sampler(model, sampling, eos, pad))
    first = {record.prompt: row for row, record in reversed(list(enumerate(side.records)))}
    rows = np.resize(np.sort(list(first.values())), config.normalise_samples)
    prompts = Prompts(
        side.rows.prompt_tokens[rows],
        side.rows.prompt_mask[rows],
        rows.astype(np.int32),
        (np.arange(len(rows)) // len(first)).astype(np.int32),
    )
    key = role_key(experiment.seed, Role.EVALUATION)
    made = []
    for start in range(0, len(rows), SAMPLE_ROWS):
        places = np.resize(np.arange(start, min(start + SAMPLE_ROWS, len(rows))), SAMPLE_ROWS)
        part = jax.tree.map(lambda x, places=places: x[places], prompts)
        with announce("the sampler"):
            made.append(jax.device_get(sample(pretrained.params, None, part, key)))
    joined = jax.tree.map(lambda *parts: np.concatenate(parts)[: len(rows)], *made)
    if not ends_in_eos(side, eos):
        joined = joined._replace(mask=joined.mask & ~np.isin(joined.tokens, eos))
    return prompts, joined


def ends_in_eos(side: PreferenceSet, eos_token_ids: tuple[int, ...]) -> bool:
    """Say whether most completions of a set end in EOS."""
    rows = side.rows
    ended = (np.isin(rows.tokens, eos_token_ids) & rows.mask).any(axis=2)
    return bool(ended[rows.valid].mean() >= 0.5)


Normalise = Callable[[Any], reward_model.Normalised] | None


def make_reward_normalise(
    experiment: RewardExperiment, pretrained: Pretrained, data: PreferenceData
) -> Normalise:
    """Sample the reference and build the normalisation; None where the flags want none."""
    if not experiment.reward_model.normalise_samples:
        return None
    prompts, completions = sample_reference(experiment, pretrained, data.train)
    model = build_model(experiment.model, pretrained)
    return compiler.jit(reward_model.make_normalise(model, prompts, completions, SAMPLE_ROWS))


def make_reward_learner(
    experiment: RewardExperiment,
    pretrained: Pretrained,
    data: PreferenceData,
    normalise: Normalise,
) -> Learner:
    """Put a trunk, a new head and judged completions together."""
    model = build_model(experiment.model, pretrained)
    optimizer, learning_rate = make_rate(experiment)
    config = experiment.reward_model
    part = make_part(experiment, pretrained.params)
    compose = part.trainable.compose

    def init() -> Any:
        key = role_key(experiment.seed, Role.INITIALISATION)
        head = init_reward_head(key, model.config.hidden_size)
        if normalise is not None:
            params = {"policy": pretrained.params, reward_model.HEAD: head}
            head = normalise(params).params[reward_model.HEAD]
        return init_supervised(
            {"policy": part.policy(), reward_model.HEAD: head}, optimizer, part.base
        )

    return Learner(
        init=init,
        update=reward_model.make_update(model, config, optimizer, learning_rate, compose),
        evaluate=reward_model.make_evaluate(model, config, compose),
        batch=lambda step: data.train.batch(
            step, batch_size=config.batch_size, seed=experiment.seed
        ),
        eval_batches=held_out_batches(data.held_out, config.batch_size),
        saved=part.saved,
        restored=part.restored,
    )


def held_out_logits(
    experiment: RewardExperiment, pretrained: Pretrained, params: Any, side: PreferenceSet
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the log-odds of every held-out judgement, and whether it came out so: [n] each.

    Pairs (also those of rankings): difference of the scores, and true; labels: score, and label.
    """
    compiled = make_scores(experiment, pretrained)
    logits: list[float] = []
    outcomes: list[bool] = []
    for batch in side.batches(experiment.reward_model.batch_size):
        scores = np.asarray(compiled(params, batch))
        for row in np.flatnonzero(batch.weights):
            values, valid = batch.values[row], batch.valid[row]
            if experiment.reward_model.form == "labels":
                logits.append(scores[row, 0])
                outcomes.append(values[0] > 0)
                continue
            better = (values[:, None] > values[None]) & valid[:, None] & valid[None]
            for a, b in np.argwhere(better):
                logits.append(scores[row, a] - scores[row, b])
                outcomes.append(True)
    return np.asarray(logits), np.asarray(outcomes)


def make_scores(experiment: RewardExperiment, pretrained: Pretrained) -> Callable[..., jax.Array]:
    """Compile (whole parameters, batch) -> the scores of its completions."""
    model = build_model(experiment.model, pretrained)
    return compiler.jit(lambda params, batch: reward_model.batch_scores(model, params, batch))


def reward_scores(
    experiment: RewardExperiment, prepared: Prepared, state: Any, batch: Any
) -> np.ndarray:
    """Score the completions of a batch that are some, [n], with what a state has learnt so far."""
    params = make_part(experiment, prepared.pretrained.params).merged(state)
    scores = make_scores(experiment, prepared.pretrained)(params, batch)
    return np.asarray(scores)[np.asarray(batch.valid)]


def normalise_trained(normalise: Normalise, params: Any) -> tuple[Any, float, float]:
    """Bring a trained model's scores to mean 0 and standard deviation 1: params, gain, shift.

    Raises UserError where it scores all of the reference's completions alike.
    """
    if normalise is None:
        return params, 1.0, 0.0
    made = normalise(params)
    gain, shift = float(made.gain), float(made.shift)
    if not np.isfinite(gain) or not np.isfinite(shift) or gain > 1e6:
        raise UserError(
            f"the reward model scores all completions of the reference alike (gain {gain:.3g}): it "
            "learnt nothing; lower --optimizer.learning-rate or train longer"
        )
    return made.params, gain, shift


def trunk_as(pretrained: Pretrained, params: Any) -> Pretrained:
    """Put a reward model's trunk into the place of the model's parameters."""
    trunk = jax.tree.map(jnp.asarray, params["policy"])
    return dataclasses.replace(pretrained, params=trunk)
