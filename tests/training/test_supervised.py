"""The loop of the supervised stages: what it writes, keeps and evaluates, and exact resume."""

import dataclasses
import functools
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rljax.errors import UserError
from rljax.experiment import ModelConfig, SupervisedExperiment
from rljax.training.checkpoint import Checkpoints
from rljax.training.run import open_run
from rljax.training.supervised import CHANGEABLE, Learner, run_supervised
from rljax.training.writer import read_jsonl
from tests.conftest import numbers

VOCAB, ROWS, LENGTH = 11, 4, 6
BASE = SupervisedExperiment(
    model=ModelConfig(source="random:tiny-llama"),
    steps=7,
    eval_batches=2,
    eval_every=3,
    checkpoint_every=2,
    keep_checkpoints=9,
)


def draw(seed: int) -> np.ndarray:
    """Tokens that mostly count upwards."""
    rng = np.random.RandomState(seed)
    first = rng.randint(0, VOCAB, (ROWS, 1))
    return (first + np.arange(LENGTH + 1) + (rng.rand(ROWS, LENGTH + 1) < 0.1)) % VOCAB


OPTIMIZER = optax.adam(0.05)


def losses(params, tokens):
    logits = params["embed"][tokens[:, :-1]] @ params["head"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])


def init():
    keys = jax.random.split(jax.random.key(0))
    params = {
        "embed": 0.1 * jax.random.normal(keys[0], (VOCAB, 8)),
        "head": 0.1 * jax.random.normal(keys[1], (8, VOCAB)),
    }
    return {"params": params, "opt_state": OPTIMIZER.init(params)}


def update(state, tokens, key):
    def loss(params):
        noisy = params | {"head": params["head"] + 0.01 * jax.random.normal(key, (8, VOCAB))}
        return jnp.mean(losses(noisy, tokens))

    value, grads = jax.value_and_grad(loss)(state["params"])
    updates, opt_state = OPTIMIZER.update(grads, state["opt_state"])
    params = optax.apply_updates(state["params"], updates)
    metrics = {"loss": value, "tokens": jnp.asarray(tokens.size), "optim/grad_norm": value * 0}
    return {"params": params, "opt_state": opt_state}, metrics


def evaluate(state, tokens):
    values = losses(state["params"], tokens)
    return {"loss": (jnp.sum(values), jnp.asarray(values.size))}


def learner(**changes) -> Learner:
    """A bigram model with dropout-like noise, so that a wrong key would be seen."""
    made = Learner(
        init,
        update,
        evaluate,
        batch=draw,
        eval_batches=lambda: (draw(1000 + i) for i in range(5)),
        finish=lambda means: means | {"perplexity": float(np.exp(means["loss"]))},
    )
    return made._replace(**changes)


def start(directory, experiment=BASE, **changes):
    with open_run(directory, experiment, ignore=CHANGEABLE) as run:
        return run_supervised(experiment, learner(**changes), run)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole") / "run"
    return directory, start(directory)


def test_it_learns_and_writes_what_happened(whole):
    directory, state = whole
    rows = numbers(directory)
    judged = {row["step"]: row for row in rows if "eval/loss" in row}
    assert list(judged) == [0, 3, 6, 7]
    assert judged[7]["eval/loss"] < judged[0]["eval/loss"] - 0.1
    expected = np.mean([losses(state["params"], draw(1000 + i)) for i in range(2)])
    assert judged[7]["eval/loss"] == pytest.approx(expected, rel=1e-6)
    assert judged[7]["eval/perplexity"] == pytest.approx(np.exp(expected), rel=1e-6)
    steps = [row["step"] for row in rows if "train/loss" in row]
    assert steps == [1, 2, 3, 4, 5, 6, 7]
    assert {"train/tokens", "optim/grad_norm"} <= set(rows[1])
    every = read_jsonl(directory / "metrics.jsonl")
    assert every[-1]["step"] == 7 and every[1]["perf/tokens_per_s"] > 0
    counts = [row["perf/compile_count"] for row in every if "perf/compile_count" in row]
    assert counts[1] == counts[-1]
    result = json.loads((directory / "result.json").read_text())
    assert result["after"]["loss"] == judged[7]["eval/loss"]
    assert result["before"]["loss"] == judged[0]["eval/loss"]


def test_checkpoints_at_their_steps_and_at_every_new_best(whole):
    directory, state = whole
    with Checkpoints(directory / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.steps() == [2, 3, 4, 6, 7]
        assert checkpoints.best_step() == 7
        _, saved, _ = checkpoints.restore(jax.eval_shape(init))
    jax.tree.map(np.testing.assert_array_equal, saved, state)


class Killed(BaseException):
    """Stands for a kill: nothing catches it, and nothing is saved."""


def failing(at: int, how):
    def batch(step: int):
        if step == at:
            how()
        return draw(step)

    return batch


def kill():
    raise Killed


@pytest.mark.parametrize("at", [1, 4, 5])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, whole, at):
    directory = tmp_path / "run"
    with pytest.raises(Killed):
        start(directory, batch=failing(at, kill))
    state = start(directory)
    jax.tree.map(np.testing.assert_array_equal, state, whole[1])
    assert numbers(directory) == numbers(whole[0])


def test_sigterm_saves_and_the_same_command_resumes(tmp_path, whole, capsys):
    directory = tmp_path / "run"
    stop = failing(5, lambda: os.kill(os.getpid(), signal.SIGTERM))
    start(directory, batch=stop)
    assert "stopped at step 5" in capsys.readouterr().out
    with Checkpoints(directory / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.steps()[-1] == 5
    state = start(directory)
    assert f"resumed {directory} at step 5" in capsys.readouterr().out
    jax.tree.map(np.testing.assert_array_equal, state, whole[1])
    assert numbers(directory) == numbers(whole[0])
    again = start(directory)  # nothing is left to do
    jax.tree.map(np.testing.assert_array_equal, again, state)
    assert numbers(directory) == numbers(whole[0])


def test_what_never_changes_stays_out_of_checkpoints(tmp_path):
    frozen = np.arange(3.0)

    def with_frozen():
        return init() | {"teacher": jnp.asarray(frozen)}

    def keep(state, tokens, key):
        new, metrics = update(state, tokens, key)
        return new | {"teacher": state["teacher"]}, metrics

    changes = {
        "init": with_frozen,
        "update": keep,
        "saved": lambda state: state | {"teacher": ()},
        "restored": lambda part: part | {"teacher": jnp.asarray(frozen)},
    }
    with pytest.raises(Killed):
        start(tmp_path / "run", batch=failing(5, kill), **changes)
    state = start(tmp_path / "run", **changes)
    np.testing.assert_array_equal(state["teacher"], frozen)
    with Checkpoints(tmp_path / "run" / "checkpoints", read_only=True) as checkpoints:
        assert not any("teacher" in name for name in checkpoints.arrays(7))


def test_every_flag_changes_the_run(tmp_path, whole):
    changed = functools.partial(dataclasses.replace, BASE)
    start(tmp_path / "seed", changed(seed=1))
    assert numbers(tmp_path / "seed")[1] != numbers(whole[0])[1]
    start(tmp_path / "none", changed(eval_batches=0, eval_every=0, checkpoint_every=5))
    assert not any("eval/loss" in row for row in numbers(tmp_path / "none"))
    assert not (tmp_path / "none" / "result.json").exists()
    steps = sorted(int(path.name) for path in (tmp_path / "none" / "checkpoints").iterdir())
    assert steps == [5, 7]
    start(tmp_path / "all", changed(eval_batches=None, keep_checkpoints=1))
    assert numbers(tmp_path / "all")[0]["eval/loss"] != numbers(whole[0])[0]["eval/loss"]
    assert len(list((tmp_path / "all" / "checkpoints").iterdir())) == 1  # the last is the best


def test_bad_numbers_and_bad_data_stop_the_run(tmp_path):
    def broken(state, tokens, key):
        state, metrics = update(state, tokens, key)
        return state, metrics | {"loss": jnp.nan}

    with pytest.raises(UserError, match=r"train/loss is nan at step 1.*learning-rate"):
        start(tmp_path / "nan", update=broken)
    with pytest.raises(UserError, match="nothing to average"):
        start(tmp_path / "empty", eval_batches=lambda: ())


@pytest.mark.parametrize(
    "change, words",
    [
        ({"steps": 0}, "steps is 0"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0"),
        ({"keep_checkpoints": 0}, "keep_checkpoints is 0"),
        ({"eval_every": -1}, "eval_every is -1"),
        ({"eval_batches": -2}, "eval_batches is -2"),
        ({"eval_batches": 0}, "eval_every needs eval_batches"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_impossible_configs(change, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(BASE, **change).validate()
