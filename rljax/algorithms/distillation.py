"""Distil a teacher into a student: KL or Jensen-Shannon, on data or on the student's own samples.

Generalised knowledge distillation, Agarwal et al. 2024 (https://arxiv.org/abs/2306.13649): of the
batches a share lambda is sampled by the student itself, the others come from the data; on both the
student's whole next-token distribution is drawn to the teacher's. With lambda 0 and forward KL it
is Hinton et al. 2015 at the level of tokens, with lambda 1 and reverse KL on-policy distillation.
No gradient goes through the sampling, as in the paper.

B rows, T slots of a row, P prompt slots, C completion slots, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rljax.algorithms.actor_critic import Compose, all_trained, complete_params
from rljax.algorithms.buckets import Shorten
from rljax.algorithms.checks import require_positive, require_whole_parts
from rljax.algorithms.learner import Metrics, Params, make_frozen_update
from rljax.algorithms.metrics import cut_off
from rljax.algorithms.sft import Weighted, packed_hidden, token_counts, with_weights
from rljax.divergences import Divergence, divergence
from rljax.masking import weighted_loss
from rljax.models.transformer import Model
from rljax.parallel import over_rows
from rljax.rollout.buckets import Buckets
from rljax.rollout.chunks import map_rows
from rljax.rollout.continuous import make_continuous_sampler
from rljax.rollout.distribution import SamplingConfig
from rljax.tasks.packing import Packed
from rljax.types import Completions, Prompts, SupervisedState

# ------------------------------------------------------------------------------------ Config


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """What the student learns of the teacher, and on which texts."""

    divergence: Divergence = "forward"
    """forward: KL(teacher || student); reverse: KL(student || teacher); jsd: between the two."""
    jsd_beta: float | None = None
    """Of jsd, which needs one: near 0 it behaves as forward KL, near 1 as reverse."""
    on_policy_fraction: float = 0.5
    """Share of the batches that the student samples itself (lambda); 0: data only, 1: samples
    only."""
    prompt_tokens: int | None = None
    """Of records of `text`: so many first tokens are the prompts of the student's samples."""
    batch_size: int = 8
    """Rows of packed documents, or sampled completions, in a batch."""
    gradient_accumulation: int = 1
    """Parts that a batch is computed in; the update is the same, the memory smaller."""
    length_buckets: int = 1
    """Widths for parts of the student's samples, sorted by length, to choose from:
    sampling.max_new_tokens, a half of it, a quarter ...; 1: off."""
    head_rows: int = 512
    """Tokens whose logits, of student and teacher, exist at once."""

    @property
    def buckets(self) -> Buckets:
        """How the student's samples are computed by length."""
        return Buckets(self.length_buckets, self.gradient_accumulation)

    def validate(self) -> None:
        """Raise ValueError for sizes that do not divide and values that mean nothing."""
        sizes = ("batch_size", "gradient_accumulation", "length_buckets", "head_rows")
        require_positive(self, sizes, "distill.")
        require_whole_parts(self, "distill.")
        if (self.divergence == "jsd") != (self.jsd_beta is not None):
            raise ValueError(
                f"distill.jsd_beta is {self.jsd_beta} with the divergence {self.divergence}: "
                "jsd needs one, the others have none"
            )
        if self.jsd_beta is not None and not 0 < self.jsd_beta < 1:
            raise ValueError(f"distill.jsd_beta is {self.jsd_beta}; it must be in (0, 1)")
        if not 0 <= self.on_policy_fraction <= 1:
            raise ValueError(
                f"distill.on_policy_fraction is {self.on_policy_fraction}; it must be in [0, 1]"
            )
        if self.prompt_tokens is not None and self.prompt_tokens < 1:
            raise ValueError(f"distill.prompt_tokens is {self.prompt_tokens}; it must be >= 1")
        if self.prompt_tokens is not None and self.on_policy_fraction == 0:
            raise ValueError(
                "distill.prompt_tokens cuts the prompts of the student's samples, of which an "
                "on_policy_fraction of 0 makes none"
            )
        if self.length_buckets > 1 and self.on_policy_fraction == 0:
            raise ValueError(
                f"distill.length_buckets is {self.length_buckets}: it shortens the student's "
                "samples, of which an on_policy_fraction of 0 makes none"
            )


class DistillState(NamedTuple):
    """All that training changes, and the teacher and the student's base, which stand still."""

    params: Params
    """{"policy": what is trained of the student}."""
    opt_state: Any
    step: jax.Array
    """Training steps done, int32."""
    teacher: Params
    base: Any = ()
    """The frozen student where "policy" is a part of it only; nothing where all is trained."""


# ----------------------------------------------------------------------- Which batch, and what of


def batch_kind(step: int, on_policy_fraction: float) -> tuple[bool, int]:
    """Say whether a step samples its own batch, and how many of that kind came before it.

    The share is exact: after n steps floor(n lambda) batches were on-policy, evenly spaced.
    """
    slack = 1e-9  # 0.1 * 30 is a little less than 3
    before = int(step * on_policy_fraction + slack)
    on_policy = int((step + 1) * on_policy_fraction + slack) > before
    return on_policy, before if on_policy else step - before


def as_packed(prompts: Prompts, made: Completions) -> Packed:
    """Lay sampled completions out as rows with one document each; completions are the targets."""
    nothing = jnp.zeros_like(prompts.mask)
    return Packed(
        jnp.concatenate([prompts.tokens, made.tokens], axis=1),
        jnp.concatenate([prompts.mask, made.mask], axis=1).astype(jnp.int32),
        jnp.concatenate([nothing, made.mask], axis=1),
    )


def shorten_samples(number: int, prompt_slots: int) -> Shorten:
    """Shorten minibatches of sampled completions after prompts of so many slots."""

    def cut(weighted: Weighted, width: int) -> Weighted:
        length = prompt_slots + width
        batch = jax.tree.map(lambda x: x[:, :length], weighted.batch)
        return Weighted(batch, weighted.weights[:, : length - 1])

    return Shorten(lambda weighted: weighted.batch.targets[:, prompt_slots:], cut, number)


# ------------------------------------------------------------------------------------ The loss


class TokenDivergence(NamedTuple):
    """What is measured at each target; [B, T - 1] each."""

    divergence: jax.Array
    log_probs: jax.Array
    """Of the token that follows, under the student."""
    agreement: jax.Array
    """1 where student and teacher find the same token likeliest, else 0."""


def token_divergence(
    student: Model,
    teacher: Model,
    config: DistillConfig,
    params: Params,
    teacher_params: Params,
    batch: Packed,
) -> TokenDivergence:
    """Compare both models before every token, `head_rows` at a time: two [rows, V] exist at most.

    What stands where `batch.targets` is false means nothing.
    """
    states = packed_hidden(student, params, batch)
    wanted = jax.lax.stop_gradient(packed_hidden(teacher, teacher_params, batch))
    tokens = batch.tokens[:, 1:]

    def compare(
        heads: tuple[Params, Params], inputs: tuple[jax.Array, jax.Array, jax.Array]
    ) -> TokenDivergence:
        own, other, token = inputs  # [n, D], [n, D of the teacher], [n]
        logits = student.head(heads[0], own)
        target = jax.lax.stop_gradient(teacher.head(heads[1], other))
        taken = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]
        return TokenDivergence(
            divergence(target, logits, config.divergence, jsd_beta=config.jsd_beta),
            taken - jax.nn.logsumexp(logits, axis=-1),
            (jnp.argmax(logits, axis=-1) == jnp.argmax(target, axis=-1)).astype(jnp.float32),
        )

    flat = tuple(x.reshape(-1, *x.shape[2:]) for x in (states, wanted, tokens))
    heads = (student.head_params(params), teacher.head_params(teacher_params))
    made = map_rows(compare, heads, flat, config.head_rows)
    return jax.tree.map(lambda x: x.reshape(tokens.shape), made)


def make_loss(
    student: Model, teacher: Model, config: DistillConfig
) -> Callable[[Params, Params, Weighted], tuple[jax.Array, Metrics]]:
    """Build loss(teacher_params, params, weighted) -> mean divergence per target, metrics."""

    def loss_fn(
        teacher_params: Params, params: Params, weighted: Weighted
    ) -> tuple[jax.Array, Metrics]:
        batch, weights = weighted
        found = token_divergence(student, teacher, config, params["policy"], teacher_params, batch)
        loss = weighted_loss(found.divergence, weights)
        return loss, {
            "loss": loss,
            "cross_entropy": weighted_loss(-found.log_probs, weights),
            "agreement": weighted_loss(found.agreement, weights),
            **token_counts(batch),
        }

    return loss_fn


# ----------------------------------------------------------------------------------- The update


def sample_metrics(made: Completions, eos_token_ids: Sequence[int]) -> Metrics:
    """Describe the student's own completions [B, C]: entropy in nats per completion, length, cut.

    Names and meaning are those of on-policy training (`rljax.algorithms.metrics`).
    """
    return {
        "objective/entropy": -jnp.mean(jnp.sum(made.log_probs, axis=1)),
        "completion/length": jnp.mean(jnp.sum(made.mask, axis=1).astype(jnp.float32)),
        "completion/truncated_fraction": jnp.mean(cut_off(made, eos_token_ids).astype(jnp.float32)),
    }


def make_update(
    student: Model,
    teacher: Model,
    config: DistillConfig,
    sampling: SamplingConfig,
    eos_token_ids: Sequence[int],
    pad_token_id: int,
    optimizer: optax.GradientTransformation,
    learning_rate: Callable[[jax.Array], jax.Array],
    compose: Compose = all_trained,
) -> Callable[[DistillState, Packed | Prompts, jax.Array], tuple[DistillState, Metrics]]:
    """Build update(state, batch, key) -> state, metrics: one optimizer update on one batch.

    A batch of packed documents is learnt as it is; a batch of prompts is completed by the student
    first. compose: of the student's frozen base and what is trained. Metrics: loss, cross_entropy
    (of the student), agreement, tokens, target_tokens, and on_policy, 1 where the student sampled;
    there also `sample_metrics`.
    """
    sample = make_continuous_sampler(student, sampling, eos_token_ids, pad_token_id)
    loss = make_loss(student, teacher, config)

    def composed(
        params: Params, frozen: tuple[Any, Params], batch: Weighted
    ) -> tuple[jax.Array, Metrics]:
        base, teacher_params = frozen
        return loss(teacher_params, complete_params(compose, params, base), batch)

    learn = functools.partial(
        make_frozen_update, composed, with_weights, optimizer, learning_rate,
        parts=config.gradient_accumulation,
    )  # fmt: skip

    def update(
        state: DistillState, batch: Packed | Prompts, key: jax.Array
    ) -> tuple[DistillState, Metrics]:
        sample_key, shuffle_key = jax.random.split(key)
        on_policy, shorten, sampled = isinstance(batch, Prompts), None, {}
        if isinstance(batch, Prompts):
            student_params = complete_params(compose, state.params, state.base)["policy"]
            drawn = over_rows(lambda policy, *rest: sample(policy, None, *rest))
            shorten = shorten_samples(config.length_buckets, batch.tokens.shape[1])
            made = drawn(student_params, batch, sample_key)
            sampled = sample_metrics(made, eos_token_ids)
            batch = as_packed(batch, made)
        frozen = (state.base, state.teacher)
        trained = SupervisedState(state.params, state.opt_state, state.step, frozen)
        trained, metrics = learn(shorten=shorten)(trained, batch, shuffle_key)
        metrics |= sampled | {"on_policy": jnp.float32(on_policy)}
        params, opt_state, step, _ = trained
        return DistillState(params, opt_state, step, state.teacher, state.base), metrics

    return update


def make_evaluate(
    student: Model, teacher: Model, config: DistillConfig, compose: Compose = all_trained
) -> Callable[[DistillState, Packed], dict[str, tuple[jax.Array, jax.Array]]]:
    """Build evaluate(state, batch) -> {name: (sum, count)} over the targets of held-out data."""

    def evaluate(state: DistillState, batch: Packed) -> dict[str, tuple[jax.Array, jax.Array]]:
        params = complete_params(compose, state.params, state.base)["policy"]
        found = over_rows(
            lambda both, batch: token_divergence(student, teacher, config, both[0], both[1], batch)
        )((params, state.teacher), batch)
        targets = batch.targets[:, 1:]
        count = jnp.sum(targets)

        def total(values: jax.Array) -> tuple[jax.Array, jax.Array]:
            return jnp.sum(jnp.where(targets, values, 0)), count

        return {
            "loss": total(found.divergence),
            "cross_entropy": total(-found.log_probs),
            "agreement": total(found.agreement),
        }

    return evaluate
