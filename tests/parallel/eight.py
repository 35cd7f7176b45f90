"""Checks on 8 virtual devices, run by test_eight.py in a process that has them."""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rljax.algorithms import dpo
from rljax.algorithms.buckets import FILL, SLOTS
from rljax.algorithms.learner import init_supervised
from rljax.algorithms.sft import Packed, SFTConfig, make_loss, make_update, with_weights
from rljax.models.transformer import make_model
from rljax.parallel import over_rows
from rljax.rollout.buckets import Buckets, map_by_length
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.sampler import make_sampler
from rljax.rollout.scoring import make_score
from rljax.tasks.preference_batches import PreferenceBatch, flat_rows
from rljax.training.compilation import enable_compilation_cache
from rljax.training.mesh import MeshConfig, Placement, make_layout, open_mesh
from rljax.types import Completions, Prompts
from tests.conftest import QUICK, noisy_params, quick_jit, tiny_config

CONFIG = tiny_config(vocab_size=64, hidden_size=16, num_layers=1, intermediate_size=32)
MODEL = make_model(CONFIG)
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.01))


def placement(*sizes: int) -> Placement:
    return Placement(make_layout(open_mesh(MeshConfig(*sizes)), CONFIG))


def packed() -> Packed:
    """8 rows with one document each, so that every row has as many targets."""
    tokens = jax.random.randint(jax.random.key(1), (8, 12), 0, 64)
    targets = jnp.ones((8, 12), bool).at[:, 0].set(False)
    return Packed(tokens, jnp.ones((8, 12), jnp.int32), targets)


def close(found: Any, expected: Any, tolerance: float = 2e-5) -> None:
    """Compare pytrees; jax.tree.map also compares their structure."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance
        ),
        found,
        expected,
    )


def pmapped_update(state: Any, batch: Packed) -> tuple[Any, Any]:
    """Compute the same update as one would with `jax.pmap`: gradients of a device's rows, pmean."""
    loss = make_loss(MODEL, SFTConfig())

    def one_device(params: Any, opt_state: Any, rows: Packed) -> Any:
        grads, metrics = jax.grad(loss, has_aux=True)(params, with_weights(rows))
        grads, mean = jax.lax.pmean((grads, metrics["loss"]), "devices")
        updates, opt_state = OPTIMIZER.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), mean

    split = jax.tree.map(lambda x: x.reshape(8, 1, *x.shape[1:]), batch)
    mapped = jax.pmap(one_device, "devices", in_axes=(None, None, 0))
    params, mean = mapped(state.params, state.opt_state, split)
    return jax.tree.map(lambda x: x[0], params), mean[0]


def check_update() -> None:
    """The update on three meshes is that of one device, and that of pmap; state stays shared."""
    params = {"policy": noisy_params(MODEL)}
    batch, key = packed(), jax.random.key(0)
    update = make_update(MODEL, SFTConfig(), OPTIMIZER, lambda step: jnp.float32(0.01))
    start = init_supervised(params, OPTIMIZER)
    expected, metrics = quick_jit(update)(start, batch, key)
    for sizes in ((8, 1, 1), (1, 8, 1), (2, 2, 2)):
        place = placement(*sizes)
        kept = place.outputs(lambda: start, rest=True)
        compiled = place.jit(update, compiler_options=QUICK, **kept)
        shared = place.put(start)
        found, numbers = compiled(shared, place.rows(batch), key)
        close(numbers, metrics)
        close(found, expected, 1e-4)
        assert jax.tree.map(lambda x: x.sharding, found) == jax.tree.map(
            lambda x: x.sharding, shared
        )
        ways = sizes[1] * sizes[2]
        for tree in (found.params, found.opt_state[1][0].mu):
            kernel = tree["policy"]["layers"]["0"]["attention"]["query"]["kernel"]
            sizes_held = {shard.data.nbytes for shard in kernel.addressable_shards}
            assert sizes_held == {kernel.nbytes // ways}
    pmapped, mean = pmapped_update(start, batch)
    close(mean, metrics["loss"])
    close(pmapped, expected.params, 1e-4)


def check_sampler() -> None:
    """Completions are those of one device; no device waits for another one's sequences."""
    params = noisy_params(MODEL)
    sample = make_sampler(MODEL, SamplingConfig(max_new_tokens=6), (3, 5, 9, 11), 0)
    tokens = jax.random.randint(jax.random.key(2), (16, 4), 12, 64)
    prompts = Prompts(tokens, tokens > 0, jnp.arange(16), jnp.zeros(16, jnp.int32))
    key = jax.random.key(7)
    expected = quick_jit(lambda p, rows, key: sample(p, None, rows, key))(params, prompts, key)
    assert len(set(np.sum(expected.mask, axis=1).tolist())) > 1
    for sizes in ((8, 1, 1), (2, 2, 2)):
        place = placement(*sizes)

        def mapped(params: Any, prompts: Prompts, key: jax.Array) -> Any:
            return over_rows(lambda p, rows, key: sample(p, None, rows, key))(params, prompts, key)

        compiled = place.jit(mapped, compiler_options=QUICK)
        arguments = (place.put(params), place.rows(prompts), key)
        made = compiled(*arguments)
        np.testing.assert_array_equal(made.tokens, expected.tokens)
        np.testing.assert_array_equal(made.mask, expected.mask)
        close(made.log_probs, expected.log_probs)
        if sizes == (8, 1, 1):
            program = compiled.lower(*arguments).compile().as_text()
            assert not any(f"all-{kind}" in program for kind in ("reduce", "gather", "to-all"))


def check_buckets() -> None:
    """Rows of all lengths in widths: each device has its own, all take one, nothing changes."""
    policy, key = noisy_params(MODEL), jax.random.key(0)
    tokens = jax.random.randint(jax.random.key(3), (16, 2, 8), 0, 64)
    lengths = jnp.arange(32).reshape(16, 2) % 8 + 1
    asked = jnp.ones((16, 4), jnp.int32)
    zeros, ones = jnp.zeros((16, 2)), jnp.ones((16, 2), bool)
    mask = jnp.arange(8) < lengths[..., None]
    values = jnp.tile(jnp.array([1.0, 0.0]), (16, 1))
    batch = PreferenceBatch(
        asked, asked > 0, tokens, mask, values, ones, zeros[:, 0], zeros, jnp.ones(16) / 16
    )
    start = init_supervised({"policy": policy}, OPTIMIZER)

    def update(number: int) -> Any:
        config = dpo.DPOConfig(batch_size=16, gradient_accumulation=2, length_buckets=number)
        return dpo.make_update(MODEL, config, OPTIMIZER, lambda step: jnp.float32(0.01))

    prompts, made = jax.tree.map(jnp.asarray, flat_rows(batch))
    score = make_score(MODEL, SamplingConfig(temperature=1.0), ())

    def log_probs(params: Any, text: Any, number: int) -> Any:
        def some(prompts: Prompts, made: Completions) -> jax.Array:
            return score(params, prompts, made, group=2).log_probs

        return map_by_length(some, *text, text[1].mask, Buckets(number, 2), 2)

    expected, metrics = quick_jit(update(1))(start, batch, key)
    scored = quick_jit(lambda p, text: log_probs(p, text, 1))(policy, (prompts, made))
    for sizes in ((1, 8, 1), (2, 2, 2)):
        place = placement(*sizes)
        kept = place.outputs(lambda: start, rest=True)
        compiled = place.jit(update(4), compiler_options=QUICK, **kept)
        found, numbers = compiled(place.put(start), place.rows(batch), key)
        assert numbers[FILL] > metrics[FILL]
        same = {k: v for k, v in numbers.items() if k not in (FILL, SLOTS)}
        close(same, {name: metrics[name] for name in same})
        close(found, expected, 1e-4)
        several = place.jit(
            lambda p, text: over_rows(lambda p, text: log_probs(p, text, 4))(p, text),
            compiler_options=QUICK,
        )
        close(several(place.put(policy), place.rows((prompts, made))), scored)


if __name__ == "__main__":
    assert len(jax.devices()) == 8
    enable_compilation_cache()
    checks = {"update": check_update, "sampler": check_sampler, "buckets": check_buckets}
    checks[sys.argv[1]]()
    print("ok")
