"""Numbers of single tokens in completions.jsonl: those that the formulas give, fused or not."""

import dataclasses
import functools

import numpy as np
import pytest

from rljax.kl import KLConfig
from rljax.reporting.runs import read_run
from tests.experiments.conftest import unoptimised
from tests.training.fused_cases import METHODS, make_experiment, run

pytestmark = pytest.mark.slow
DIGITS = {"rel": 2e-3, "abs": 2e-4}  # four digits are stored, and sums of them are compared


@pytest.fixture(scope="module", autouse=True)
def quick_programs():
    with unoptimised():
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a function that gives the record of a run of 3 steps, trained once."""
    folder = tmp_path_factory.mktemp("tokens")

    @functools.cache
    def get(name, fused, **changes):
        method = dataclasses.replace(METHODS[name], **dict(changes))
        config = make_experiment(
            folder, name, f"{name}-{fused}-{len(changes)}", steps=3, fused_steps=2 * fused,
            eval_prompts=0 if fused else 3, **{"ppo" if name == "ppo" else "grpo": method},
        )  # fmt: skip
        run(config)
        return read_run(config.workdir)

    return get


def tables(record, held_out=False) -> list[dict]:
    rows = [row for row in record.completions if "by_token" in row]
    return [row for row in rows if bool(row.get("held_out")) == held_out]


PPO = {"gamma": 0.9, "gae_lambda": 0.8, "whiten_rewards": False, "whiten_advantages": False}


@pytest.mark.parametrize("fused", [False, True])
def test_ppo_stores_rewards_and_advantages(trained, fused):
    """Rewards are KL penalties and the score at the end; advantages follow by GAE's recursion."""
    record = trained("ppo", fused, **PPO)
    coefs = dict(zip(*record.metrics["objective/kl_coef"], strict=True))
    found = tables(record)
    assert [row["step"] for row in found] == [1] * 4 + [2] * 4 + [3] * 4
    learnt = 0.0
    for row in found:
        table = row["by_token"]
        columns = ("log_prob", "log_ratio", "kl", "value", "advantage", "reward")
        log_prob, log_ratio, kl, value, advantage, reward = (
            np.asarray(table[name]) for name in columns
        )
        assert len(table["text"]) == row["tokens"] == len(log_prob)
        assert np.all(log_prob < 0) and row["kl"] == pytest.approx(log_ratio.sum(), **DIGITS)
        assert kl == pytest.approx(np.exp(-log_ratio) - 1 + log_ratio, rel=1e-2, abs=1e-4)
        expected = -coefs[row["step"]] * log_ratio
        expected[-1] += row["score"]
        assert reward == pytest.approx(expected, **DIGITS)
        following = 0.0
        for t in reversed(range(len(reward))):
            later = value[t + 1] if t + 1 < len(reward) else 0.0
            delta = reward[t] + PPO["gamma"] * later - value[t]
            following = delta + PPO["gamma"] * PPO["gae_lambda"] * following
            assert advantage[t] == pytest.approx(following, **DIGITS)
        learnt += float(np.abs(value).sum() + np.abs(log_ratio).sum())
    assert learnt > 0.1  # the critic and the policy have moved, or nothing was compared


@pytest.mark.parametrize("fused", [False, True])
def test_grpo_stores_the_advantage_of_the_group(trained, fused):
    """A completion's tokens share (score - mean) / (std + 1e-4) of the group of 4."""
    record = trained("grpo", fused)
    found = tables(record)
    assert len(found) == 3 * 4
    seen = set()
    for start in range(0, len(found), 4):
        group = found[start : start + 4]
        assert len({row["prompt"] for row in group}) == 1
        scores = np.array([row["score"] for row in group])
        for row in group:
            expected = (row["score"] - scores.mean()) / (scores.std(ddof=1) + 1e-4)
            assert row["by_token"]["advantage"] == pytest.approx(
                [expected] * row["tokens"], **DIGITS
            )
            assert row["by_token"]["reward"][:-1] == [0.0] * (row["tokens"] - 1)
            assert row["by_token"]["reward"][-1] == pytest.approx(row["score"], **DIGITS)
            assert "value" not in row["by_token"]
            seen.add(round(expected, 3))
    assert len(seen) > 2


def charged(trained):
    """A run whose tokens bear the KL to come, and are weighted as if another had sampled them."""
    changes = {"kl_place": "tokens", "kl": KLConfig(coef=0.5), "importance_cap": 2.0}
    return trained("grpo", False, advantage="none", **changes)


def test_kl_charged_to_tokens_is_in_the_advantages(trained):
    record = charged(trained)
    late = [row for row in tables(record) if row["step"] == 3]
    for row in late:
        to_come = np.cumsum(row["by_token"]["log_ratio"][::-1])[::-1]
        assert row["by_token"]["advantage"] == pytest.approx(row["score"] - 0.5 * to_come, **DIGITS)
    assert max(abs(row["kl"]) for row in late) > 1e-2


def test_evaluations_have_tables_without_what_only_training_knows(trained):
    held_out = tables(trained("ppo", False, **PPO), held_out=True)
    assert [row["step"] for row in held_out] == [0] * 3 + [3] * 3
    for row in held_out:
        assert set(row["by_token"]) == {"text", "log_prob", "log_ratio", "kl"}
        assert row["kl"] == pytest.approx(sum(row["by_token"]["log_ratio"]), **DIGITS)


def test_what_another_policy_sampled_has_the_learners_log_probs(trained):
    for row in tables(charged(trained)):
        table = row["by_token"]
        assert table["learner_log_prob"] == pytest.approx(table["log_prob"], rel=2e-3)


def test_tensorboard_and_the_metrics_know_nothing_of_tokens(trained):
    assert not [tag for tag in trained("grpo", False).metrics if tag.startswith("tokens/")]
