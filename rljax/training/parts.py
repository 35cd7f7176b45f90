"""The part of a model that a supervised stage trains, and the frozen base it stands on."""

from __future__ import annotations

import dataclasses
from typing import Any

from rljax.experiment import SupervisedExperiment
from rljax.models.precision import masters
from rljax.models.trainable import Trainable, make_trainable
from rljax.rollout.keys import Role, role_key

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Part:
    """What is trained of one model: all of it, adapters, or upper layers.

    The base stands in the state once, beside what is trained; checkpoints leave it out, because the
    config gives it back. Where all is trained there is none: it is ().
    """

    trainable: Trainable
    params: Params
    """The model at the start."""
    seed: int
    whole: bool
    """All of it is trained."""

    @property
    def base(self) -> Any:
        """The frozen model; () where all is trained."""
        return () if self.whole else self.params

    def policy(self) -> Params:
        """Make what is trained, as it starts; the buffers of a part are its own."""
        if self.whole:
            return self.params
        key = role_key(self.seed, Role.INITIALISATION)
        return masters(self.trainable.split(self.params, key)[0])

    def saved(self, state: Any) -> Any:
        """Leave the base out: a learner's `saved`."""
        return state._replace(base=())

    def restored(self, state: Any) -> Any:
        """Put the base back: a learner's `restored`."""
        return state._replace(base=self.base)

    def merged(self, state: Any) -> Params:
        """Return what a state has trained, with the policy as plain parameters of the model."""
        policy = self.trainable.merge(state.base, state.params["policy"])
        return state.params | {"policy": policy}


def make_part(experiment: SupervisedExperiment, params: Params) -> Part:
    """Choose what an experiment trains of the model that it starts from."""
    trainable = make_trainable(experiment.lora, experiment.train_layers)
    return Part(trainable, params, experiment.seed, experiment.trains_all)
