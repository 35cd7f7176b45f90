"""A model whose sampling is done in 8 bits; what scores and learns stays as it is."""

from __future__ import annotations

import functools
from typing import Any

from rljax.models.int8 import round_params
from rljax.models.transformer import Model


def rounded_model(model: Model, *, weights: bool, cache: bool) -> Model:
    """Return a model whose `prepare` rounds the matrices, and whose `prefill` makes int8 caches.

    `decode` and `head_columns` follow what they are given; `apply`, `hidden` and `head` are for
    parameters that were not prepared.
    """

    def prepare(params: Any) -> Any:
        return round_params(model.prepare(params))

    return model._replace(
        prepare=prepare if weights else model.prepare,
        prefill=functools.partial(model.prefill, rounded=True) if cache else model.prefill,
    )
