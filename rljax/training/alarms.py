"""Alarms of a run: what its own metrics say is going wrong, in plain words, once for each onset.

Rules look at the mean of the last `window` steps of metrics that are written anyway, on the host
(`rljax.training.alarm_rules`). An alarm is printed, shown under TensorBoard's TEXT, and from its
first onset on `health/alarm_NAME` (1 while it holds, else 0) and `health/alarms` (how many hold)
are written with every step. A run without alarms writes nothing of them.

Nothing of this is kept in checkpoints: a run that is resumed reads its metrics.jsonl again, which
is cut to the checkpoint's step, so that it says no alarm twice and writes the same numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rljax.training import processes
from rljax.training.alarm_rules import RULES, Context, History, Rule
from rljax.training.writer import MetricsWriter, escape_markdown, read_jsonl

if TYPE_CHECKING:
    from rljax.experiment import DistillExperiment, OnPolicyExperiment


@dataclasses.dataclass(frozen=True)
class AlarmConfig:
    """When a run says that something looks wrong; None switches an alarm off.

    Each looks at the mean of the last `window` steps. Alarms change nothing in the run.
    """

    window: int = 10
    """Steps whose mean is looked at; an alarm ends when it has not held for as many (that of a
    trend: for as many as `trend`)."""
    zero_advantage: float | None = 0.9
    """Share of tokens without advantage (groups whose completions are all worth the same), above
    which there is an alarm."""
    truncated: float | None = 0.5
    """Share of completions that fill all slots without an end. Set it to None where completions are
    cut on purpose."""
    negative_kl: float | None = 0.5
    """Nats per completion that the KL estimate may be below 0; noise around 0 is less. Of a
    distillation's divergence, which is exact, anything beyond rounding is too much."""
    kl_per_token: float | None = 1.0
    """Nats per token from the reference. Of a distillation: how many times the divergence may be
    that of the first steps, less 1."""
    entropy: float | None = 0.1
    """Share of the entropy per token of the first steps."""
    explained_variance: float | None = 0.0
    """Explained variance of the critic, below which there is an alarm."""
    critic_warmup: int = 20
    """Steps in which the critic may still be worse than that (beside ppo.critic_warmup_steps)."""
    length_growth: float | None = 0.3
    """Growth of the length, as a share of what it was, while the score rises with it."""
    trend: int = 40
    """Steps in which length and score are seen to rise together."""
    sampler_gap: float | None = 0.01
    """Largest difference, in nats of a token's log-prob, between sampler and learner of the same
    weights in float32, where it is about 1e-5."""
    sampler_mean_gap: float | None = 0.1
    """The mean difference where they are not the same: bfloat16, 8 bits, overlap, exploration."""
    reward_failures: float | None = 0.01
    """Share of completions that the reward failed on."""

    def validate(self) -> None:
        """Raise ValueError for numbers that mean nothing."""
        if self.window < 1:
            raise ValueError(f"alarms.window is {self.window}; it must be at least 1")
        if self.trend < 8:
            raise ValueError(f"alarms.trend is {self.trend}; a trend needs at least 8 steps")
        if self.critic_warmup < 0:
            raise ValueError(f"alarms.critic_warmup is {self.critic_warmup}; it must be >= 0")
        for name in ("zero_advantage", "truncated", "entropy", "reward_failures"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"alarms.{name} is {value}; it is a share: in [0, 1), or None")
        for name in (
            "negative_kl", "kl_per_token", "length_growth", "sampler_gap", "sampler_mean_gap",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"alarms.{name} is {value}; it must be above 0, or None (off)")


class Alarm(NamedTuple):
    """An alarm that has begun."""

    step: int
    name: str
    seen: str
    """What the metrics show."""
    means: str
    """What that usually means."""
    change: str
    """What to change."""

    def text(self) -> str:
        """Return the alarm as lines of a log."""
        return (
            f"alarm at step {self.step}, {self.name}: {self.seen}.\n  Usually: {self.means}.\n"
            f"  Try: {self.change}."
        )

    def markdown(self) -> str:
        """Return the alarm as TensorBoard shows it."""
        seen, means, change = map(escape_markdown, self[2:])
        return f"**{self.name}**: {seen}.\n\nUsually: {means}.\n\nTry: {change}."


class Alarms:
    """Which alarms hold, after the metrics of every step so far: a function of these alone."""

    def __init__(self, config: AlarmConfig, context: Context) -> None:
        self.config, self.context = config, context
        self._history = History(config.window, config.trend)
        self._quiet: dict[str, int] = {}  # of every alarm that ever held: steps since it last did

    def _holds(self, rule: Rule) -> bool:
        patience = self.config.trend if rule.by_trend else self.config.window
        return self._quiet.get(rule.name, patience) < patience

    def see(self, step: int, metrics: Mapping[str, Any]) -> list[Alarm]:
        """Take the metrics of a step; return the alarms that begin with it."""
        self._history.add(step, metrics)
        begun = []
        for rule in RULES:
            held = self._holds(rule)
            seen = rule.check(self._history, self.config, self.context)
            if seen is not None:
                self._quiet[rule.name] = 0
                if not held:
                    change = rule.change.replace("{flags}", self.context.flags)
                    begun.append(Alarm(step, rule.name, seen, rule.means, change))
            elif rule.name in self._quiet:
                self._quiet[rule.name] += 1
        return begun

    def scalars(self) -> dict[str, float]:
        """Return what is written with every step: nothing before the first alarm."""
        holding = {r.name: float(self._holds(r)) for r in RULES if r.name in self._quiet}
        if not holding:
            return {}
        named = {f"health/alarm_{name}": value for name, value in holding.items()}
        return {"health/alarms": sum(holding.values()), **named}


def is_step(row: Mapping[str, Any]) -> bool:
    """Say whether a line of metrics.jsonl is a training step's, and no evaluation's."""
    return any(name in row for name in ("objective/scores", "train/loss"))


def replay(rows: Iterable[Mapping[str, Any]], alarms: Alarms) -> list[Alarm]:
    """Take the lines of a run's metrics.jsonl; return all alarms that began in them."""
    begun: list[Alarm] = []
    for row in filter(is_step, rows):
        begun += alarms.see(int(row["step"]), row)
    return begun


class Watch:
    """The alarms of a run that is going on: says them where they begin.

    Of several processes only the first one watches; `None` as config watches nothing.
    """

    def __init__(
        self, alarms: Alarms | None, writer: MetricsWriter, directory: Path, *, resumed: bool
    ) -> None:
        """Go on with what a resumed run has written; its files are cut to the step already."""
        self._writer = writer
        self._alarms = alarms if processes.is_first() else None
        metrics = directory / "metrics.jsonl"
        if self._alarms is not None and resumed and metrics.exists():
            replay(read_jsonl(metrics), self._alarms)

    def see(self, step: int, metrics: dict[str, Any]) -> None:
        """Say the alarms that begin with a step, and add `health/alarm*` to its metrics."""
        if self._alarms is None:
            return
        for alarm in self._alarms.see(step, metrics):
            print(alarm.text(), flush=True)
            self._writer.text(step, "health/alarms", alarm.markdown())
        metrics |= self._alarms.scalars()


def policy_alarms(experiment: OnPolicyExperiment) -> Alarms:
    """Make the alarms of an on-policy run."""
    algorithm, names = experiment.algorithm, ("ppo", "grpo", "online_dpo")
    name = next(name for name in names if hasattr(experiment, name))
    context = Context(
        flags=f"--{name.replace('_', '-')}",
        batch_size=algorithm.batch_size,
        exact=experiment.model.dtype == "float32" and algorithm.importance_cap is None,
        critic_starts=getattr(algorithm, "critic_warmup_steps", 0),
    )
    return Alarms(experiment.alarms, context)


def distillation_alarms(experiment: DistillExperiment) -> Alarms:
    """Make the alarms of a distillation."""
    return Alarms(
        experiment.alarms, Context(flags="--distill", batch_size=experiment.distill.batch_size)
    )
