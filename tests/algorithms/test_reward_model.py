"""Reward models: scores against a loop, every loss and flag, normalisation, and learning."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms.buckets import FILL, SLOTS
from rljax.algorithms.learner import init_supervised
from rljax.algorithms.reward_model import (
    HEAD,
    RewardModelConfig,
    batch_scores,
    make_evaluate,
    make_normalise,
    make_update,
)
from rljax.models.heads import init_reward_head
from rljax.models.transformer import make_model
from rljax.preference_losses import (
    all_pairs_loss,
    bradley_terry_loss,
    classification_loss,
    plackett_luce_loss,
    regression_loss,
)
from rljax.tasks.preference_batches import PreferenceBatch, flat_rows
from rljax.training.optimizer import OptimizerConfig, make_optimizer
from tests.conftest import noisy_params, quick_jit, tiny_config

SIZES = {"vocab_size": 17, "hidden_size": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1}
MODEL = make_model(tiny_config(**SIZES))
BASE = RewardModelConfig(batch_size=4)
OPTIMIZER = make_optimizer(OptimizerConfig(learning_rate=0.01, schedule="constant"), num_steps=100)


@functools.lru_cache
def params():
    head = init_reward_head(jax.random.key(5), 16)
    head["bias"] = jnp.array([0.3])
    return {"policy": noisy_params(MODEL, seed=3, scale=0.2), HEAD: head}


@functools.lru_cache
def batch() -> PreferenceBatch:
    """4 rankings of up to 3 completions, with padding on both sides."""
    rng = np.random.RandomState(0)
    lengths = np.array([[6, 2, 4], [3, 6, 1], [1, 4, 2], [5, 5, 3]])
    return PreferenceBatch(
        prompt_tokens=rng.randint(0, 17, (4, 5)).astype(np.int32),
        prompt_mask=np.arange(5)[None] >= np.array([0, 3, 1, 4])[:, None],
        tokens=rng.randint(0, 17, (4, 3, 6)).astype(np.int32),
        mask=np.arange(6) < lengths[..., None],
        values=np.array([[1, 0, 0.5], [0, 1, 2], [1, 0, 0], [0, 3, 1]], np.float32),
        valid=np.array([[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 1, 1]], bool),
        margins=np.array([0.5, 1.0, 2.0, 0.0], np.float32),
        ref_log_probs=np.full((4, 3), np.nan, np.float32),
        weights=np.full(4, 0.25, np.float32),
    )


def some(count: int) -> PreferenceBatch:
    """The first `count` completions of each record."""
    rows = batch()
    names = ("tokens", "mask", "values", "valid", "ref_log_probs")
    return rows._replace(**{name: getattr(rows, name)[:, :count] for name in names})


@functools.lru_cache
def scores() -> np.ndarray:
    """Scores of all completions, one sequence without padding at a time."""
    rows, forward = batch(), quick_jit(MODEL.hidden)
    found = np.zeros((4, 3), np.float32)
    for i, k in np.ndindex(4, 3):
        prompt = rows.prompt_tokens[i][rows.prompt_mask[i]]
        whole = np.concatenate([prompt, rows.tokens[i, k][rows.mask[i, k]]])
        padded = np.zeros(11, np.int32)
        padded[: len(whole)] = whole
        real = np.arange(11)[None] < len(whole)
        state = forward(params()["policy"], padded[None], real)[0, len(whole) - 1]
        found[i, k] = state @ params()[HEAD]["kernel"][0] + 0.3
    return found


@functools.lru_cache
def initial():
    return quick_jit(lambda p: init_supervised(p, OPTIMIZER))(params())


@functools.lru_cache
def program(config: RewardModelConfig):
    return quick_jit(make_update(MODEL, config, OPTIMIZER, lambda step: jnp.float32(0.01)))


@functools.lru_cache
def judged(config: RewardModelConfig):
    return quick_jit(make_evaluate(MODEL, config))


def test_scores_are_those_of_a_loop():
    found = quick_jit(functools.partial(batch_scores, MODEL))(params(), batch())
    np.testing.assert_allclose(found, scores(), rtol=1e-4, atol=1e-5)


def expected() -> dict[RewardModelConfig, tuple[int, np.ndarray, np.ndarray]]:
    """Config -> completions a record, losses, accuracies."""
    s, rows = jnp.asarray(scores()), batch()
    change = functools.partial(dataclasses.replace, BASE)
    pair = np.asarray(s[:, 0] > s[:, 1]) == (rows.values[:, 0] > rows.values[:, 1])
    better = (rows.values[:, :, None] > rows.values[:, None]) & rows.valid[:, None]
    better &= rows.valid[:, :, None]
    order = (better & np.asarray(s[:, :, None] > s[:, None])).sum((1, 2)) / better.sum((1, 2))
    sign = np.asarray(s[:, 0] > 0) == (rows.values[:, 0] > 0)
    plain = {"normalise_samples": 0}
    return {
        BASE: (2, bradley_terry_loss(s[:, 0], s[:, 1]), pair),
        change(label_smoothing=0.2): (
            2, bradley_terry_loss(s[:, 0], s[:, 1], label_smoothing=0.2), pair,
        ),
        change(margin_scale=0.5): (
            2, bradley_terry_loss(s[:, 0], s[:, 1], margins=0.5 * rows.margins), pair,
        ),
        change(loss="all_pairs"): (3, all_pairs_loss(s, rows.values, rows.valid), order),
        change(loss="all_pairs", label_smoothing=0.2): (
            3, all_pairs_loss(s, rows.values, rows.valid, label_smoothing=0.2), order,
        ),
        change(loss="plackett_luce"): (3, plackett_luce_loss(s, rows.values, rows.valid), order),
        change(loss="regression", **plain): (
            1, regression_loss(s[:, 0], rows.values[:, 0]), np.abs(s[:, 0] - rows.values[:, 0]),
        ),
        change(loss="classification", **plain): (
            1, classification_loss(s[:, 0], rows.values[:, 0]), sign,
        ),
        change(loss="classification", label_smoothing=0.2, **plain): (
            1, classification_loss(s[:, 0], rows.values[:, 0], label_smoothing=0.2), sign,
        ),
    }  # fmt: skip


@functools.lru_cache
def cases():
    return {str(i): pair for i, pair in enumerate(expected().items())}


@pytest.mark.parametrize("case", [str(i) for i in range(9)])
def test_every_loss_reads_the_right_scores(case):
    config, (count, losses, accuracy) = cases()[case]
    rows = some(count)
    if config.loss == "pairwise":  # the first of a pair is the better one
        rows = rows._replace(values=np.tile(np.float32([1, 0]), (4, 1)))
        accuracy = scores()[:, 0] > scores()[:, 1]
    found = judged(config)(initial(), rows._replace(weights=np.ones(4, np.float32)))
    name = "absolute_error" if config.loss == "regression" else "accuracy"
    (loss, records), (right, _) = found.pop("loss"), found.pop(name)
    assert records == 4 and not found
    np.testing.assert_allclose(loss / 4, np.mean(losses), rtol=2e-4)
    np.testing.assert_allclose(right / 4, np.mean(accuracy), rtol=2e-4)


def test_an_update_and_its_metrics():
    state, metrics = program(BASE)(initial(), some(2), jax.random.key(0))
    chosen, rejected = scores()[:, :2].T
    losses = bradley_terry_loss(jnp.asarray(chosen), jnp.asarray(rejected))
    np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-4)
    np.testing.assert_allclose(metrics["scores/margin"], np.mean(chosen - rejected), rtol=1e-3)
    np.testing.assert_allclose(metrics["scores/chosen"], np.mean(chosen), rtol=1e-3)
    assert metrics["optim/grad_norm"] > 0 and int(state.step) == 1
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), state.params, params())
    assert moved[HEAD]["kernel"] and any(jax.tree.leaves(moved["policy"]))
    assert not moved[HEAD]["bias"]  # differences of scores do not see it


def test_parts_add_up():
    split = program(dataclasses.replace(BASE, gradient_accumulation=2))
    whole, metrics = program(BASE)(initial(), some(2), jax.random.key(0))
    parts, split_metrics = split(initial(), some(2), jax.random.key(0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), whole, parts)
    for name, value in metrics.items():
        np.testing.assert_allclose(split_metrics[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_short_widths_change_no_number():
    rows = some(2)._replace(mask=some(2).mask & (np.arange(6) < [[[2]], [[6]], [[1]], [[6]]]))
    config = dataclasses.replace(BASE, gradient_accumulation=2, length_buckets=3)
    whole, metrics = program(BASE)(initial(), rows, jax.random.key(0))
    short, other = program(config)(initial(), rows, jax.random.key(0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), whole, short)
    for name in metrics.keys() - {FILL, SLOTS}:
        np.testing.assert_allclose(other[name], metrics[name], rtol=1e-3, atol=1e-5, err_msg=name)
    assert other[FILL] > metrics[FILL]


def test_padding_and_missing_completions_do_not_reach_the_loss():
    rows = batch()
    config = dataclasses.replace(BASE, loss="all_pairs")
    junk = rows._replace(
        tokens=np.where(rows.mask & rows.valid[..., None], rows.tokens, 7),
        prompt_tokens=np.where(rows.prompt_mask, rows.prompt_tokens, 9),
    )
    results = [judged(config)(initial(), r) for r in (rows, junk)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), *results)


def test_normalised_scores_have_mean_0_and_deviation_1():
    prompts, completions = flat_rows(batch())
    made = quick_jit(make_normalise(MODEL, prompts, completions, rows=5))(params())
    found = quick_jit(functools.partial(batch_scores, MODEL))(made.params, batch())
    np.testing.assert_allclose(np.mean(found), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(found), 1, rtol=1e-4)
    np.testing.assert_allclose(found, made.gain * scores() + made.shift, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(made.gain, 1 / scores().std(), rtol=1e-3)


def taste(count: int, seed: int) -> PreferenceBatch:
    """Completions with more of the prompt's last token are better: values are how many."""
    rng = np.random.RandomState(seed)
    prompts = rng.randint(0, 17, (count, 3)).astype(np.int32)
    tokens = rng.randint(0, 17, (count, 3, 4)).astype(np.int32)
    copies = np.stack([rng.permutation(3) for _ in range(count)])  # 0, 1, 2 in some order
    put = np.arange(4) < 2 * copies[..., None]
    tokens = np.where(put, prompts[:, None, -1:], tokens).astype(np.int32)
    return PreferenceBatch(
        prompts, np.ones((count, 3), bool), tokens, np.ones((count, 3, 4), bool),
        copies.astype(np.float32), np.ones((count, 3), bool), np.zeros(count, np.float32),
        np.full((count, 3), np.nan, np.float32), np.full(count, 1 / count, np.float32),
    )  # fmt: skip


@functools.lru_cache
def learned(loss: str) -> float:
    """Held-out share of pairs in the right order after 60 steps on 16 fresh rankings each."""
    config = dataclasses.replace(BASE, loss=loss, batch_size=16)
    state = initial()
    for step in range(60):
        state, _ = program(config)(state, taste(16, step + 1), jax.random.key(step))
    held_out = taste(16, 0)._replace(weights=np.ones(16, np.float32))
    before = judged(config)(initial(), held_out)["accuracy"]
    after = judged(config)(state, held_out)["accuracy"]
    assert before[0] / before[1] < 0.7
    return float(after[0] / after[1])


@pytest.mark.parametrize("loss", ["all_pairs", "plackett_luce"])
def test_it_learns_a_ranking_and_generalises(loss):
    assert learned(loss) > 0.85


CASES = "test_every_loss_reads_the_right_scores"
READ = {
    "loss": CASES,
    "label_smoothing": CASES,
    "margin_scale": CASES,
    "batch_size": "tests/experiments/test_preferences.py",
    "gradient_accumulation": "must not change the update: test_parts_add_up",
    "length_buckets": "must not change the update: test_short_widths_change_no_number",
    "normalise_samples": "tests/experiments/test_preferences.py",
    "normalise_temperature": "tests/experiments/test_preferences.py",
}


def test_no_field_is_forgotten():
    assert set(READ) == {field.name for field in dataclasses.fields(RewardModelConfig)}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"batch_size": 0}, "reward_model.batch_size is 0"),
        ({"gradient_accumulation": 3}, "not a multiple of gradient_accumulation 3"),
        ({"label_smoothing": 0.5}, r"in \[0, 0.5\)"),
        ({"loss": "plackett_luce", "label_smoothing": 0.1}, "'plackett_luce' does not read it"),
        ({"loss": "all_pairs", "margin_scale": 1.0}, "only with loss 'pairwise'"),
        ({"normalise_samples": 1}, "0 or at least 2"),
        ({"normalise_samples": -2}, "0 or at least 2"),
        ({"loss": "regression"}, "scores of loss 'regression' have a scale of their own"),
        ({"normalise_samples": 0, "normalise_temperature": 0.5}, "needs normalise_samples"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(BASE, **changes).validate()
