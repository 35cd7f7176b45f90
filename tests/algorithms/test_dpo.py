"""DPO and its relatives: log-probs against a loop, every loss and flag, parts, and learning."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.algorithms.buckets import FILL, SLOTS
from rljax.algorithms.dpo import (
    DPOConfig,
    make_evaluate,
    make_preference_score,
    make_update,
    sequence_log_probs,
)
from rljax.algorithms.learner import init_supervised
from rljax.models.transformer import make_model
from rljax.preference_losses import (
    dpo_loss,
    hinge_loss,
    ipo_loss,
    kto_loss,
    orpo_loss,
    robust_dpo_loss,
    simpo_loss,
)
from rljax.tasks.preference_batches import PreferenceBatch
from rljax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from tests.conftest import noisy_params, quick_jit, tiny_config

SIZES = {"vocab_size": 17, "hidden_size": 16, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1}
MODEL = make_model(tiny_config(**SIZES))
BASE = DPOConfig(batch_size=4, beta=0.4)
KTO = dataclasses.replace(BASE, loss="kto")
RATE = 0.01


@functools.lru_cache
def policy():
    return noisy_params(MODEL, seed=3, scale=0.2)


@functools.lru_cache
def batch() -> PreferenceBatch:
    """4 records of 2 completions with padding on both sides, and log-probs of a reference."""
    rng = np.random.RandomState(0)
    prompt_mask = np.arange(5)[None] >= np.array([0, 3, 1, 4])[:, None]
    lengths = np.array([[6, 2], [3, 6], [1, 4], [5, 5]])
    mask = np.arange(6) < lengths[..., None]
    rows = PreferenceBatch(
        prompt_tokens=rng.randint(0, 17, (4, 5)).astype(np.int32),
        prompt_mask=prompt_mask,
        tokens=rng.randint(0, 17, (4, 2, 6)).astype(np.int32),
        mask=mask,
        values=np.array([[1, 0], [0, 0], [1, 0], [1, 0]], np.float32),
        valid=np.ones((4, 2), bool),
        margins=np.array([0.5, 1.0, 2.0, 0.0], np.float32),
        ref_log_probs=np.full((4, 2), np.nan, np.float32),
        weights=np.full(4, 0.25, np.float32),
    )
    near = by_loop(rows) + rng.normal(0.3, 1.0, (4, 2))
    return rows._replace(ref_log_probs=near.astype(np.float32))


@functools.lru_cache
def forward():
    return quick_jit(MODEL.apply)


def by_loop(rows: PreferenceBatch, params=None) -> np.ndarray:
    """Log-probs of the completions, one sequence without padding at a time."""
    found = np.zeros(rows.tokens.shape[:2])
    for i, k in np.ndindex(found.shape):
        prompt = rows.prompt_tokens[i][rows.prompt_mask[i]]
        completion = rows.tokens[i, k][rows.mask[i, k]]
        whole = np.concatenate([prompt, completion])
        padded = np.zeros(11, np.int32)
        padded[: len(whole)] = whole
        logits = forward()(params or policy(), padded[None], np.arange(11)[None] < len(whole))[0]
        log_probs = np.asarray(jax.nn.log_softmax(logits))
        places = np.arange(len(prompt), len(whole))
        found[i, k] = log_probs[places - 1, whole[places]].sum()
    return found


@functools.lru_cache
def optimizer():
    return make_optimizer(OptimizerConfig(learning_rate=RATE, schedule="constant"), num_steps=100)


@functools.lru_cache
def initial():
    return quick_jit(lambda params: init_supervised({"policy": params}, optimizer()))(policy())


@functools.lru_cache
def program(config: DPOConfig):
    schedule = make_schedule(OptimizerConfig(schedule="constant"), num_steps=100)
    return quick_jit(make_update(MODEL, config, optimizer(), lambda s: RATE * schedule(s)))


@functools.lru_cache
def updated(config: DPOConfig):
    return program(config)(initial(), batch(), jax.random.key(0))


def differ(a, b) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return any(np.max(np.abs(np.asarray(x) - np.asarray(y))) > 1e-6 for x, y in pairs)


@functools.lru_cache
def log_probs() -> np.ndarray:
    return by_loop(batch())


def test_sequence_log_probs_are_those_of_a_loop():
    score = make_preference_score(MODEL, rows=10)  # several chunks
    found = quick_jit(lambda p, b: sequence_log_probs(score, p, b))(policy(), batch())
    np.testing.assert_allclose(found, log_probs(), rtol=1e-4)


def expected_losses() -> dict[DPOConfig, np.ndarray]:
    rows, found = batch(), log_probs()
    ratio = found - rows.ref_log_probs
    lengths = rows.mask.sum(axis=2)
    mean, mean_ratio = found / lengths, ratio / lengths
    a, b = ratio.T
    change = functools.partial(dataclasses.replace, BASE)
    smooth = {"beta": 0.4, "label_smoothing": 0.2}
    point = max(0.0, float(np.mean(b)))
    labels = rows.values[:, 0] > 0
    kto = {"beta": 0.4, "desirable_weight": 1.5, "undesirable_weight": 0.5}
    return {
        BASE: dpo_loss(a, b, beta=0.4),
        change(label_smoothing=0.2): dpo_loss(a, b, **smooth),
        change(margin_scale=0.5): dpo_loss(a, b, beta=0.4, margins=0.5 * rows.margins),
        change(log_probs="mean"): dpo_loss(*mean_ratio.T, beta=0.4),
        change(loss="robust", label_smoothing=0.2): robust_dpo_loss(a, b, **smooth),
        change(loss="ipo"): ipo_loss(*mean_ratio.T, beta=0.4),
        change(loss="ipo", log_probs="sum"): ipo_loss(a, b, beta=0.4),
        change(loss="hinge"): hinge_loss(a, b, beta=0.4),
        change(loss="orpo"): orpo_loss(*map(jnp.asarray, mean.T), beta=0.4),
        change(loss="simpo"): simpo_loss(*mean.T, beta=0.4, gamma=0.2),
        change(loss="simpo", target_margin=1.0): simpo_loss(*mean.T, beta=0.4, gamma=1.0),
        change(loss="kto", desirable_weight=1.5, undesirable_weight=0.5): kto_loss(
            a, labels, point, **kto
        ),
    }


@functools.lru_cache
def cases():
    return {str(i): pair for i, pair in enumerate(expected_losses().items())}


@functools.lru_cache
def judged(config: DPOConfig):
    return quick_jit(make_evaluate(MODEL, config))


@pytest.mark.parametrize("case", [str(i) for i in range(12)])
def test_every_loss_reads_the_right_log_probs(case):
    config, expected = cases()[case]
    total, count = judged(config)(initial(), batch())["loss"]
    np.testing.assert_allclose(total / count, np.mean(expected), rtol=2e-4)


def test_the_update_has_the_loss_of_the_evaluation():
    for config in (BASE, KTO):
        total, count = judged(config)(initial(), batch())["loss"]
        np.testing.assert_allclose(updated(config)[1]["loss"], total / count, rtol=1e-5)


def test_metrics_of_pairs():
    _, metrics = updated(BASE)
    ratio = log_probs() - batch().ref_log_probs
    np.testing.assert_allclose(metrics["rewards/chosen"], 0.4 * ratio[:, 0].mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["rewards/rejected"], 0.4 * ratio[:, 1].mean(), rtol=1e-4)
    margin = 0.4 * (ratio[:, 0] - ratio[:, 1])
    np.testing.assert_allclose(metrics["rewards/margin"], margin.mean(), rtol=1e-3)
    np.testing.assert_allclose(metrics["rewards/accuracy"], np.mean(margin > 0))
    np.testing.assert_allclose(metrics["log_probs/chosen"], log_probs()[:, 0].mean(), rtol=1e-4)
    assert metrics["tokens"] == batch().mask.sum()
    np.testing.assert_allclose(metrics["optim/learning_rate"], RATE)


def test_metrics_of_labels():
    _, metrics = updated(KTO)
    own, other = (log_probs() - batch().ref_log_probs).T
    good = batch().values[:, 0] > 0
    point = max(0.0, other.mean())
    np.testing.assert_allclose(metrics["kto/baseline"], point, atol=1e-5)
    np.testing.assert_allclose(metrics["rewards/chosen"], 0.4 * own[good].mean(), rtol=1e-3)
    np.testing.assert_allclose(metrics["rewards/rejected"], 0.4 * own[~good].mean(), rtol=1e-3)
    np.testing.assert_allclose(metrics["rewards/accuracy"], np.mean((own > point) == good))


def test_kto_does_not_learn_from_the_other_prompts_completions():
    """Where the baseline is 0 anyway, nothing of them reaches the update."""
    ratio = log_probs() - batch().ref_log_probs
    low = batch()._replace(ref_log_probs=(log_probs() - np.abs(ratio) * [1, -1]).astype(np.float32))
    other = low._replace(ref_log_probs=low.ref_log_probs + np.array([0, 5], np.float32))
    first, metrics = program(KTO)(initial(), low, jax.random.key(0))
    second, _ = program(KTO)(initial(), other, jax.random.key(0))
    assert metrics["kto/baseline"] == 0
    assert not differ(first.params, second.params)


@pytest.mark.parametrize(
    "config, expected", [(BASE, np.log(2)), (KTO, 0.5)], ids=["sigmoid", "kto"]
)
def test_a_policy_that_is_its_reference_starts_at_the_known_loss(config, expected):
    rows = batch()._replace(ref_log_probs=log_probs().astype(np.float32))
    _, metrics = program(config)(initial(), rows, jax.random.key(0))
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-4)
    np.testing.assert_allclose(metrics["rewards/margin"], 0, atol=1e-4)


@pytest.mark.parametrize("loss", ["orpo", "simpo"])
def test_no_reference_is_read_where_there_is_none(loss):
    rows = batch()._replace(ref_log_probs=np.full((4, 2), np.nan, np.float32))
    config = dataclasses.replace(BASE, loss=loss)
    assert not config.needs_reference
    state, metrics = program(config)(initial(), rows, jax.random.key(0))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state, metrics)))
    same, _ = updated(config)
    assert not differ(state.params, same.params)


@pytest.mark.parametrize("config", [BASE, KTO], ids=["sigmoid", "kto"])
def test_parts_add_up(config):
    whole, metrics = updated(config)
    parts, split_metrics = updated(dataclasses.replace(config, gradient_accumulation=2))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    for name, value in metrics.items():
        np.testing.assert_allclose(split_metrics[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("config", [BASE, KTO], ids=["sigmoid", "kto"])
def test_short_widths_change_no_number(config):
    rows = batch()._replace(mask=batch().mask & (np.arange(6) < [[[2]], [[6]], [[1]], [[6]]]))
    cut = dataclasses.replace(config, gradient_accumulation=2, length_buckets=3)
    (whole, metrics), (short, other) = (
        program(made)(initial(), rows, jax.random.key(0)) for made in (config, cut)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), whole, short)
    for name in metrics.keys() - {FILL, SLOTS}:
        np.testing.assert_allclose(other[name], metrics[name], rtol=1e-3, atol=1e-5, err_msg=name)
    assert other[FILL] > metrics[FILL]


def test_padding_never_reaches_the_update():
    rows = batch()
    junk = rows._replace(
        tokens=np.where(rows.mask, rows.tokens, 7),
        prompt_tokens=np.where(rows.prompt_mask, rows.prompt_tokens, 9),
    )
    state, _ = program(BASE)(initial(), junk, jax.random.key(0))
    assert not differ(state.params, updated(BASE)[0].params)


# Fields that the cases above do not show to be read.
CHANGES = {
    "beta": (BASE, 0.1),
    "desirable_weight": (KTO, 3.0),
    "undesirable_weight": (KTO, 3.0),
}
ELSEWHERE = {
    "loss": "test_every_loss_reads_the_right_log_probs",
    "label_smoothing": "test_every_loss_reads_the_right_log_probs",
    "target_margin": "test_every_loss_reads_the_right_log_probs",
    "margin_scale": "test_every_loss_reads_the_right_log_probs",
    "log_probs": "test_every_loss_reads_the_right_log_probs",
    "batch_size": "tests/experiments/test_preferences.py",
    "gradient_accumulation": "must not change the update: test_parts_add_up",
    "length_buckets": "must not change the update: test_short_widths_change_no_number",
    "score_rows": "must not change the update: test_sequence_log_probs_are_those_of_a_loop",
}


def test_no_field_is_forgotten():
    fields = {field.name for field in dataclasses.fields(DPOConfig)}
    assert fields == set(CHANGES) | set(ELSEWHERE)


@pytest.mark.parametrize("name", CHANGES)
def test_flag_is_read(name):
    config, value = CHANGES[name]
    changed = dataclasses.replace(config, **{name: value})
    assert differ(updated(config)[0].params, updated(changed)[0].params)


@pytest.mark.parametrize("config", [BASE, KTO], ids=["sigmoid", "kto"])
def test_evaluation_counts_records_with_a_weight(config):
    evaluate = judged(config)
    whole = evaluate(initial(), batch()._replace(weights=np.ones(4, np.float32)))
    _, metrics = updated(config)
    for name, (total, count) in whole.items():
        np.testing.assert_allclose(total / count, metrics[name], rtol=1e-3, err_msg=name)
    some = np.array([1, 1, 0, 0], np.float32)
    part = evaluate(initial(), batch()._replace(weights=some))
    assert part["loss"][1] == 2
    tampered = batch()._replace(
        weights=some, tokens=np.where(some[:, None, None] > 0, batch().tokens, 2)
    )
    again = evaluate(initial(), tampered)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), part, again)


def taste(count: int, seed: int, kto: bool = False) -> PreferenceBatch:
    """Completions that repeat the prompt's last token are preferred to random ones."""
    rng = np.random.RandomState(seed)
    prompts = rng.randint(0, 17, (count, 3)).astype(np.int32)
    good = np.repeat(prompts[:, -1:], 4, axis=1)
    bad = rng.randint(0, 17, (count, 4)).astype(np.int32)
    values = np.tile(np.float32([1, 0]), (count, 1))
    tokens = np.stack([good, bad], axis=1)
    if kto:
        desirable = np.arange(count) % 2 == 0
        own = np.where(desirable[:, None], good, bad)
        tokens = np.stack([own, np.roll(own, 1, axis=0)], axis=1)
        values = np.stack([desirable, np.zeros(count)], axis=1).astype(np.float32)
    return PreferenceBatch(
        prompts, np.ones((count, 3), bool), tokens, np.ones((count, 2, 4), bool), values,
        np.ones((count, 2), bool), np.zeros(count, np.float32),
        np.full((count, 2), np.nan, np.float32), np.full(count, 1 / count, np.float32),
    )  # fmt: skip


@functools.lru_cache
def learned(config: DPOConfig, swapped: bool) -> tuple[float, float]:
    """Held-out accuracy before and after 40 steps on 16 fresh records each."""
    kto = config.loss == "kto"
    reference = quick_jit(lambda p, b: sequence_log_probs(make_preference_score(MODEL, 1024), p, b))
    rows = [taste(16, seed, kto) for seed in range(41)]
    rows = [r._replace(ref_log_probs=np.asarray(reference(policy(), r))) for r in rows]
    train = rows[1:]
    if swapped:
        train = [
            r._replace(tokens=r.tokens[:, ::-1], ref_log_probs=r.ref_log_probs[:, ::-1])
            for r in train
        ]
    evaluate = judged(config)
    held_out = rows[0]._replace(weights=np.ones(16, np.float32))
    state = initial()
    accuracy = []
    for index in range(41):
        if index in (0, 40):
            total, count = evaluate(state, held_out)["rewards/accuracy"]
            accuracy.append(float(total / count))
        if index < 40:
            state, _ = program(config)(state, train[index], jax.random.key(index))
    return accuracy[0], accuracy[1]


LEARN = dataclasses.replace(BASE, batch_size=16)


@pytest.mark.parametrize("loss", ["sigmoid", "kto", "simpo"])
def test_it_learns_a_preference_and_generalises(loss):
    config = dataclasses.replace(LEARN, loss=loss, beta=2.0 if loss == "simpo" else 0.4)
    _, after = learned(config, swapped=False)
    assert after > 0.85


def test_swapped_labels_fail_the_same_threshold():
    _, after = learned(LEARN, swapped=True)
    assert after < 0.3


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"batch_size": 0}, "dpo.batch_size is 0"),
        ({"gradient_accumulation": 3}, "not a multiple of gradient_accumulation 3"),
        ({"beta": 0.0}, "dpo.beta is 0.0; it must be positive"),
        ({"label_smoothing": 0.5}, r"in \[0, 0.5\)"),
        ({"loss": "robust"}, r"in \(0, 0.5\) with loss robust"),
        ({"loss": "ipo", "label_smoothing": 0.1}, "'ipo' does not read it"),
        ({"loss": "kto", "margin_scale": 0.1}, "'kto' does not read it; sigmoid does"),
        ({"target_margin": 1.0}, "'sigmoid' does not read it; simpo does"),
        ({"desirable_weight": 2.0}, "'sigmoid' does not read it; kto does"),
        ({"loss": "orpo", "log_probs": "sum"}, "'method' or 'mean' with loss orpo"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(BASE, **changes).validate()
