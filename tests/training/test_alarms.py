"""Alarms: each is provoked, healthy streams are silent, and a resumed run says none twice."""

import dataclasses
import math

import numpy as np
import pytest

from rljax.experiment import DistillExperiment, GRPOExperiment, PPOExperiment
from rljax.training.alarm_rules import RULES, Context, correlation
from rljax.training.alarms import (
    AlarmConfig,
    Alarms,
    distillation_alarms,
    policy_alarms,
    replay,
)
from rljax.training.errors import ConfigError
from rljax.training.flags import validate

STEPS = 120
SWITCHES = {
    "zero_advantage": "zero_advantage",
    "truncated": "truncated",
    "negative_kl": "negative_kl",
    "exploding_kl": "kl_per_token",
    "entropy_collapse": "entropy",
    "useless_critic": "explained_variance",
    "longer_and_better": "length_growth",
    "sampler_gap": "sampler_gap",
    "reward_failures": "reward_failures",
}


def healthy(seed: int = 0) -> list[dict[str, float]]:
    """Steps of a run that learns: score and KL rise, entropy falls by a half, all of it noisy."""
    noise = np.random.default_rng(seed)
    rows = []
    for step in range(1, STEPS + 1):
        done = step / STEPS
        rows.append(
            {
                "step": step,
                "objective/scores": 0.2 + 0.5 * done + 0.05 * noise.normal(),
                "objective/kl": 4 * done + 0.15 * noise.normal(),
                "objective/entropy": 40 * (1 - 0.5 * done) + noise.normal(),
                "objective/informative_groups": 0.9 - 0.4 * done,
                "completion/length": 20 + noise.normal(),
                "completion/truncated_fraction": 0.1 + 0.05 * noise.random(),
                "value/explained_variance": min(0.5, -0.8 + 0.1 * step) + 0.1 * noise.normal(),
                "health/zero_advantage_fraction": 0.1 + 0.4 * done,
                "health/sampler_logprob_gap": 2e-5,
                "health/sampler_logprob_mean_gap": 1e-6,
                "health/reward_failures": float(step % 60 == 0),
            }
        )
    return rows


def late(**changes: float) -> list[dict[str, float]]:
    """The same, but for what some metrics are from step 60 on."""
    named = {name.replace("__", "/"): value for name, value in changes.items()}
    return [row | (named if row["step"] >= 60 else {}) for row in healthy()]


def longer() -> list[dict[str, float]]:
    rows = healthy()
    return [row | {"completion/length": 20 * 1.012 ** row["step"]} for row in rows]


PROVOKED = {
    "zero_advantage": late(
        health__zero_advantage_fraction=0.97, objective__informative_groups=0.03
    ),
    "truncated": late(completion__truncated_fraction=0.7),
    "negative_kl": late(objective__kl=-0.9),
    "exploding_kl": late(objective__kl=25.0),
    "entropy_collapse": late(objective__entropy=2.0),
    "useless_critic": late(value__explained_variance=-0.3),
    "longer_and_better": longer(),
    "sampler_gap": late(health__sampler_logprob_gap=0.05),
    "reward_failures": late(health__reward_failures=2.0),
}


GRPO = Context("--grpo", 64)


def make(context: Context = GRPO, **changes) -> Alarms:
    return Alarms(AlarmConfig(**changes), context)


@pytest.mark.parametrize("seed", range(20))
def test_a_healthy_run_is_silent(seed):
    alarms = make()
    assert replay(healthy(seed), alarms) == []
    assert alarms.scalars() == {}


def test_every_rule_is_provoked_here():
    assert [rule.name for rule in RULES] == list(PROVOKED) == list(SWITCHES)


@pytest.mark.parametrize("name", PROVOKED)
def test_each_alarm_is_said_once_and_can_be_switched_off(name):
    alarms = make()
    begun = replay(PROVOKED[name], alarms)
    assert [alarm.name for alarm in begun] == [name]
    assert 10 <= begun[0].step <= STEPS and (name == "longer_and_better" or begun[0].step >= 60)
    assert alarms.scalars() == {"health/alarms": 1.0, f"health/alarm_{name}": 1.0}
    assert replay(PROVOKED[name], make(**{SWITCHES[name]: None})) == []


@pytest.mark.parametrize("name", PROVOKED)
def test_an_alarm_says_what_is_seen_what_it_means_and_what_to_change(name):
    (alarm,) = replay(PROVOKED[name], make())
    text = alarm.text()
    assert text.startswith(f"alarm at step {alarm.step}, {name}: ")
    assert any(char.isdigit() for char in alarm.seen)
    assert "Usually: " in text and "Try: " in text and "{" not in text
    assert "--" in alarm.change
    assert alarm.markdown().startswith(f"**{name}**")


def test_an_alarm_that_ends_is_said_again_when_it_comes_back():
    rows = healthy()
    cut = [row | {"completion/truncated_fraction": 0.9} for row in rows]
    rows = rows[:20] + cut[20:40] + rows[40:80] + cut[80:100]
    alarms, held = make(), []
    begun = []
    for row in rows:
        begun += alarms.see(int(row["step"]), row)
        held.append(alarms.scalars().get("health/alarm_truncated"))
    assert len(begun) == 2 and begun[0].step < 40 and 80 < begun[1].step < 100
    assert held[:20] == [None] * 20 and held[38] == 1 and held[75] == 0 and held[-1] == 1


@pytest.mark.parametrize("cut", [3, 25, 66, 70, 119])
@pytest.mark.parametrize("name", ["truncated", "longer_and_better", "useless_critic"])
def test_a_run_that_goes_on_has_the_alarms_of_one_that_was_not_stopped(name, cut):
    whole, parts = make(), make()
    begun = replay(PROVOKED[name], whole)
    resumed = make()
    before = replay(PROVOKED[name][:cut], parts)
    assert replay(PROVOKED[name][:cut], resumed) == before
    assert before + replay(PROVOKED[name][cut:], resumed) == begun
    assert resumed.scalars() == whole.scalars()


def test_evaluations_are_no_steps():
    rows = PROVOKED["truncated"]
    mixed = [line for row in rows for line in (row, {"step": row["step"], "eval/scores": 0.5})]
    assert replay(mixed, make()) == replay(rows, make())


def test_the_best_of_a_group_leaves_the_others_without_advantage():
    """Of four completions three have none by the rule itself: unequal groups do teach."""
    rows = late(health__zero_advantage_fraction=0.95, objective__informative_groups=0.6)
    assert replay(rows, make()) == []
    alone = [{k: v for k, v in row.items() if "informative" not in k} for row in rows]
    assert [alarm.name for alarm in replay(alone, make())] == ["zero_advantage"]


def test_the_critic_may_learn_first():
    rows = [row | {"value/explained_variance": -1.0} for row in healthy()]
    (alarm,) = replay(rows, make())
    assert alarm.step == 30
    (alarm,) = replay(rows, make(Context("--ppo", 64, critic_starts=50)))
    assert alarm.step == 60


def test_another_sampler_is_judged_by_the_mean():
    stale = Context("--grpo", 64, exact=False)
    far = late(health__sampler_logprob_gap=2.0, health__sampler_logprob_mean_gap=0.05)
    assert replay(far, make(stale)) == []
    off = late(health__sampler_logprob_gap=2.0, health__sampler_logprob_mean_gap=0.2)
    assert [alarm.name for alarm in replay(off, make(stale))] == ["sampler_gap"]
    assert "mean difference" in replay(off, make(stale))[0].seen


def test_metrics_that_are_missing_or_not_finite_say_nothing():
    rows = [row | {"objective/kl": math.nan, "objective/scores": math.inf} for row in healthy()]
    assert replay(rows, make()) == []
    assert replay([{"step": n, "train/loss": 1.0} for n in range(1, 50)], make()) == []


def distilling(last: float, first: float = 0.8) -> list[dict[str, float]]:
    return [
        {"step": n, "train/loss": first if n < 30 else last, "train/on_policy": n % 2}
        for n in range(1, 60)
    ]


@pytest.mark.parametrize(
    ("rows", "name"),
    [(distilling(1.7), "exploding_kl"), (distilling(-0.01), "negative_kl")],
    ids=["growing", "negative"],
)
def test_a_distillation_has_its_divergence_watched(rows, name):
    alarms = distillation_alarms(DistillExperiment())
    assert [alarm.name for alarm in replay(rows, alarms)] == [name]
    for quiet in (distilling(1.2), distilling(0.01), distilling(-1e-5, first=1e-4)):
        assert replay(quiet, distillation_alarms(DistillExperiment())) == []


def test_a_run_is_watched_by_its_own_flags():
    ppo = PPOExperiment()
    ppo = dataclasses.replace(ppo, ppo=dataclasses.replace(ppo.ppo, critic_warmup_steps=7))
    assert policy_alarms(ppo).context == Context("--ppo", 64, True, 7)
    grpo = GRPOExperiment()
    stale = dataclasses.replace(grpo, grpo=dataclasses.replace(grpo.grpo, importance_cap=2.0))
    assert policy_alarms(grpo).context.exact and not policy_alarms(stale).context.exact
    begun = replay(PROVOKED["exploding_kl"], policy_alarms(grpo))
    assert "--grpo.kl.coef" in begun[0].change


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 0}, "window is 0"),
        ({"trend": 4}, "at least 8 steps"),
        ({"truncated": 1.5}, "alarms.truncated is 1.5; it is a share"),
        ({"kl_per_token": 0.0}, "alarms.kl_per_token is 0.0; it must be above 0"),
    ],
    ids=str,
)
def test_thresholds_that_mean_nothing_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        validate(GRPOExperiment(alarms=AlarmConfig(**changes)))


def test_ranks_decide_on_what_rises_together():
    steps = np.arange(40.0)
    outlier = steps.copy()
    outlier[5] = 1e6
    assert correlation(steps, steps**3) == pytest.approx(1)
    assert correlation(steps, -steps) == pytest.approx(-1)
    assert 0.8 < correlation(steps, outlier) < 0.98
    assert correlation(steps, np.ones(40)) == 0
