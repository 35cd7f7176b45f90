"""A language model as a policy of texts: observation in, completion out.

B rows of a batch, P prompt slots, C completion slots.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from rljax import compiler
from rljax.algorithms.actor_critic import make_act
from rljax.algorithms.batch import OnPolicyConfig
from rljax.errors import UserError
from rljax.models import Pretrained, make_model
from rljax.models.config import TransformerConfig
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.keys import Role, role_key
from rljax.tasks.evaluation import decode_completions
from rljax.tasks.prompts import pad_prompts
from rljax.types import Completions, Prompts

Encode = Callable[[str], Sequence[int]]


@functools.lru_cache(maxsize=8)
def _compiled_act(
    config: TransformerConfig,
    dtype: str,
    sampling: SamplingConfig,
    eos_token_ids: tuple[int, ...],
    pad_token_id: int,
    truncate_token: int | None,
    truncate_after: int,
) -> Callable[[Any, Prompts, jax.Array], Completions]:
    """Compile the sampler once for all models of one shape."""
    act = make_act(
        make_model(config, dtype),
        sampling,
        eos_token_ids,
        pad_token_id,
        truncate_token=truncate_token,
        truncate_after=truncate_after,
    )
    return compiler.jit(act)


class LanguageModelPolicy:
    """Complete observations with a model, in batches of one shape for each padded length.

    The n-th observation since the policy was made is sampled with the noise of prompt n of an
    evaluation with this seed: the held-out prompts in their order get the texts that a run's own
    evaluation gives them.

    Args:
      pretrained: model, parameters and tokenizer.
      sampling: the distribution, and how long a completion may be.
      encode: text -> the tokens that the model sees, template or chat included.
      stop_token_ids: tokens that end a completion besides EOS.
      rules: a run's truncation of completions.
      batch_size: rows computed at once; fewer observations are filled up.
      multiple: observations are left-padded to a multiple of this many tokens.
      seed: of the sampling.
    """

    def __init__(
        self,
        pretrained: Pretrained,
        sampling: SamplingConfig,
        encode: Encode,
        *,
        stop_token_ids: Sequence[int] = (),
        rules: OnPolicyConfig | None = None,
        batch_size: int = 32,
        multiple: int = 16,
        seed: int = 0,
    ) -> None:
        sampling.require_queue(batch_size)
        rules = rules or OnPolicyConfig()
        self.pretrained, self.encode = pretrained, encode
        self.batch_size, self.multiple = batch_size, multiple
        self.room = pretrained.model.config.context_length - sampling.max_new_tokens
        self.acted = 0
        self._key = role_key(seed, Role.EVALUATION)
        self._act = _compiled_act(
            pretrained.model.config,
            str(pretrained.model.dtype or "float32"),
            sampling,
            (*pretrained.eos_token_ids, *stop_token_ids),
            pretrained.pad_token_id,
            rules.truncate_token,
            rules.truncate_after,
        )

    def act(self, observations: Sequence[str]) -> list[str]:
        """Complete each observation.

        Raises UserError for one that leaves no room in the model's context.
        """
        tokens = [self.encode(observation) for observation in observations]
        for observation, row in zip(observations, tokens, strict=True):
            if not 0 < len(row) <= self.room:
                raise UserError(
                    f"an observation has {len(row)} tokens, and the model's context leaves room "
                    f"for 1 to {self.room} beside the completion: {observation[:80]!r}"
                )
        ids = self.acted + np.arange(len(tokens), dtype=np.int32)
        self.acted += len(tokens)
        texts: list[str] = []
        width = max(map(len, tokens), default=0)
        for start in range(0, len(tokens), self.batch_size):
            chosen = tokens[start : start + self.batch_size]
            texts += self._complete(chosen, ids[start : start + self.batch_size], width)
        return texts

    def _complete(self, rows: list[Sequence[int]], ids: np.ndarray, width: int) -> list[str]:
        """Complete up to `batch_size` rows, filled up with repetitions."""
        places = np.resize(np.arange(len(rows)), self.batch_size)
        tokens, mask = pad_prompts(
            [rows[i] for i in places],
            pad_id=self.pretrained.pad_token_id,
            length=-(-width // self.multiple) * self.multiple,
        )
        batch = Prompts(tokens, mask, ids[places], np.zeros(self.batch_size, np.int32))
        made = self._act({"policy": self.pretrained.params}, batch, self._key)
        return decode_completions(self.pretrained.tokenizer, made)[: len(rows)]
