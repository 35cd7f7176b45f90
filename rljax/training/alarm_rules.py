"""The rules of alarms: from the metrics of the last steps to what is seen, or to silence."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from rljax.training.alarms import AlarmConfig

ZEROS, INFORMATIVE = "health/zero_advantage_fraction", "objective/informative_groups"
TRUNCATED, LENGTH = "completion/truncated_fraction", "completion/length"
KL, ENTROPY, SCORES = "objective/kl", "objective/entropy", "objective/scores"
DIVERGENCE, EXPLAINED = "train/loss", "value/explained_variance"
GAP, MEAN_GAP = "health/sampler_logprob_gap", "health/sampler_logprob_mean_gap"
FAILURES = "health/reward_failures"
READ = (
    ZEROS, INFORMATIVE, TRUNCATED, LENGTH, KL, ENTROPY, SCORES, DIVERGENCE, EXPLAINED, GAP,
    MEAN_GAP, FAILURES,
)  # fmt: skip
PER_TOKEN = "entropy per token"
ROUNDING = 1e-3  # nats: what sums of float32 may be off


class Context(NamedTuple):
    """What rules have to know of a run beside its metrics."""

    flags: str
    """Where the flags of its algorithm begin, such as "--grpo"."""
    batch_size: int
    exact: bool = True
    """Sampler and learner compute the same policy, up to rounding in float32."""
    critic_starts: int = 0
    """Steps in which the critic learns alone."""


class History:
    """The last values of the metrics that rules read, and the means of the first `window`."""

    def __init__(self, window: int, trend: int) -> None:
        self.window, self.trend, self.step = window, trend, 0
        self._last: dict[str, collections.deque[float]] = {}
        self._first: dict[str, list[float]] = {}

    def add(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Take the metrics of a step; those that are missing or not finite are passed over."""
        self.step = step
        values = {name: float(metrics[name]) for name in READ if name in metrics}
        if values.get(LENGTH) and ENTROPY in values:
            values[PER_TOKEN] = values[ENTROPY] / values[LENGTH]
        for name, value in values.items():
            if not math.isfinite(value):
                continue
            size = max(self.window, self.trend)
            self._last.setdefault(name, collections.deque(maxlen=size)).append(value)
            first = self._first.setdefault(name, [])
            if len(first) < self.window:
                first.append(value)

    def mean(self, name: str) -> float | None:
        """Return the mean of the last `window` values; None where there are fewer."""
        values = self._last.get(name, ())
        if len(values) < self.window:
            return None
        return float(np.mean(list(values)[-self.window :]))

    def start(self, name: str) -> float | None:
        """Return the mean of the first `window` values; None where there are fewer."""
        values = self._first.get(name, [])
        return float(np.mean(values)) if len(values) == self.window else None

    def last(self, name: str) -> np.ndarray:
        """Return the last `trend` values; none at all where there are fewer."""
        values = list(self._last.get(name, ()))[-self.trend :]
        return np.asarray(values if len(values) == self.trend else [])


Check = Callable[[History, "AlarmConfig", Context], str | None]


class Rule(NamedTuple):
    """An alarm."""

    name: str
    check: Check
    """What is seen where the alarm holds, else None."""
    means: str
    change: str
    """{flags} stands for the algorithm's flags."""
    by_trend: bool = False
    """It looks at the steps of a trend, not of a window, and ends as slowly."""


def _over(steps: int) -> str:
    return f"in the mean of the last {steps} steps"


def no_advantage(history: History, config: AlarmConfig, context: Context) -> str | None:
    """Where a rule of its own makes most advantages 0 (best of n), unequal groups tell."""
    share, informative = history.mean(ZEROS), history.mean(INFORMATIVE)
    if config.zero_advantage is None or share is None:
        return None
    if informative is not None:
        share = min(share, 1 - informative)
    if share <= config.zero_advantage:
        return None
    return f"{share:.0%} of the batch has no advantage, {_over(config.window)}: it teaches nothing"


def truncated(history: History, config: AlarmConfig, context: Context) -> str | None:
    share = history.mean(TRUNCATED)
    if config.truncated is None or share is None or share <= config.truncated:
        return None
    return f"{share:.0%} of the completions are cut off without an end, {_over(config.window)}"


def negative_kl(history: History, config: AlarmConfig, context: Context) -> str | None:
    allowed = config.negative_kl
    if allowed is None:
        return None
    kl, unit = history.mean(KL), "nats per completion"
    if kl is None:
        kl, unit, allowed = history.mean(DIVERGENCE), "nats per token", ROUNDING
    if kl is None or kl >= -allowed:
        return None
    return f"the KL is {kl:.3g} {unit}, {_over(config.window)}, and a KL is never below 0"


def exploding_kl(history: History, config: AlarmConfig, context: Context) -> str | None:
    allowed, kl, length = config.kl_per_token, history.mean(KL), history.mean(LENGTH)
    if allowed is None:
        return None
    if kl is None:
        return _growing_divergence(history, config, allowed)
    if length is None or kl <= allowed * length:
        return None
    return (
        f"the policy is {kl / max(length, 1e-9):.2f} nats per token ({kl:.1f} per completion) from "
        f"its reference, {_over(config.window)}"
    )


def _growing_divergence(history: History, config: AlarmConfig, allowed: float) -> str | None:
    now, start = history.mean(DIVERGENCE), history.start(DIVERGENCE)
    if now is None or start is None or now <= max(start, ROUNDING) * (1 + allowed):
        return None
    return (
        f"the divergence from the teacher is {now:.3g} nats per token, {_over(config.window)}; in "
        f"the first ones it was {start:.3g}"
    )


def entropy_collapse(history: History, config: AlarmConfig, context: Context) -> str | None:
    now, start = history.mean(PER_TOKEN), history.start(PER_TOKEN)
    if config.entropy is None or now is None or start is None or now >= config.entropy * start:
        return None
    return (
        f"the entropy is {now:.3g} nats per token, {_over(config.window)}; in the first ones it "
        f"was {start:.3g}"
    )


def useless_critic(history: History, config: AlarmConfig, context: Context) -> str | None:
    value, start = history.mean(EXPLAINED), max(config.critic_warmup, context.critic_starts)
    if config.explained_variance is None or value is None:
        return None
    if history.step < start + config.window or value >= config.explained_variance:
        return None
    return (
        f"the critic's explained variance is {value:.2f}, {_over(config.window)}: it foresees the "
        "returns worse than their mean would"
    )


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return the rank correlation (Spearman's, ties in order) of two series; 0 where one is flat.

    Ranks, so that one outlier does not decide.
    """
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    first, second = (np.argsort(np.argsort(x, kind="stable")) - (x.size - 1) / 2 for x in (a, b))
    return float(np.sum(first * second) / np.sum(np.square(first)))


def longer_and_better(history: History, config: AlarmConfig, context: Context) -> str | None:
    """Score and length both rise through the steps of a trend, and one with the other."""
    lengths, scores = history.last(LENGTH), history.last(SCORES)
    if config.length_growth is None or not lengths.size or lengths.size != scores.size:
        return None
    quarter = lengths.size // 4
    before, after = float(np.mean(lengths[:quarter])), float(np.mean(lengths[-quarter:]))
    if after < (1 + config.length_growth) * max(before, 1.0):
        return None
    steps = np.arange(lengths.size)
    rising = min(correlation(steps, lengths), correlation(steps, scores))
    if rising < 0.6 or correlation(lengths, scores) < 0.6:
        return None
    return (
        f"in the last {config.trend} steps the length went from {before:.1f} to {after:.1f} tokens "
        f"and the score from {np.mean(scores[:quarter]):.3g} to {np.mean(scores[-quarter:]):.3g}, "
        "one with the other"
    )


def sampler_gap(history: History, config: AlarmConfig, context: Context) -> str | None:
    if context.exact:
        gap, allowed, kind = history.mean(GAP), config.sampler_gap, "largest"
    else:
        gap, allowed, kind = history.mean(MEAN_GAP), config.sampler_mean_gap, "mean"
    if gap is None or allowed is None or gap <= allowed:
        return None
    return (
        f"the {kind} difference between the log-probs of sampler and learner is {gap:.3g} nats, "
        f"{_over(config.window)}"
    )


def failing_reward(history: History, config: AlarmConfig, context: Context) -> str | None:
    failures = history.mean(FAILURES)
    if config.reward_failures is None or failures is None:
        return None
    share = failures / context.batch_size
    if share <= config.reward_failures:
        return None
    return f"the reward failed on {share:.1%} of the completions, {_over(config.window)}"


RULES = (
    Rule(
        "zero_advantage",
        no_advantage,
        "all completions of a prompt get the same score: the task is solved, far too hard, or its "
        "reward cannot tell completions apart",
        "look at completions.jsonl; other or harder prompts, more {flags}.samples-per-prompt, a "
        "higher sampling.temperature, a reward with steps in between, or --grpo.dynamic-sampling",
    ),
    Rule(
        "truncated",
        truncated,
        "there is too little room, the policy has learnt to go on, or no end can be reached (chat "
        "template, --task.stop-token; --dry-run looks for one)",
        "more --sampling.max-new-tokens, {flags}.missing-eos-penalty, or --alarms.truncated None "
        "where completions are cut on purpose",
    ),
    Rule(
        "negative_kl",
        negative_kl,
        "sampler, policy and reference are not scored under one distribution, or the policy has "
        "found completions that the estimate counts wrongly",
        "a run with --dry-run, --model.dtype float32 and without 8 bits; --alarms.negative-kl for "
        "very small batches, whose estimate is noisy",
    ),
    Rule(
        "exploding_kl",
        exploding_kl,
        "the policy has left what its reference would write: the learning rate is too high, or the "
        "reward is being exploited",
        "a lower --optimizer.learning-rate, a higher {flags}.kl.coef (or its controller), fewer "
        "{flags}.num-epochs; read the last completions",
    ),
    Rule(
        "entropy_collapse",
        entropy_collapse,
        "the policy writes nearly the same whatever is drawn: it no longer tries anything, and "
        "cannot learn further",
        "a lower --optimizer.learning-rate, {flags}.entropy-coef or {flags}.clip-eps-high, a "
        "higher {flags}.kl.coef; a solved task ends so too",
    ),
    Rule(
        "useless_critic",
        useless_critic,
        "the critic learns too slowly or runs after returns that change too fast, and its "
        "advantages are noise",
        "a higher --optimizer.critic-learning-rate, --ppo.critic-warmup-steps, --ppo.scale-scores, "
        "a critic of its own (--ppo.critic separate), or grpo.py, which needs none",
    ),
    Rule(
        "longer_and_better",
        longer_and_better,
        "the reward pays for length: what is longer scores higher, whether it is better or not; "
        "where longer reasoning is wanted it may be right",
        "read the completions before and after; a reward or penalty that does not grow with "
        "length, --grpo.overlong-buffer, or another {flags}.loss-aggregation",
        by_trend=True,
    ),
    Rule(
        "sampler_gap",
        sampler_gap,
        "the sampler writes with another policy than the learner learns: rounding (bfloat16, 8 "
        "bits), stale weights, or an error",
        "{flags}.importance-cap 2, --model.dtype float32, no 8 bits, no --overlap, or a lower "
        "--optimizer.learning-rate",
    ),
    Rule(
        "reward_failures",
        failing_reward,
        "the reward raises, times out or gives NaN on some completions, which then count for "
        "nothing",
        "a reward that gives a number for every text (empty ones too), more "
        "--task.reward-timeout-s or --task.reward-workers",
    ),
)
