"""Next-token learning: the loss against NumPy, chunks, accumulation, and that it learns."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from rljax.algorithms.learner import init_supervised
from rljax.algorithms.sft import SFTConfig, make_evaluate, make_loss, make_update, with_weights
from rljax.models.transformer import make_model
from rljax.tasks.packing import Document, Packed, pack
from rljax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from tests.conftest import noisy_params, quick_jit, tiny_config

SIZES = {"vocab_size": 17, "hidden_size": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1}
MODEL = make_model(tiny_config(**SIZES))
BASE = SFTConfig(batch_size=4, head_rows=1024)
STEPS = 60


def documents(count: int = 12, seed: int = 0) -> list[Document]:
    """A first token, then what follows it when counting up; the first two are the prompt."""
    rng = np.random.RandomState(seed)
    made = []
    for _ in range(count):
        size = rng.randint(3, 8)
        tokens = (rng.randint(0, 17) + np.arange(size)) % 17
        made.append(Document([int(t) for t in tokens], [i >= 2 for i in range(size)]))
    return made


@functools.lru_cache
def batch() -> Packed:
    return Packed(*(array[:4] for array in pack(documents(), 12).rows))


@functools.lru_cache
def params():
    return {"policy": noisy_params(MODEL, seed=3, scale=0.2)}


@functools.lru_cache
def expected() -> tuple[float, float, int]:
    """Loss, accuracy and number of targets, token by token in NumPy."""
    rows = batch()
    apply = quick_jit(MODEL.apply)
    logits = np.asarray(apply(params()["policy"], rows.tokens, rows.segments > 0, rows.segments))
    logits = logits.astype(np.float64)
    losses, hits = [], []
    for row, slot in zip(*np.nonzero(rows.targets), strict=True):
        before = logits[row, slot - 1]
        losses.append(np.log(np.exp(before).sum()) - before[rows.tokens[row, slot]])
        hits.append(before.argmax() == rows.tokens[row, slot])
    return float(np.mean(losses)), float(np.mean(hits)), len(losses)


@functools.lru_cache
def loss_and_grad(config: SFTConfig):
    loss = make_loss(MODEL, config)
    return quick_jit(lambda params, rows: jax.value_and_grad(loss, has_aux=True)(params, rows))


def test_the_loss_is_the_mean_over_target_tokens():
    (value, metrics), grads = loss_and_grad(BASE)(params(), with_weights(batch()))
    loss, accuracy, count = expected()
    assert float(value) == pytest.approx(loss, rel=1e-5)
    assert float(metrics["accuracy"]) == pytest.approx(accuracy, abs=1e-6)
    assert metrics["target_tokens"] == count < metrics["tokens"] == np.sum(batch().segments > 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_chunks_of_the_head_change_nothing():
    whole = loss_and_grad(BASE)(params(), with_weights(batch()))
    chunked = loss_and_grad(dataclasses.replace(BASE, head_rows=9))(params(), with_weights(batch()))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), whole, chunked)


def test_no_whole_logits_exist():
    config = dataclasses.replace(BASE, head_rows=9)
    loss = make_loss(MODEL, config)
    text = str(jax.make_jaxpr(jax.grad(loss, has_aux=True))(params(), with_weights(batch())))
    assert "f32[9,17]" in text
    assert "f32[44,17]" not in text and "f32[4,11,17]" not in text


def test_prompts_and_padding_give_no_gradient():
    rows = batch()
    nothing = rows._replace(targets=np.zeros_like(rows.targets))
    (value, _), grads = loss_and_grad(BASE)(params(), with_weights(nothing))
    assert value == 0
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(grads))
    junk = np.where(rows.segments > 0, rows.tokens, 5)
    (changed, _), _ = loss_and_grad(BASE)(params(), with_weights(rows._replace(tokens=junk)))
    assert float(changed) == pytest.approx(expected()[0], rel=1e-5)


@functools.lru_cache
def update(config: SFTConfig, steps: int = 4, rate: float = 0.01):
    settings = OptimizerConfig(learning_rate=rate, schedule="linear", adam_eps=1e-8)
    optimizer = make_optimizer(settings, num_steps=steps)
    schedule = make_schedule(settings, num_steps=steps)
    made = make_update(MODEL, config, optimizer, lambda step: rate * schedule(step))
    return quick_jit(made), quick_jit(lambda params: init_supervised(params, optimizer))


def test_an_update_and_its_metrics():
    run, init = update(BASE)
    state = init(params())
    state, metrics = run(state, batch(), jax.random.key(0))
    loss, accuracy, count = expected()
    assert float(metrics["loss"]) == pytest.approx(loss, rel=1e-5)
    assert float(metrics["perplexity"]) == pytest.approx(np.exp(loss), rel=1e-4)
    assert float(metrics["accuracy"]) == pytest.approx(accuracy, abs=1e-6)
    assert metrics["target_tokens"] == count and metrics["optim/grad_norm"] > 0
    assert float(metrics["optim/learning_rate"]) == pytest.approx(0.01)
    state, metrics = run(state, batch(), jax.random.key(0))
    assert float(metrics["optim/learning_rate"]) == pytest.approx(0.0075)
    assert int(state.step) == 2 and float(metrics["loss"]) < loss


def test_accumulation_gives_the_same_update():
    results = []
    for parts in (1, 2):
        run, init = update(dataclasses.replace(BASE, gradient_accumulation=parts))
        state, metrics = run(init(params()), batch(), jax.random.key(0))
        results.append((metrics, state.params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5), *results)


def test_evaluation_counts_targets():
    evaluate = quick_jit(make_evaluate(MODEL, BASE))
    _, init = update(BASE)
    result = evaluate(init(params()), batch())
    loss, accuracy, count = expected()
    assert float(result["loss"][0]) / count == pytest.approx(loss, rel=1e-5)
    assert result["accuracy"][0] / count == pytest.approx(accuracy, abs=1e-6)
    assert result["loss"][1] == result["accuracy"][1] == count


@pytest.mark.slow
def test_it_learns_to_count():
    data = pack(documents(200), 12)
    run, init = update(BASE, STEPS, 0.01)
    state = init({"policy": MODEL.init(jax.random.key(0))})
    losses = []
    for step in range(STEPS):
        state, metrics = run(state, data.batch(step, batch_size=4, seed=0), jax.random.key(step))
        losses.append(float(metrics["loss"]))
    assert losses[0] == pytest.approx(np.log(17), abs=0.3)
    held_out = pack(documents(40, seed=9), 12).batch(0, batch_size=4, seed=0)
    total, count = quick_jit(make_evaluate(MODEL, BASE))(state, held_out)["loss"]
    assert float(total / count) < 0.7


@pytest.mark.parametrize(
    "change, words",
    [
        ({"batch_size": 0}, "sft.batch_size is 0"),
        ({"gradient_accumulation": 3}, "not a multiple of gradient_accumulation 3"),
        ({"head_rows": 0}, "sft.head_rows is 0"),
    ],
)
def test_impossible_configs(change, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(BASE, **change).validate()
