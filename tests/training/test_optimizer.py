"""The optimizer: Adam's two forms, groups, decay, schedules; every field changes the update."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rljax.training.optimizer import (
    OptimizerConfig,
    clip_by_global_norm,
    make_optimizer,
    make_schedule,
)

PLAIN = OptimizerConfig(learning_rate=1.0, schedule="constant", max_grad_norm=None)


def tree(seed=0):
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return {
        "policy": {
            "embed": {"embedding": normal(5, 3)},
            "mlp": {"kernel": normal(3, 3), "bias": normal(3)},
            "norm": {"scale": normal(3)},
        },
        "value_head": {"kernel": normal(1, 3), "bias": normal(1)},
    }


def run(config, steps=3, **options):
    """Return the updates of the last of several steps with fixed gradients."""
    optimizer = make_optimizer(config, **{"num_steps": 10} | options)
    params = tree()
    state = optimizer.init(params)
    for step in range(steps):
        updates, state = optimizer.update(tree(step + 1), state, params)
        params = optax.apply_updates(params, updates)
    return updates


def tiny_gradient_updates(form, count):
    optimizer = make_optimizer(dataclasses.replace(PLAIN, adam_form=form), num_steps=10)
    params = {"w": jnp.zeros(1)}
    state, out = optimizer.init(params), []
    for _ in range(count):
        updates, state = optimizer.update({"w": jnp.full(1, 1e-6)}, state, params)
        out.append(-float(updates["w"][0]))
    return out


def test_adam_forms_goldens():
    # g = 1e-6, eps = 1e-5: torch's form moves 29 times as far in the first update.
    np.testing.assert_allclose(
        tiny_gradient_updates("tf", 3), [0.00315, 0.00445, 0.00545], atol=1e-5
    )
    np.testing.assert_allclose(tiny_gradient_updates("torch", 3), [0.0909] * 3, rtol=1e-3)


def test_tf_form_equals_its_formula_and_torch_form_with_a_growing_eps():
    rng = np.random.default_rng(0)
    optimizer = make_optimizer(
        dataclasses.replace(PLAIN, adam_form="tf", adam_eps=1e-3), num_steps=10
    )
    params = {"w": jnp.zeros(4)}
    state = optimizer.init(params)
    m = v = np.zeros(4)
    for t in range(1, 6):
        g = rng.normal(size=4).astype(np.float32) * 1e-2
        updates, state = optimizer.update({"w": jnp.asarray(g)}, state, params)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        m_hat, v_hat = m / (1 - 0.9**t), v / (1 - 0.999**t)
        expected = m_hat / (np.sqrt(v_hat) + 1e-3 / np.sqrt(1 - 0.999**t))
        np.testing.assert_allclose(-updates["w"], expected, rtol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0.5},
        {"critic_learning_rate": 0.5},
        {"schedule": "linear"},
        {"schedule": "cosine"},
        {"warmup_steps": 5},
        {"adam_form": "tf"},
        {"adam_b1": 0.5},
        {"adam_b2": 0.9},
        {"adam_eps": 0.1},
        {"weight_decay": 0.1},
        {"max_grad_norm": 0.01},
    ],
)
def test_every_field_changes_the_update(change):
    config = dataclasses.replace(PLAIN, **change)
    before, after = run(PLAIN), run(config)
    assert any(
        not np.allclose(a, b) for a, b in zip(*map(jax.tree.leaves, (before, after)), strict=True)
    )


@pytest.mark.parametrize("form", ["tf", "torch"])
def test_a_program_may_overwrite_the_first_state(form):
    """The state that `init` makes, outside any program, holds no array twice."""
    optimizer = make_optimizer(OptimizerConfig(adam_form=form), num_steps=2)
    params = {"policy": {"kernel": jnp.ones((2, 3))}}
    update = jax.jit(optimizer.update, donate_argnums=1)
    _, state = update(params, optimizer.init(params), params)
    update(params, state, params)


def test_final_fraction_is_read():
    falling = dataclasses.replace(PLAIN, schedule="linear")
    floor = dataclasses.replace(falling, final_fraction=0.5)
    assert make_schedule(falling, num_steps=10)(9) < make_schedule(floor, num_steps=10)(9)


def test_critic_has_its_own_rate_and_the_same_adam():
    both = run(PLAIN)
    split = run(dataclasses.replace(PLAIN, critic_learning_rate=0.25))
    np.testing.assert_allclose(split["policy"]["mlp"]["kernel"], both["policy"]["mlp"]["kernel"])
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(
            split["value_head"][name], 0.25 * both["value_head"][name], rtol=1e-6
        )


def test_only_kernels_decay():
    plain = run(PLAIN, steps=1)
    decayed = run(dataclasses.replace(PLAIN, weight_decay=0.1), steps=1)
    params = tree()
    difference = jax.tree.map(lambda a, b: a - b, decayed, plain)
    policy = difference["policy"]
    np.testing.assert_allclose(
        policy["mlp"]["kernel"], -0.1 * params["policy"]["mlp"]["kernel"], atol=1e-6
    )
    for leaf in (policy["embed"]["embedding"], policy["mlp"]["bias"], policy["norm"]["scale"]):
        np.testing.assert_array_equal(leaf, jnp.zeros_like(leaf))


def test_schedules():
    linear = dataclasses.replace(PLAIN, schedule="linear", warmup_steps=2)
    schedule = make_schedule(linear, num_steps=6)
    np.testing.assert_allclose([schedule(s) for s in range(7)], [0.5, 1, 1, 0.75, 0.5, 0.25, 0])
    cosine = make_schedule(
        dataclasses.replace(PLAIN, schedule="cosine", final_fraction=0.2), num_steps=4
    )
    np.testing.assert_allclose([cosine(0), cosine(2), cosine(4)], [1, 0.6, 0.2], rtol=1e-6)
    held = make_schedule(
        dataclasses.replace(PLAIN, schedule="linear"), num_steps=2, updates_per_step=4
    )
    np.testing.assert_allclose([held(s) for s in range(8)], [1] * 4 + [0.5] * 4)


def test_warmup_must_be_shorter_than_training():
    with pytest.raises(ValueError, match="warmup_steps 10"):
        make_optimizer(dataclasses.replace(PLAIN, warmup_steps=10), num_steps=10)
    with pytest.raises(ValueError, match="positive"):
        make_optimizer(PLAIN, num_steps=0)


@pytest.mark.parametrize(
    "bad",
    [
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"critic_learning_rate": -1.0},
        {"adam_eps": 0.0},
        {"adam_b1": 1.0},
        {"adam_b2": -0.1},
        {"warmup_steps": -1},
        {"weight_decay": -0.1},
        {"final_fraction": 1.5},
        {"max_grad_norm": 0.0},
        {"schedule": "step"},
        {"adam_form": "jax"},
    ],
)
def test_bad_values_raise_and_name_the_field(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        OptimizerConfig(**bad)


@pytest.mark.parametrize("limit", [0.5, 5.0, 100.0])
def test_the_norm_is_clipped_as_by_optax(limit):
    grads = {"a": jnp.array([3.0, -4.0]), "b": jnp.full((2, 3), 2.0, jnp.float32)}
    ours, _ = clip_by_global_norm(limit).update(grads, optax.EmptyState())
    theirs, _ = optax.clip_by_global_norm(limit).update(grads, optax.EmptyState())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs)


def test_clipping_holds_no_second_copy_of_the_gradients():
    """Adam's moments read them twice; only what they are made into may be alive beside them."""
    params = {str(i): jnp.ones((256, 256)) for i in range(8)}
    optimizer = make_optimizer(OptimizerConfig(max_grad_norm=1.0), num_steps=2)

    def step(params, state, x):
        grads = jax.grad(lambda p: sum(jnp.sum(jnp.tanh(x @ w)) for w in p.values()))(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    arguments = (params, optimizer.init(params), jnp.ones((4, 256)))
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*arguments).compile()
    gradients = 8 * 256 * 256 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < 1.5 * gradients
