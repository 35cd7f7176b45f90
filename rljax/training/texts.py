"""The learner of the stages that predict the next token: pretraining and fine-tuning."""

from __future__ import annotations

import math

from rljax.algorithms.learner import init_supervised
from rljax.algorithms.sft import make_evaluate, make_update
from rljax.experiment import TextExperiment
from rljax.models import Pretrained
from rljax.tasks.documents import Data, Records, make_data
from rljax.training.parts import make_part
from rljax.training.policies import build_model
from rljax.training.supervised import Learner, held_out_batches, make_rate


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
    sft = experiment.sft
    model = build_model(experiment.model, pretrained)
    optimizer, learning_rate = make_rate(experiment)
    part = make_part(experiment, pretrained.params)
    compose = part.trainable.compose
    return Learner(
        init=lambda: init_supervised({"policy": part.policy()}, optimizer, part.base),
        update=make_update(model, sft, optimizer, learning_rate, compose),
        evaluate=make_evaluate(model, sft, compose),
        batch=lambda step: data.train.batch(step, batch_size=sft.batch_size, seed=experiment.seed),
        eval_batches=held_out_batches(data.held_out, sft.batch_size),
        finish=with_perplexity,
        saved=part.saved,
        restored=part.restored,
    )
