"""Distillation: the loss against NumPy, nothing to learn of an equal, and a student that learns."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms.buckets import FILL, SLOTS
from rljax.algorithms.distillation import (
    DistillConfig,
    DistillState,
    as_packed,
    batch_kind,
    make_evaluate,
    make_loss,
    make_update,
)
from rljax.algorithms.sft import with_weights
from rljax.models.transformer import make_model
from rljax.rollout.distribution import SamplingConfig
from rljax.tasks.packing import Document, Packed, pack
from rljax.training.optimizer import OptimizerConfig, make_optimizer
from rljax.types import Completions, Prompts
from tests.conftest import noisy_params, quick_jit, tiny_config

SIZES = {"vocab_size": 13, "hidden_size": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1}
STUDENT = make_model(tiny_config(**SIZES))
TEACHER = make_model(tiny_config(**(SIZES | {"hidden_size": 24, "head_dim": 12})))
EOS, PAD = (3,), 3
BASE = DistillConfig(batch_size=4)
SAMPLING = SamplingConfig(max_new_tokens=5, temperature=1.0)


@functools.lru_cache
def teacher_params():
    return noisy_params(TEACHER, seed=1, scale=0.3)


@functools.lru_cache
def student_params():
    return noisy_params(STUDENT, seed=5, scale=0.1)


@functools.lru_cache
def batch(seed: int = 0) -> Packed:
    rng = np.random.RandomState(seed)
    documents = [
        Document([int(t) for t in rng.randint(4, 13, size)], [i >= 2 for i in range(size)])
        for size in rng.randint(4, 8, 16)
    ]
    return Packed(*(array[:4] for array in pack(documents, 12).rows))


def prompts() -> Prompts:
    tokens = jax.random.randint(jax.random.key(2), (4, 3), 4, 13)
    mask = jnp.arange(3)[None] >= (jnp.arange(4) % 2)[:, None]
    return Prompts(tokens, mask, jnp.arange(4), jnp.zeros(4, jnp.int32))


def distributions(model, params, rows) -> np.ndarray:
    apply = quick_jit(model.apply)
    logits = np.asarray(apply(params, rows.tokens, rows.segments > 0, rows.segments), np.float64)
    weights = np.exp(logits)
    return weights / weights.sum(-1, keepdims=True)


@functools.lru_cache
def loss_and_grad(config: DistillConfig, same: bool = False):
    loss = make_loss(STUDENT, STUDENT if same else TEACHER, config)
    return quick_jit(
        lambda teacher, params, rows: jax.value_and_grad(loss, argnums=1, has_aux=True)(
            teacher, params, rows
        )
    )


def measure(config: DistillConfig):
    params = {"policy": student_params()}
    return loss_and_grad(config)(teacher_params(), params, with_weights(batch()))


@pytest.mark.parametrize("kind", ["forward", "reverse"])
def test_the_loss_is_the_mean_divergence_at_targets(kind):
    rows = batch()
    p = distributions(TEACHER, teacher_params(), rows)
    q = distributions(STUDENT, student_params(), rows)
    a, b = (p, q) if kind == "forward" else (q, p)
    places = [(row, slot - 1) for row, slot in zip(*np.nonzero(rows.targets), strict=True)]
    expected = np.mean([np.sum(a[i] * np.log(a[i] / b[i])) for i in places])
    cross = np.mean([-np.log(q[row, slot][rows.tokens[row, slot + 1]]) for row, slot in places])
    agree = np.mean([p[i].argmax() == q[i].argmax() for i in places])
    (value, metrics), _ = measure(dataclasses.replace(BASE, divergence=kind))
    assert float(value) == pytest.approx(expected, rel=1e-4)
    assert float(metrics["cross_entropy"]) == pytest.approx(cross, rel=1e-4)
    assert float(metrics["agreement"]) == pytest.approx(agree, abs=1e-6)
    assert metrics["target_tokens"] == len(places)


@pytest.mark.parametrize("kind, beta", [("forward", None), ("reverse", None), ("jsd", 0.5)])
def test_nothing_is_to_be_learnt_of_an_equal(kind, beta):
    config = dataclasses.replace(BASE, divergence=kind, jsd_beta=beta)
    params = {"policy": student_params()}
    (value, metrics), grads = loss_and_grad(config, same=True)(
        student_params(), params, with_weights(batch())
    )
    assert abs(float(value)) < 1e-5
    assert float(metrics["agreement"]) == pytest.approx(1)
    assert max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(grads)) < 1e-5


def test_chunks_of_the_head_change_nothing():
    whole, chunked = measure(BASE), measure(dataclasses.replace(BASE, head_rows=9))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-6), whole, chunked)
    loss = make_loss(STUDENT, TEACHER, dataclasses.replace(BASE, head_rows=9))
    params = {"policy": student_params()}
    grad = jax.grad(loss, argnums=1, has_aux=True)
    text = str(jax.make_jaxpr(grad)(teacher_params(), params, with_weights(batch())))
    assert "f32[9,13]" in text and "f32[44,13]" not in text


def test_the_divergence_is_read():
    jsd = dataclasses.replace(BASE, divergence="jsd", jsd_beta=0.5)
    values = {
        float(measure(config)[0][0])
        for config in (
            BASE,
            dataclasses.replace(BASE, divergence="reverse"),
            jsd,
            dataclasses.replace(jsd, jsd_beta=0.1),
        )
    }
    assert len(values) == 4


def test_the_share_of_sampled_batches_is_exact():
    for share in (0.0, 0.1, 0.25, 0.5, 1 / 3, 1.0):
        kinds = [batch_kind(step, share) for step in range(60)]
        assert sum(on_policy for on_policy, _ in kinds) == round(60 * share)
        for wanted in (True, False):
            numbers = [number for on_policy, number in kinds if on_policy == wanted]
            assert numbers == list(range(len(numbers)))  # no batch is left out or seen twice


def test_samples_become_rows():
    made = Completions(
        jnp.asarray([[5, 3, 3], [6, 7, 8]]),
        jnp.asarray([[True, True, False], [True, True, True]]),
        jnp.zeros((2, 3)),
        jnp.zeros((2, 3)),
    )
    asked = Prompts(
        jnp.asarray([[3, 9], [4, 5]]),
        jnp.asarray([[False, True], [True, True]]),
        jnp.arange(2),
        jnp.zeros(2, jnp.int32),
    )
    rows = as_packed(asked, made)
    np.testing.assert_array_equal(rows.tokens, [[3, 9, 5, 3, 3], [4, 5, 6, 7, 8]])
    np.testing.assert_array_equal(rows.segments, [[0, 1, 1, 1, 0], [1, 1, 1, 1, 1]])
    np.testing.assert_array_equal(rows.targets, [[0, 0, 1, 1, 0], [0, 0, 1, 1, 1]])


@functools.lru_cache
def programs(config: DistillConfig = BASE, sampling: SamplingConfig = SAMPLING, ends=EOS):
    optimizer = make_optimizer(
        OptimizerConfig(learning_rate=0.02, schedule="constant"), num_steps=50
    )
    update = make_update(
        STUDENT, TEACHER, config, sampling, ends, PAD, optimizer, lambda step: jnp.float32(0.02)
    )

    def init(student, teacher):
        params = {"policy": student}
        return DistillState(params, optimizer.init(params), jnp.int32(0), teacher)

    state = quick_jit(init)(student_params(), teacher_params())
    return state, quick_jit(update), quick_jit(make_evaluate(STUDENT, TEACHER, config))


def held_out_loss(state) -> float:
    total, count = programs()[2](state, batch(9))["loss"]
    return float(total / count)


def test_a_student_gets_nearer_on_data():
    state, update, _ = programs()
    before = held_out_loss(state)
    for step in range(40):
        state, metrics = update(state, batch(step % 8 + 20), jax.random.key(step))
    assert metrics["on_policy"] == 0 and int(state.step) == 40
    assert held_out_loss(state) < 0.6 * before
    jax.tree.map(np.testing.assert_array_equal, state.teacher, teacher_params())


@pytest.mark.slow
def test_a_student_gets_nearer_on_its_own_samples():
    state, update, _ = programs()
    losses = []
    for step in range(150):
        state, metrics = update(state, prompts(), jax.random.key(step))
        losses.append(float(metrics["loss"]))
    assert metrics["on_policy"] == 1
    assert np.mean(losses[-8:]) < 0.6 * np.mean(losses[:8])
    assert metrics["target_tokens"] <= 4 * SAMPLING.max_new_tokens
    state, update, _ = programs()
    first, other = (update(state, prompts(), jax.random.key(k))[1]["loss"] for k in (0, 1))
    assert float(first) == losses[0] != float(other)


def test_accumulation_gives_the_same_update():
    results = []
    for parts in (1, 2):
        state, update, _ = programs(dataclasses.replace(BASE, gradient_accumulation=parts))
        state, metrics = update(state, batch(), jax.random.key(0))
        results.append((metrics, state.params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), *results)


@pytest.mark.slow
def test_short_samples_in_few_widths_give_the_same_update():
    whole = dataclasses.replace(BASE, gradient_accumulation=2)
    widths = []
    for key in range(4):
        results = []
        for number in (1, 3):
            config = dataclasses.replace(whole, length_buckets=number)
            state, update, _ = programs(config, ends=tuple(range(3, 9)))
            state, metrics = update(state, prompts(), jax.random.key(key))
            fill = {name: metrics.pop(name) for name in (FILL, SLOTS)}
            results.append((metrics, state.params))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), *results)
        widths.append(float(fill[SLOTS]))
    assert min(widths) < SAMPLING.max_new_tokens


@pytest.mark.parametrize(
    "change, words",
    [
        ({"batch_size": 0}, "distill.batch_size is 0"),
        ({"gradient_accumulation": 3}, "not a multiple of gradient_accumulation 3"),
        ({"head_rows": 0}, "distill.head_rows is 0"),
        ({"divergence": "jsd"}, "jsd needs one"),
        ({"jsd_beta": 0.5}, "the others have none"),
        ({"divergence": "jsd", "jsd_beta": 1.0}, r"must be in \(0, 1\)"),
        ({"on_policy_fraction": 1.5}, "on_policy_fraction is 1.5"),
        ({"prompt_tokens": 0}, "prompt_tokens is 0"),
        ({"length_buckets": 0}, "distill.length_buckets is 0"),
        ({"length_buckets": 2, "on_policy_fraction": 0.0}, "it shortens the student's samples"),
        ({"prompt_tokens": 4, "on_policy_fraction": 0.0}, "of which an on_policy_fraction of 0"),
    ],
)
def test_impossible_configs(change, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(BASE, **change).validate()
