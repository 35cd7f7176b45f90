"""Over-optimised rewards: the hidden rule, the labels, the laws, and a run from end to end."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms.ppo import PPOConfig
from rljax.kl import KLConfig
from rljax.reporting.runs import read_run
from rljax.rollout.distribution import SamplingConfig
from rljax.sweeps.over_kl import draw, line_of
from rljax.sweeps.overoptimisation import (
    OveroptimisationExperiment,
    best_of_n_curve,
    evened,
    fit_law,
    judge_curve,
    prefer,
    run_overoptimisation,
)
from rljax.sweeps.worlds import VALENCES, Praise
from rljax.training.optimizer import OptimizerConfig
from rljax.training.writer import MetricsWriter
from rljax.types import Completions, Prompts

TINY = OveroptimisationExperiment(
    world=Praise(length=4),
    hidden_size=8,
    pretrain_steps=20,
    sampling=SamplingConfig(max_new_tokens=4, min_new_tokens=4, temperature=1.0),
    optimizer=OptimizerConfig(learning_rate=0.05, schedule="constant"),
    ppo=PPOConfig(batch_size=16, num_epochs=1, kl=KLConfig(coef=0.0)),
    proxy_size=4,
    proxy_steps=50,
    steps=10,
)


def texts(tokens) -> tuple[Prompts, Completions]:
    tokens = jnp.asarray(tokens, jnp.int32)
    rows = len(tokens)
    zeros = jnp.zeros(tokens.shape, jnp.float32)
    mark = jnp.full((rows, 1), Praise().eos)
    prompts = Prompts(mark, mark > 0, jnp.zeros(rows, jnp.int32), jnp.arange(rows))
    return prompts, Completions(tokens, jnp.ones(tokens.shape, bool), zeros, zeros)


def test_praise_adds_up_and_a_word_said_again_costs():
    names = list(VALENCES)
    love, film = names.index("love"), names.index("film")
    prompts, made = texts([[love, film, film, love], [love, film, 10, 11]])
    judged = Praise(length=4, penalty=5.0).judge(prompts.ids, made)
    np.testing.assert_allclose(judged["score"], [2 * 3.2 - 10, 3.2], rtol=1e-6)
    np.testing.assert_array_equal(judged["repeats"], [2, 0])


def test_valences_are_those_of_vader():
    vader = pytest.importorskip("vaderSentiment.vaderSentiment")
    lexicon = vader.SentimentIntensityAnalyzer().lexicon
    assert {word: lexicon.get(word, 0.0) for word in VALENCES} == VALENCES


def test_demonstrations_repeat_as_seldom_as_they_should():
    world = Praise(length=2, reserve=3.0)
    tokens, mask = world.demonstrate(jax.random.key(0), jnp.zeros(20_000, jnp.int32))
    again = np.exp(-3.0) / (15 + np.exp(-3.0))
    assert np.all(mask)
    assert np.mean(tokens[:, 0] == tokens[:, 1]) == pytest.approx(again, abs=0.001)


def test_the_better_text_is_preferred_as_often_as_its_lead_says():
    tokens = np.tile([[0, 1], [2, 3]], (20_000, 1))
    gold = jnp.tile(jnp.array([1.0, 0.5]), 20_000)
    records = prefer(*texts(tokens), gold, jax.random.key(0), 2.0, 10)
    first_won = np.asarray(records.tokens[:, 0, 0] == 0)
    assert np.mean(first_won) == pytest.approx(1 / (1 + np.exp(-1.0)), abs=0.01)
    np.testing.assert_array_equal(records.tokens[:, 1, 0], np.where(first_won, 2, 0))
    assert float(jnp.sum(records.weights[:10])) == pytest.approx(1)


@pytest.mark.parametrize("law", ["ppo", "best_of_n"])
def test_a_law_is_found_again(law):
    d = np.linspace(0.1, 4, 50)
    gold = d * (1.2 - 0.4 * (np.log(d) if law == "ppo" else d))
    np.testing.assert_allclose(fit_law(d, gold, law), (1.2, 0.4, 1.0), atol=1e-6)
    other = "best_of_n" if law == "ppo" else "ppo"
    assert fit_law(d, gold, other)[2] < 0.999


def test_a_curve_that_falls_is_over_optimised_and_one_that_rises_is_not():
    d = np.linspace(0, 5, 200)
    proxy = d.copy()
    falls = {"curve/distance": d, "curve/gold": d * (2 - 0.5 * d), "curve/proxy": proxy}
    found = judge_curve(falls, "ppo")
    assert found["overoptimised"] == 1
    assert found["peak/distance"] == pytest.approx(2, abs=0.1)
    assert found["fall"] > 1
    assert found["given/gold"] == pytest.approx(2, abs=0.05)
    rises = judge_curve(falls | {"curve/gold": d}, "ppo")
    assert rises["overoptimised"] == 0
    without = judge_curve(falls | {"curve/proxy": -d}, "ppo")
    assert without["overoptimised"] == 0
    assert without["fall"] == found["fall"]


def test_a_long_stay_counts_as_one_point():
    d, values = evened(np.array([0.0, 1.0, *[3.0] * 100]), np.array([0.0, 1.0, *[2.0] * 100]))
    np.testing.assert_allclose(d, [0, 1, 3])
    np.testing.assert_allclose(values, [0, 1, 2])


def test_the_best_of_two_of_an_exact_proxy_is_the_expected_maximum():
    rewards = np.array([0.0, 1.0, 2.0, 3.0])
    found = best_of_n_curve(rewards, rewards, 2)
    np.testing.assert_allclose(found["curve/gold"], [1.5, (1 * 3 + 2 * 5 + 3 * 7) / 16])
    np.testing.assert_allclose(found["curve/kl"], [0, np.log(2) - 0.5])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": 0}, "pairs is 0"),
        ({"pairs": 9000}, "at most 8192"),
        ({"label_scale": 0.0}, "label_scale is 0.0"),
        ({"sampling": SamplingConfig(max_new_tokens=4)}, "must be world.length"),
    ],
)
def test_what_cannot_work_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes).validate()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ppo", "best_of_n"])
def test_a_run_tells_its_curve_and_what_became_of_it(tmp_path, method):
    run_overoptimisation(dataclasses.replace(TINY, method=method, best_of=8), tmp_path)
    record = read_run(tmp_path)
    steps = [1, 2, 4, 8] if method == "best_of_n" else list(range(10))
    assert list(record.metrics["curve/gold"].steps) == steps
    distances = record.metrics["curve/distance"].values
    assert distances[0] == pytest.approx(0, abs=1e-3)
    assert distances[-1] > 0.1
    assert record.metrics["proxy/accuracy"].values[-1] > 0.6


def test_lines_over_kl_are_means_over_seeds_as_far_as_all_go(tmp_path):
    pytest.importorskip("matplotlib")
    for seed, far in ((0, 2.0), (1, 3.0)):
        with MetricsWriter(tmp_path / "cells" / "ppo_a" / f"seed{seed}") as writer:
            for step, d in enumerate(np.linspace(0, far, 10)):
                row = {"curve/distance": d, "curve/gold": d * (1 + seed), "curve/proxy": d}
                writer.scalars(step, row)
    (tmp_path / "results.json").write_text('{"arms": {"ppo_a": {}}}')
    d, gold = line_of(tmp_path / "cells" / "ppo_a", "curve/gold")
    assert d[-1] == pytest.approx(2)
    np.testing.assert_allclose(gold, 1.5 * d, atol=1e-6)
    draw(tmp_path, tmp_path / "made.svg")
    assert "best of n" in (tmp_path / "made.svg").read_text()
