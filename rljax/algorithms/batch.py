"""What every on-policy algorithm does with a batch of scored completions before it learns.

B completions, C completion slots.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from rljax.algorithms.actor_critic import Compose, complete_params, mask_completions
from rljax.algorithms.buckets import Shorten, shorten_rollouts
from rljax.algorithms.checks import require, require_positive
from rljax.algorithms.learner import Learn, Metrics, Params, make_learner
from rljax.entropy import next_entropy_coef
from rljax.kl import KLConfig
from rljax.masking import LossAggregation, has_any_of, token_weights
from rljax.models.transformer import Model
from rljax.rewards.shaping import (
    RunningMoments,
    clip_scores,
    penalise_missing_eos,
    penalise_not_found,
    scale_scores,
    update_running_moments,
)
from rljax.rollout.buckets import Buckets
from rljax.rollout.distribution import ActionMask, SamplingConfig
from rljax.rollout.scoring import Score, make_score
from rljax.traced import is_zero
from rljax.types import Rollout, TrainState


@dataclasses.dataclass(frozen=True)
class OnPolicyConfig:
    """Batches, passes, score rules and reference: common to all on-policy algorithms."""

    batch_size: int = 64
    """Completions a step (episodes)."""
    samples_per_prompt: int = 1
    """Completions of each prompt in a batch."""
    share_prompts: bool = True
    """Compute a prompt once for all of its completions: in sampling, in scoring, and in the update
    where minibatches and their parts hold whole groups; minibatches are then shuffled by group."""
    num_epochs: int = 4
    """Passes over each batch."""
    num_minibatches: int = 1
    """Optimizer updates in a pass."""
    gradient_accumulation: int = 1
    """Parts that a minibatch is computed in; the update is the same, the memory smaller."""
    measure_variance: bool = False
    """Report `optim/grad_variance`, the variance of the policy's gradient that the parts of a
    minibatch show; needs gradient_accumulation above 1, and a device that holds all parameters."""
    length_buckets: int = 1
    """Widths to choose from: sampling.max_new_tokens, a half of it, a quarter ... Completions are
    sorted by length into the parts of a minibatch (gradient_accumulation), and each part is
    computed in the smallest width that holds it, in scoring and update, with the same numbers.
    Worth it where lengths differ and there are several parts; every width is compiled. 1: off."""
    loss_aggregation: LossAggregation = "token"
    """token: mean over tokens; sequence: mean of sequence means; constant: over B * slots."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus; 0 does not compute it."""
    target_entropy: float | None = None
    """Move the weight of the bonus, from entropy_coef on, so that the entropy of the policy's
    tokens stays near so many nats in the mean (Haarnoja et al. 2018, section 5); None: it stays."""
    entropy_rate: float = 0.1
    """By how much the log of that weight moves at a step, for each nat that the entropy is off."""
    importance_cap: float | None = None
    """Weigh tokens by their probability under the policy that a step starts from, over that under
    the policy that sampled them, at most this (2 is usual); ratios are then to the former. For
    batches that an earlier policy, a coarser one, or a mixture with uniform tokens samples
    (exploration.epsilon). None: both are taken for one."""
    kl: KLConfig = KLConfig(coef=0.15, controller="openai")
    """The penalty that keeps the policy near its reference."""
    missing_eos_penalty: float | None = None
    """Score of a completion that never ends, in place of the reward's; None: no such rule."""
    truncate_token: int | None = None
    """Cut completions after the first such token id (GPT-2's '.' is 13); None: no such rule."""
    truncate_after: int = 16
    """Only truncate tokens at or after this position (from 0) count."""
    truncate_penalty: float = -1.0
    """Score of a completion without a truncate token."""
    scale_scores: Literal["none", "std", "mean_std"] = "none"
    """Divide scores by their running deviation (std), after centring (mean_std)."""
    clip_scores: float | None = None
    """Hold scores, once scaled, within plus and minus this; None: no bound."""
    ref_sync_every: int = 0
    """Steps between moves of the reference towards the policy (TR-DPO); 0: never."""
    ref_sync_mix: float = 0.6
    """Share of the policy in the reference after a move; 1: reset to the policy."""
    score_rows: int = 1024
    """Tokens whose logits exist at once when completions are scored."""

    @property
    def sampled_group(self) -> int:
        """Rows of a batch that share the computation of a prompt."""
        return self.samples_per_prompt if self.share_prompts else 1

    @property
    def learnt_group(self) -> int:
        """Rows of a minibatch's part that share it: all of a prompt's, or each has its own."""
        return 1 if self.pass_rows[0] % self.sampled_group else self.sampled_group

    @property
    def pass_rows(self) -> tuple[int, str]:
        """Rows whose gradient is computed at once, and what they are in terms of the flags."""
        rows = self.batch_size // (self.num_minibatches * self.gradient_accumulation)
        return rows, "batch_size / (num_minibatches x gradient_accumulation)"

    @property
    def buckets(self) -> Buckets:
        """How completions are scored: in as many passes as their gradient is computed in."""
        return Buckets(self.length_buckets, self.num_minibatches * self.gradient_accumulation)

    @property
    def further_batches(self) -> int:
        """Batches sampled at most to replace groups that teach nothing."""
        return 0

    @property
    def allows_stale(self) -> bool:
        """Whether the update may learn from what an earlier policy has sampled."""
        return self.importance_cap is not None

    @property
    def episode_rewards(self) -> Literal["sum", "turns", "none"]:
        """What is learnt of an environment's rewards: an episode's sum, each turn's, or nothing."""
        return "sum"

    @property
    def wants_greedy(self) -> bool:
        """Whether the update reads the scores of the greedy completions."""
        return False

    @property
    def action_mask(self) -> ActionMask | None:
        """Which tokens a masking policy allows; None: there is no such policy."""
        return None

    def mask_is_due(self, steps: int) -> bool:
        """Say whether the masking policy becomes a copy of the policy after so many steps."""
        del steps
        return False

    def validate(self) -> None:
        """Raise ValueError on sizes that do not divide and values that mean nothing."""
        require_positive(
            self,
            (
                "batch_size",
                "samples_per_prompt",
                "num_epochs",
                "num_minibatches",
                "gradient_accumulation",
                "length_buckets",
                "score_rows",
            ),
        )
        parts = self.num_minibatches * self.gradient_accumulation
        if self.batch_size % parts:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of num_minibatches x "
                f"gradient_accumulation = {parts}"
            )
        if self.batch_size % self.samples_per_prompt:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of samples_per_prompt "
                f"{self.samples_per_prompt}"
            )
        self.require(
            measure_variance=(
                not self.measure_variance or self.gradient_accumulation > 1,
                "False, or gradient_accumulation above 1: it compares the parts",
            ),
            importance_cap=(
                self.importance_cap is None or self.importance_cap >= 1, "at least 1, or None"
            ),
            entropy_coef=(
                self.target_entropy is None or self.entropy_coef > 0,
                "above 0 with target_entropy, which multiplies it",
            ),
            target_entropy=(self.target_entropy is None or self.target_entropy > 0, "positive"),
            entropy_rate=(
                self.entropy_rate > 0
                and (
                    self.target_entropy is not None
                    or self.entropy_rate == OnPolicyConfig.entropy_rate
                ),
                "above 0, and left as it is without target_entropy, which reads it",
            ),
            clip_scores=(self.clip_scores is None or self.clip_scores > 0, "positive"),
            truncate_after=(self.truncate_after >= 0, "at least 0"),
            ref_sync_every=(self.ref_sync_every >= 0, "at least 0"),
            ref_sync_mix=(0 < self.ref_sync_mix <= 1, "in (0, 1]"),
        )  # fmt: skip

    def check_sampler(self, sampling: SamplingConfig, *, mixed: bool = False) -> None:
        """Raise ValueError where samples in 8 bits, mixed or short ones do not go with the rest."""
        if self.truncate_token is not None and self.truncate_after >= sampling.max_new_tokens:
            raise ValueError(
                f"truncate_after {self.truncate_after} is beyond the {sampling.max_new_tokens} "
                "completion tokens: every completion would be penalised"
            )
        if mixed and not self.allows_stale:
            raise ValueError(
                "exploration.epsilon samples from another policy than the learner's, which has to "
                "be weighted: set importance_cap (2 is usual), or epsilon to 0"
            )
        if not sampling.coarse:
            return
        said = f"sampling.weights {sampling.weights} and sampling.cache {sampling.cache}"
        if self.action_mask is not None:
            raise ValueError(
                f"{said} do not go with mask_top_p: the masking policy would allow other tokens in "
                "8 bits than the learner's; set both to model, or mask_top_p to 1"
            )
        if not self.allows_stale:
            raise ValueError(
                f"{said} sample from another policy than the learner's, which has to be weighted: "
                "set importance_cap (2 is usual), or both to model"
            )

    def require(self, **rules: tuple[bool, str]) -> None:
        """Raise ValueError for the first field whose rule does not hold."""
        require(self, rules)


def drop_failed(rollout: Rollout, scores: jax.Array) -> tuple[Rollout, jax.Array, jax.Array]:
    """Take completions whose reward failed (score NaN) out of the batch: they have no tokens.

    What is masked reaches no mean, no loss and no gradient. Returns the rollout, the scores with 0
    in their place, and which were good [B].
    """
    good = ~jnp.isnan(scores)
    completions = rollout.completions
    mask = completions.mask & good[:, None]
    completions = mask_completions(completions, mask)
    ref_log_probs = jnp.where(mask, rollout.ref_log_probs, 0)
    dropped = rollout._replace(completions=completions, ref_log_probs=ref_log_probs)
    return dropped, jnp.where(good, scores, 0), good


def final_scores(
    config: OnPolicyConfig,
    eos_token_ids: Sequence[int],
    moments: RunningMoments,
    rollout: Rollout,
    scores: jax.Array,
    good: jax.Array,
) -> tuple[jax.Array, RunningMoments]:
    """Apply the score rules [B] -> [B]: scaling, bound, missing-EOS and truncation penalties."""
    moments = update_running_moments(moments, jnp.where(good, scores, jnp.nan))
    if config.scale_scores != "none":
        centre = config.scale_scores == "mean_std"
        scores = scale_scores(scores, moments, shift_mean=centre)
    if config.clip_scores is not None:
        scores = clip_scores(scores, limit=config.clip_scores)
    tokens, mask = rollout.completions.tokens, rollout.completions.mask
    if config.missing_eos_penalty is not None:
        penalty = config.missing_eos_penalty
        scores = penalise_missing_eos(scores, tokens, mask, eos_token_ids, penalty=penalty)
    if config.truncate_token is not None:
        late = jnp.arange(tokens.shape[1]) >= config.truncate_after
        found = has_any_of(tokens, mask & late, (config.truncate_token,))
        scores = penalise_not_found(scores, found, penalty=config.truncate_penalty)
    return jnp.where(good, scores, 0), moments


def make_loss_score(
    model: Model, config: OnPolicyConfig, sampling: SamplingConfig, eos_token_ids: Sequence[int]
) -> Score:
    """Build the scoring that a loss of this config reads: with entropy only where it has weight."""
    entropy, rows = not is_zero(config.entropy_coef), config.score_rows
    return make_score(model, sampling, eos_token_ids, with_entropy=entropy, rows=rows)


def make_batch_learner(
    config: OnPolicyConfig,
    optimizer: optax.GradientTransformation,
    compose: Compose,
    loss: Callable[[Params, Any, Any], tuple[jax.Array, Metrics]],
    group: int = 1,
    shorten: Shorten | None = None,
) -> Learn:
    """Build the optimizer's passes over a batch as configured; frozen is (base, context).

    loss: (whole parameters, context, minibatch) -> loss, metrics. context: what else it reads that
    no pass changes, such as the KL coefficient. group: rows in turn that stay together. shorten:
    how they are cut to the slots that they use; None: as a minibatch with a rollout.
    """

    def composed(
        params: Params, frozen: tuple[Params, Any], minibatch: Any
    ) -> tuple[jax.Array, Metrics]:
        base, context = frozen
        return loss(complete_params(compose, params, base), context, minibatch)

    return make_learner(
        composed,
        optimizer,
        num_epochs=config.num_epochs,
        num_minibatches=config.num_minibatches,
        parts=config.gradient_accumulation,
        group=group,
        shorten=shorten or shorten_rollouts(config.length_buckets),
        measure_variance=config.measure_variance,
    )


def next_state(
    state: TrainState, trained: tuple[Params, Any], moments: RunningMoments, kl_coef: jax.Array
) -> TrainState:
    """Return the state after a step, from what a learner gave back: parameters and optimizer."""
    params, opt_state = trained
    return state._replace(
        params=params,
        opt_state=opt_state,
        kl_coef=kl_coef,
        score_moments=moments,
        step=state.step + 1,
    )


def init_entropy_coef(config: OnPolicyConfig) -> jax.Array | None:
    """Return where the weight of the entropy bonus starts; None: it does not move."""
    if config.target_entropy is None:
        return None
    return jnp.asarray(config.entropy_coef, jnp.float32)


def entropy_coef_of(config: OnPolicyConfig, state: TrainState) -> float | jax.Array:
    """Return the weight of the entropy bonus at a step."""
    return config.entropy_coef if state.entropy_coef is None else state.entropy_coef


def steer_entropy(
    config: OnPolicyConfig,
    state: TrainState,
    report: Metrics,
    factor: jax.Array | None = None,
) -> tuple[TrainState, Metrics]:
    """Move the weight of the entropy bonus after a step, where it moves; say what it was.

    report: with the policy's mean entropy in the step's passes. factor: 0 while the policy stands
    still, and the weight with it; None: 1.
    """
    coef = state.entropy_coef
    if coef is None or config.target_entropy is None:
        return state, {}
    rate = config.entropy_rate if factor is None else config.entropy_rate * factor
    moved = next_entropy_coef(
        coef, report["policy/entropy"], target=config.target_entropy, rate=rate
    )
    return state._replace(entropy_coef=moved), {"objective/entropy_coef": coef}


def loss_weights(config: OnPolicyConfig, mask: jax.Array) -> jax.Array:
    """Compute each token's share of the loss [B, C] by the config's aggregation."""
    constant: Any = mask.shape[1] if config.loss_aggregation == "constant" else None
    return token_weights(mask, config.loss_aggregation, constant_length=constant)
