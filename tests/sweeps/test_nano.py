"""Runs of nano size: demonstrations and scores, and that a run is a function of its seed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms.grpo import GRPOConfig
from rljax.algorithms.ppo import PPOConfig
from rljax.kl import KLConfig
from rljax.reporting.runs import read_run
from rljax.rollout.distribution import SamplingConfig
from rljax.sweeps.nano import NanoGRPO, NanoPPO, make_parts, train_nano
from rljax.sweeps.walks import Walks
from rljax.sweeps.worlds import Slips
from rljax.training.errors import ConfigError
from rljax.training.flags import validate
from rljax.types import Completions

WORLD = Slips(alphabet=4, letters=3, thoughts=2.0, most=3, before=True, period=0.5)
TINY = NanoGRPO(
    world=Slips(alphabet=2, letters=2, easy=0.2),
    hidden_size=8,
    pretrain_steps=40,
    sampling=SamplingConfig(max_new_tokens=4, temperature=1.0),
    grpo=GRPOConfig(batch_size=16, samples_per_prompt=4, kl=KLConfig(coef=0.0)),
    steps=2,
)


def made_of(tokens, mask) -> Completions:
    zeros = jnp.zeros(mask.shape, jnp.float32)
    return Completions(jnp.asarray(tokens), jnp.asarray(mask), zeros, zeros)


@pytest.mark.slow
def test_demonstrations_slip_as_often_as_they_should_and_else_score():
    ids = jnp.tile(jnp.arange(24), 200)
    tokens, mask = WORLD.demonstrate(jax.random.key(0), ids)
    judged = WORLD.judge(ids, made_of(tokens, mask))
    words = WORLD.words()[np.asarray(ids)]
    easy = words[:, 0] < 2
    assert np.mean(judged["score"][easy]) == pytest.approx(1 - WORLD.easy, abs=0.03)
    assert np.mean(judged["score"][~easy]) == pytest.approx(1 - WORLD.hard, abs=0.03)
    assert np.mean(judged["period"]) == pytest.approx(0.5, abs=0.03)
    assert not np.any(judged["cut"])
    dots = np.sum(np.asarray(mask) & (np.asarray(tokens) == WORLD.dot), axis=1)
    q = 2 / 3  # how likely it goes on, three times at most
    assert np.mean(dots) == pytest.approx(q + q**2 + q**3, abs=0.05)


def test_only_the_sorted_letters_in_an_ended_completion_score():
    word = 5  # a permutation of three letters
    answer = sorted(WORLD.words()[word].tolist())
    dot, eos, mark = WORLD.dot, WORLD.eos, WORLD.alphabet + 2
    rows = [
        [dot, *answer, eos, eos],
        [*answer, dot, dot, eos],
        [*answer, dot, dot, dot],  # no end
        [*answer[::-1], eos, eos, eos],
        [*answer, answer[0], eos, eos],  # a letter too many
        [*answer, mark, eos, eos],
    ]
    tokens = np.asarray(rows)
    ends = np.cumsum(tokens == eos, axis=1) - (tokens == eos) == 0
    judged = WORLD.judge(jnp.full(len(rows), word), made_of(tokens, ends))
    assert judged["score"].tolist() == [1, 1, 0, 0, 0, 0]
    assert judged["cut"].tolist() == [0, 0, 1, 0, 0, 0]
    assert judged["wrong_length"].tolist() == [0, 0, 6, 4, 5, 5]
    assert judged["right_length"].tolist() == [5, 6, 0, 0, 0, 0]


@pytest.mark.slow
def test_a_run_is_a_function_of_its_seed_and_filled_batches_teach(tmp_path):
    for name, config in {
        "a": TINY,
        "b": TINY,
        "c": dataclasses.replace(TINY, seed=1),
        "d": dataclasses.replace(TINY, grpo=dataclasses.replace(TINY.grpo, dynamic_sampling=3)),
    }.items():
        train_nano(config, tmp_path / name)
    a, b, c, d = (read_run(tmp_path / name).metrics for name in "abcd")
    for tag in a:
        np.testing.assert_array_equal(a[tag].values, b[tag].values)
    assert list(a["objective/scores"].steps) == [1, 2]
    assert a["objective/entropy"].values[0] != c["objective/entropy"].values[0]
    assert np.all(np.abs(np.asarray(a["objective/kl"].values)[:1]) < 1e-4)
    share = "health/zero_advantage_fraction"
    assert np.mean(d[share].values) < np.mean(a[share].values)
    assert np.all(np.asarray(d["objective/samples"].values) >= 16)


@pytest.mark.slow
@pytest.mark.parametrize("samples", [0, 2])
def test_walks_know_how_wrong_values_are(tmp_path, samples):
    config = NanoPPO(
        world=Walks(nodes=5, edges=2, moves=3),
        hidden_size=8,
        pretrain_steps=3,
        sampling=SamplingConfig(max_new_tokens=3, temperature=1.0),
        ppo=PPOConfig(batch_size=8, num_epochs=1, value_coef=0.0 if samples else 0.1),
        value_samples=samples,
        steps=2,
    )
    train_nano(config, tmp_path)
    metrics = read_run(tmp_path).metrics
    assert 0 < metrics["value/exact_error"].values[0] < 1
    assert 0 < metrics["objective/exact"].values[0] < 1


def test_what_cannot_be_run_is_refused():
    with pytest.raises(ConfigError, match="value_samples"):
        validate(NanoPPO(value_samples=2))
    with pytest.raises(ConfigError, match="thoughts"):
        validate(NanoGRPO(world=Slips(thoughts=1.0)))
    with pytest.raises(ConfigError, match="too many walks"):
        validate(NanoGRPO(world=Walks(moves=20)))
    assert make_parts(TINY).table.shape == (2, 3)
