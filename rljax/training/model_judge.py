"""Judge language models on the same held-out prompts with the same noise, with KL and lengths.

N prompts of an evaluation, B of a batch, C completion slots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rljax import compiler
from rljax.algorithms.actor_critic import make_act
from rljax.algorithms.batch import OnPolicyConfig
from rljax.models import Pretrained
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.keys import Role, role_key
from rljax.rollout.scoring import make_score
from rljax.tasks import Task
from rljax.tasks.evaluation import Evaluation, evaluate
from rljax.training.compilation import announce
from rljax.types import Completions, Prompts


class Judged(NamedTuple):
    """What one policy wrote, and which completions ended by themselves."""

    evaluation: Evaluation
    ended: np.ndarray
    """[N] bool."""


class Judge:
    """The compiled functions that every policy of one shape is judged with.

    Args:
      pretrained: a model of the shape, and its tokenizer.
      sampling: how completions are drawn and scored.
      rules: of a run: where completions are truncated, and the rows of a scoring pass.
      stop_token_ids: tokens that end a completion besides EOS.
      seed: of the noise, which is that of a run's own evaluations.
      batch_size: prompts completed at once.
      multiple: prompts are left-padded to a multiple of this many tokens.
    """

    def __init__(
        self,
        pretrained: Pretrained,
        sampling: SamplingConfig,
        rules: OnPolicyConfig,
        *,
        stop_token_ids: Sequence[int],
        seed: int,
        batch_size: int,
        multiple: int,
    ) -> None:
        model = pretrained.model
        eos = (*pretrained.eos_token_ids, *stop_token_ids)
        self.config, self.tokenizer = model.config, pretrained.tokenizer
        self.eos, self.pad = eos, pretrained.pad_token_id
        self.batch_size, self.multiple = batch_size, multiple
        act = make_act(
            model,
            sampling,
            eos,
            self.pad,
            truncate_token=rules.truncate_token,
            truncate_after=rules.truncate_after,
        )
        self.act = compiler.jit(act)
        score = make_score(model, sampling, eos, rows=rules.score_rows)
        self.log_probs = compiler.jit(lambda params, *batch: score(params, *batch).log_probs)
        self.key = role_key(seed, Role.EVALUATION)

    def judge(
        self,
        params: Any,
        ref_log_probs: Callable[[Prompts, Completions], jax.Array],
        task: Task,
        num_prompts: int,
    ) -> Judged:
        """Complete the first held-out prompts and score what was written."""
        ended: list[np.ndarray] = []

        def act(batch: Prompts) -> Completions:
            made = self.act({"policy": params}, batch, self.key)
            is_eos = np.isin(np.asarray(made.tokens), self.eos)
            ended.append(np.any(is_eos & np.asarray(made.mask), axis=1))
            return made

        with announce("the sampler and the scoring"):
            result = evaluate(
                act,
                ref_log_probs,
                task,
                task.held_out,
                np.arange(num_prompts),
                tokenizer=self.tokenizer,
                pad_id=self.pad,
                batch_size=self.batch_size,
                multiple=self.multiple,
            )
        return Judged(result, np.concatenate(ended)[:num_prompts])


def own_log_probs(prompts: Prompts, made: Completions) -> jax.Array:
    """Return the policy's own log-probs: a reference's KL from itself is 0."""
    del prompts
    return made.log_probs
