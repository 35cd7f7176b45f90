"""Whether a completion can end: is there a token for it, and does the policy ever write it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from rljax.doctor.findings import Findings
from rljax.masking import has_any_of
from rljax.types import Rollout, TrainState

if TYPE_CHECKING:
    from rljax.training.setup import OnPolicy

REACHABLE = 1e-6
"""Chance of an end, at the place where it is largest, below which there is none to speak of."""


def expects_end(setup: OnPolicy) -> bool:
    """Say whether the flags ask for completions that end by themselves."""
    config = setup.config
    return (
        config.alarms.truncated is not None
        or config.task.stop_token is not None
        or config.task.chat
        or setup.algorithm.missing_eos_penalty is not None
        or setup.stage is not None
    )


def end_probabilities(setup: OnPolicy, state: TrainState, rollout: Rollout) -> np.ndarray:
    """Compute the chance [n] of an end at one place of each completion that has such a place.

    In row i the token at place i mod C is taken for an end and scored: what stands before it is as
    it was. Under the distribution that is sampled from, at the start of a run; of several ends the
    chances are added.
    """
    made = rollout.completions
    tokens, mask = np.asarray(made.tokens), np.asarray(made.mask)
    rows = np.arange(len(tokens))
    least = min(setup.config.sampling.min_new_tokens, tokens.shape[1] - 1)
    places = least + rows % (tokens.shape[1] - least)
    written = mask[rows, places]
    total = np.zeros(len(rows))
    for end in sorted(set(setup.ends)):
        changed = tokens.copy()
        changed[rows, places] = end
        group = setup.algorithm.sampled_group
        ended = made._replace(tokens=jnp.asarray(changed))
        scored = setup.rollout(state, rollout.prompts, ended, group).ref_log_probs
        total += np.exp(np.asarray(scored, np.float64)[rows, places])
    return total[written]


def report_ends(findings: Findings, setup: OnPolicy, state: TrainState, rollout: Rollout) -> None:
    """Say which tokens end a completion, how many ended, and whether the others can."""
    ends = sorted(set(setup.ends))
    if not ends:
        findings.say("ends", "neither the model nor the flags name a token that ends a completion")
        if expects_end(setup):
            findings.wrong(
                "no token ends a completion",
                "--task.stop-token $'\\n', or a tokenizer that has an EOS token",
            )
        return
    names = ", ".join(repr(setup.tokenizer.decode([end])) for end in ends)
    made = rollout.completions
    ended = np.asarray(has_any_of(made.tokens, made.mask, ends))
    text = f"{names}: {int(np.sum(ended))} of {len(ended)} completions ended"
    if ended.any() or setup.stage is not None:
        findings.say("ends", text)
        return
    chances = end_probabilities(setup, state, rollout)
    largest = float(np.max(chances)) if chances.size else 0.0
    mean = float(np.mean(chances)) if chances.size else 0.0
    slots = setup.config.sampling.max_new_tokens
    findings.say(
        "ends",
        f"{text}; the chance of an end was {mean:.1e} in the mean of {chances.size} places, "
        f"{largest:.1e} at most",
    )
    if largest < REACHABLE and expects_end(setup):
        findings.wrong(
            f"no completion of {slots} tokens can end: the policy gives {names} no probability "
            f"({largest:.1e} at most)",
            "a chat model needs --task.chat, others --task.stop-token; check that its chat "
            "template closes an answer with one of these tokens, and --sampling.min-new-tokens. "
            "Where completions are cut on purpose: --alarms.truncated None",
        )
