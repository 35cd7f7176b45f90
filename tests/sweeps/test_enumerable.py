"""Training on an enumerable task: exact numbers, and programs that arms and seeds share."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from rljax.algorithms.dpo import DPOConfig
from rljax.algorithms.grpo import GRPOConfig
from rljax.algorithms.ppo import PPOConfig
from rljax.kl import KLConfig
from rljax.reporting.runs import read_run
from rljax.sweeps.enumerable import (
    EnumerableExperiment,
    learn,
    run_enumerable,
    split_numbers,
    train,
    world_of,
)
from rljax.sweeps.exact import final_numbers, reference_of

TINY = EnumerableExperiment(
    method="grpo",
    grpo=GRPOConfig(
        batch_size=32, loss_aggregation="constant", kl=KLConfig(coef=0.3, estimator="k1"),
        kl_place="score", advantage="leave_one_out", samples_per_prompt=4,
    ),
    ppo=PPOConfig(batch_size=32, value_coef=1.0, num_epochs=1, kl=KLConfig(coef=0.3)),
    dpo=DPOConfig(batch_size=32, beta=0.3),
    vocabulary=3, length=2, beta=0.3, steps=40, log_every=10, pairs=500,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("method", ["grpo", "ppo", "dpo", "best_of_n"])
def test_a_run_goes_towards_the_optimum_and_stays_below_the_frontier(tmp_path, method):
    run_enumerable(replace(TINY, method=method, best_of=4), tmp_path)
    record = read_run(tmp_path)
    last = {tag: series.values[-1] for tag, series in record.metrics.items()}
    assert 0.2 < last["exact/closed"] <= 1
    assert 0 <= last["exact/frontier_gap"] < 0.5
    assert last["exact/optimum"] - last["exact/objective"] == pytest.approx(
        last["exact/optimum_gap"]
    )
    steps = list(record.metrics["exact/kl"].steps)
    assert steps == ([40] if method == "best_of_n" else [10, 20, 30, 40])


@pytest.mark.slow
def test_a_shared_program_gives_the_numbers_of_its_own():
    config = replace(TINY, seed=3, grpo=replace(TINY.grpo, kl=KLConfig(coef=0.2, estimator="k1")))
    shared, _ = train(config)
    world = world_of(config)
    table, _ = jax.jit(lambda key: learn(config, world, key))(jax.random.key(3))
    own = np.asarray(world.log_probs(table))
    np.testing.assert_allclose(shared, own, atol=1e-4)
    static = split_numbers(config)[0]
    assert static == split_numbers(replace(TINY, beta=0.7))[0]
    off = replace(TINY, grpo=replace(TINY.grpo, kl_place="loss", kl=KLConfig(coef=0.0)))
    assert split_numbers(off)[0].grpo.kl.coef == 0  # switched off is another program


@pytest.mark.slow
def test_the_exact_kl_holds_the_policy_back():
    free = replace(TINY, grpo=replace(TINY.grpo, kl=KLConfig(coef=0.0), kl_place="loss"), steps=80)
    held = replace(free, exact_kl_coef=3.0)
    kls = [final_numbers(world_of(c), train(c)[0], c.beta)["exact/kl"] for c in (free, held)]
    assert kls[1] < 0.2 * kls[0]


def test_the_reference_is_normalised_in_float64():
    log_reference, rewards = reference_of(world_of(TINY))
    assert np.sum(np.exp(log_reference)) == pytest.approx(1, abs=1e-12)
    assert log_reference.shape == rewards.shape == (9,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"log_every": 7}, "multiple of log_every"),
        ({"beta": 0.0}, "beta is 0.0; it must be positive"),
        ({"exact_kl_coef": 1.0, "method": "dpo"}, "needs an on-policy method"),
    ],
)
def test_what_cannot_work_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes).validate()
