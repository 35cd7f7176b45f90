"""What is known of each token of a few completions, for someone to look at.

A table is {"text": [str], "log_prob": [float], ...}, one entry a token, as completions.jsonl holds
it under `by_token`. Where a conversation's tokens are the environment's, the numbers are None.

    text           what the token adds to the text; "" within a character of several tokens
    log_prob       of the policy that sampled, under the sampling distribution, nats
    log_ratio      log_prob less the reference's: the k1 estimate of KL(policy || reference)
    kl             its k3 estimate, exp(-log_ratio) - 1 + log_ratio, which is never negative
    mixed_log_prob     of the mixture with uniform tokens, where one was sampled from
    learner_log_prob   of the policy that the step starts from, where another one sampled
    value          the critic's, before the token, where there is a critic
    advantage, reward  what the update gave the token; advantages as the metrics describe them
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rljax.types import Completions

ROWS = 4
"""Completions of a batch, or of an evaluation, that have a table."""
TIMES = 50
"""Steps of a run, evenly spread, that have tables; the first and the last have them too."""
DIGITS = 4
_BROKEN = "\ufffd"

Table = dict[str, list[Any]]


def is_due(step: int, steps: int) -> bool:
    """Say whether the completions of a step, from 1 to `steps`, get tables."""
    return step in (1, steps) or step % math.ceil(steps / TIMES) == 0


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Split a text into what each of its tokens adds; joined they are the whole text.

    Special tokens are shown. Tokens are decoded beside the one before, since a tokenizer may drop
    the space of the first; a character of several tokens stands at the last of them.
    """
    texts: list[str] = []
    shown = read = 0  # what stands before `read` is told; from `shown` on it is decoded again
    for end in range(1, len(ids) + 1):
        before = tokenizer.decode(ids[shown:read], skip_special_tokens=False)
        whole = tokenizer.decode(ids[shown:end], skip_special_tokens=False)
        if whole.endswith(_BROKEN) and end < len(ids):
            texts.append("")
            continue
        texts.append(whole[len(before) :])
        shown, read = read, end
    return texts


def make_tables(
    tokenizer: Any,
    completions: Completions,
    ref_log_probs: Any,
    rows: int,
    *,
    critic: bool = False,
    numbers: Mapping[str, Any] | None = None,
) -> list[Table]:
    """Make the tables of the first `rows` completions [B, C].

    critic: whether their values are a critic's. numbers: name -> [n, C], further columns.
    """
    made = completions
    own = np.asarray(made.own_log_probs, np.float64)
    log_ratio = own - np.asarray(ref_log_probs)
    arrays = {"log_prob": own, "log_ratio": log_ratio, "kl": np.expm1(-log_ratio) + log_ratio}
    if made.policy_log_probs is not None:
        arrays["mixed_log_prob"] = np.asarray(made.log_probs)
    if critic:
        arrays["value"] = np.asarray(made.values)
    arrays |= {name: np.asarray(array) for name, array in (numbers or {}).items()}
    mask, real, tokens = np.asarray(made.mask), np.asarray(made.real), np.asarray(made.tokens)
    tables = []
    for row in range(min(rows, len(tokens))):
        there = real[row]
        learnt = mask[row][there]
        table: Table = {"text": token_texts(tokenizer, tokens[row][there].tolist())}
        for name, array in arrays.items():
            values = array[row][there]
            table[name] = [
                rounded(x) if own else None for x, own in zip(values, learnt, strict=True)
            ]
        tables.append(table)
    return tables


def rounded(value: float) -> float | None:
    """Round to 4 significant digits; NaN and infinities, which JSON lacks, are None."""
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
