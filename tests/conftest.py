"""Shared fixtures: small models of every kind that tests need, made once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from rljax.models.config import TransformerConfig
from rljax.models.transformer import Model, make_model
from rljax.training.compilation import enable_compilation_cache
from rljax.training.writer import read_jsonl

# Tests run many programs once, on tiny arrays: XLA's time to optimise them is all of their time.
QUICK: dict[str, int | bool] = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
if jax.__version_info__ < (0, 12):  # later ones know no other way than the emitters
    QUICK["xla_cpu_use_fusion_emitters"] = False


@pytest.fixture(scope="session", autouse=True)
def compiled_programs():
    """Keep compiled programs for the next session, in the user's cache or RLJAX_CACHE_DIR."""
    enable_compilation_cache()


@pytest.fixture(scope="module", autouse=True)
def few_memory_maps():
    """Forget compiled programs before there are too many: a process of the whole suite crashed.

    Each has memory maps of its own, and Linux gives a process 65,530 (vm.max_map_count).
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > 20_000:
        jax.clear_caches()


def quick_jit(function: Callable) -> Any:
    """Compile a program in about a fifth of the time that `jax.jit` takes; it then runs slower."""
    return jax.jit(function, compiler_options=QUICK)


def tiny_config(**changes) -> TransformerConfig:
    sizes = {
        "vocab_size": 61,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 8,
        "intermediate_size": 64,
        "context_length": 64,
    }
    return TransformerConfig(**(sizes | changes))


def numbers(directory: Path) -> list[dict[str, Any]]:
    """Read what a run has measured, but for times and rates, which describe the process."""
    rows = read_jsonl(directory / "metrics.jsonl")
    return [{k: v for k, v in r.items() if not k.startswith(("time/", "perf/"))} for r in rows]


@functools.lru_cache
def _noisy(config: TransformerConfig, scale: float) -> Any:
    def make(key: jax.Array, noise_key: jax.Array):
        leaves, tree = jax.tree.flatten(make_model(config).init(key))
        keys = jax.random.split(noise_key, len(leaves))
        noisy = [
            leaf + scale * jax.random.normal(k, leaf.shape)
            for leaf, k in zip(leaves, keys, strict=True)
        ]
        return jax.tree.unflatten(tree, noisy)

    return quick_jit(make)


def noisy_params(model: Model, seed: int = 0, scale: float = 0.1):
    """Random parameters far from their start, so that no bias, norm or mask goes unnoticed."""
    return _noisy(model.config, scale)(jax.random.key(seed), jax.random.key(seed + 1))


@pytest.fixture(scope="session")
def tiny():
    model = make_model(tiny_config())
    return model, noisy_params(model)


@pytest.fixture
def left_padded():
    """Tokens [3, 9] with 0, 2 and 5 padding slots on the left."""
    tokens = jax.random.randint(jax.random.key(5), (3, 9), 0, 61)
    return tokens, jnp.arange(9)[None] >= jnp.array([0, 2, 5])[:, None]
