"""The pytrees that travel between rooms.

B sequences, P prompt slots (left-padded), C completion slots (right-padded).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax


class Prompts(NamedTuple):
    """A batch of prompts, left-padded to one length."""

    tokens: jax.Array
    """[B, P] int32."""
    mask: jax.Array
    """[B, P] bool, true on real tokens."""
    ids: jax.Array
    """[B] int32: which prompt of the data set, part of its sampling key."""
    samples: jax.Array
    """[B] int32: which of the prompt's samples, part of its sampling key."""


class Completions(NamedTuple):
    """What a policy wrote after a batch of prompts, with what it knew while writing."""

    tokens: jax.Array
    """[B, C] int32; the padding id after the end."""
    mask: jax.Array
    """[B, C] bool, true on the policy's own tokens, the first EOS included: what is learnt."""
    log_probs: jax.Array
    """[B, C] float32 under the sampling distribution; 0 where the mask is false."""
    values: jax.Array
    """[B, C] float32: the critic's estimate before each token; 0 where the mask is false."""
    allowed: jax.Array | None = None
    """[B, C] float32: how many tokens a masking policy allowed (NLPO); None without one."""
    policy_log_probs: jax.Array | None = None
    """[B, C] float32 under the policy itself, where log_probs are those of a mixture with uniform
    tokens that was sampled from; 0 after the end. None: they are the policy's."""

    @property
    def own_log_probs(self) -> jax.Array:
        """[B, C]: the log-probs under the policy itself."""
        return self.log_probs if self.policy_log_probs is None else self.policy_log_probs

    seen: jax.Array | None = None
    """[B, C] bool, true on all tokens of a conversation, those that the environment wrote between
    the policy's included; they come first in a row. None: there are no others than the mask's."""

    @property
    def real(self) -> jax.Array:
        """[B, C] bool: the tokens that are read, which attention, positions and lengths count."""
        return self.mask if self.seen is None else self.seen


class Rollout(NamedTuple):
    """Prompts, completions, and what else an update needs to know of them."""

    prompts: Prompts
    completions: Completions
    ref_log_probs: jax.Array
    """[B, C] float32 under the reference and the same sampling distribution; 0 after the end."""
    mask_hidden: jax.Array | None = None
    """[B, C, D]: the masking policy's states before each completion token; None without one."""
    proximal_log_probs: jax.Array | None = None
    """[B, C] float32 under the policy that a step starts from, where another one sampled; None: an
    update that reads them computes them."""
    turn_rewards: jax.Array | None = None
    """[B, C] float32: what the environment gave for each turn, on the turn's last own token; None:
    there is one score for a completion."""


class Ahead(NamedTuple):
    """A batch that was sampled before it is wanted, without its prompts; fields as above."""

    tokens: jax.Array
    """[B, C]."""
    mask: jax.Array
    """[B, C]."""
    log_probs: jax.Array
    """[B, C]."""
    values: jax.Array
    """[B, C]."""
    ref_log_probs: jax.Array
    """[B, C]."""

    def rollout(self, prompts: Prompts) -> Rollout:
        """Return the batch with its prompts."""
        made = Completions(self.tokens, self.mask, self.log_probs, self.values)
        return Rollout(prompts, made, self.ref_log_probs)


class TrainState(NamedTuple):
    """All that training changes; with the config and the step it determines every later number."""

    params: dict[str, Any]
    """{"policy": ..., and "value_head" (shared trunk) or "critic" (its own)}."""
    ref_params: dict[str, Any]
    """The reference policy; changes only where it is synchronised with the policy."""
    opt_state: Any
    kl_coef: jax.Array
    score_moments: Any
    """Running moments of the scores (rewards.shaping.RunningMoments)."""
    step: jax.Array
    """Training steps done, int32."""
    mask_params: dict[str, Any] | None = None
    """The masking policy (NLPO): an earlier params["policy"]; None without one."""
    ahead: Ahead | None = None
    """The batch of the next step, where it is sampled ahead; the compiled programs get None."""
    entropy_coef: jax.Array | None = None
    """Weight of the entropy bonus, where it moves (target_entropy); None: the config's."""


class SupervisedState(NamedTuple):
    """All that a supervised stage changes, and the frozen model that it may stand on."""

    params: dict[str, Any]
    """{"policy": ..., and what else is trained, under names of its own}."""
    opt_state: Any
    step: jax.Array
    """Training steps done, int32."""
    base: Any = ()
    """The frozen model where "policy" is a part of it only; nothing where all is trained."""
