"""The learner of the stages that predict the next token: pretraining and fine-tuning."""

from __future__ import annotations

import math
from typing import Any

import jax

from rljax.algorithms.learner import init_supervised
from rljax.algorithms.sft import make_evaluate, make_update
from rljax.experiment import TextExperiment
from rljax.models import Pretrained, make_model
from rljax.tasks.documents import Data, Records, make_data
from rljax.training.optimizer import make_optimizer, make_schedule
from rljax.training.supervised import Learner


def with_perplexity(means: dict[str, float]) -> dict[str, float]:
    """Add perplexity = exp(loss), of the loss's mean over all held-out tokens."""
    return means | {"perplexity": math.exp(min(means["loss"], 700.0))}


def make_text_data(experiment: TextExperiment, pretrained: Pretrained, records: Records) -> Data:
    """Encode and pack the records for a model."""
    return make_data(
        records,
        experiment.data,
        pretrained.tokenizer,
        pretrained.eos_token_ids,
        context_length=pretrained.model.config.context_length,
    )


def make_text_learner(experiment: TextExperiment, pretrained: Pretrained, data: Data) -> Learner:
    """Put a model and packed documents together."""
    flags, sft = experiment.model, experiment.sft
    model = make_model(pretrained.model.config, remat=flags.remat, scan_layers=flags.scan_layers)
    optimizer = make_optimizer(experiment.optimizer, num_steps=experiment.steps)
    schedule = make_schedule(experiment.optimizer, num_steps=experiment.steps)
    highest = experiment.optimizer.learning_rate

    def eval_batches() -> Any:
        return data.held_out.batches(sft.batch_size) if data.held_out is not None else ()

    def learning_rate(step: jax.Array) -> jax.Array:
        return highest * schedule(step)

    return Learner(
        init=lambda: init_supervised({"policy": pretrained.params}, optimizer),
        update=make_update(model, sft, optimizer, learning_rate),
        evaluate=make_evaluate(model, sft),
        batch=lambda step: data.train.batch(step, batch_size=sft.batch_size, seed=experiment.seed),
        eval_batches=eval_batches,
        finish=with_perplexity,
    )
