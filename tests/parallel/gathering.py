"""Checks on 8 virtual devices of how parameters are gathered, run by test_gathering.py."""

from __future__ import annotations

import re
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rljax.algorithms import ppo
from rljax.algorithms.actor_critic import init_state
from rljax.algorithms.learner import init_supervised
from rljax.algorithms.sft import Packed, SFTConfig, make_update
from rljax.models.config import TransformerConfig, gpt2_config
from rljax.models.lora import LoRAConfig
from rljax.models.remat import Remat
from rljax.models.trainable import make_trainable
from rljax.models.transformer import make_model
from rljax.planning.hlo import count_work
from rljax.rollout.distribution import SamplingConfig
from rljax.training.compilation import enable_compilation_cache
from rljax.training.mesh import MeshConfig, Placement, make_layout, open_mesh
from rljax.types import Completions, Prompts, Rollout
from tests.conftest import QUICK, noisy_params, quick_jit, tiny_config
from tests.parallel.eight import close

SIZES = {"data": 1, "fsdp": 8, "tensor": 1}


def placement(config: TransformerConfig, *sizes: int) -> Placement:
    return Placement(make_layout(open_mesh(MeshConfig(*sizes)), config))


# -------------------------------------------------------------------------------------- Memory


def compiled_sft(layers: int, parts: int = 1, **options: Any) -> tuple[Any, int]:
    """Compile a supervised update of a model with random weights; return the bytes of it, too."""
    config = tiny_config(
        vocab_size=128, hidden_size=64, intermediate_size=128, num_layers=layers,
        tie_embeddings=False,
    )  # fmt: skip
    model, place = make_model(config, **options), placement(config, 1, 8, 1)
    optimizer = optax.adam(0.01)
    start = jax.eval_shape(
        lambda key: init_supervised({"policy": model.init(key)}, optimizer), jax.random.key(0)
    )
    rows = (8 * parts, 8)
    batch = Packed(*(jax.ShapeDtypeStruct(rows, kind) for kind in (jnp.int32, jnp.int32, bool)))
    # a head in two chunks: gathered for both of them at once
    sft = SFTConfig(batch_size=rows[0], gradient_accumulation=parts, head_rows=4)
    update = make_update(model, sft, optimizer, lambda step: jnp.float32(0.01))
    kept = place.outputs(lambda: start, rest=True)
    jitted = place.jit(update, donate_argnums=0, compiler_options=QUICK, **kept)
    assert place.layout is not None
    whole = place.layout.rows
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), batch)
    key = jax.eval_shape(lambda: jax.random.key(0))
    size = sum(leaf.size * 4 for leaf in jax.tree.leaves(start.params))
    return jitted.lower(place.like(start), batch, key).compile(), size


def check_memory() -> None:
    """No device holds a model's parameters or gradients; each matrix is gathered twice a pass."""
    compiled, size = compiled_sft(8)
    assert compiled.memory_analysis().temp_size_in_bytes < 0.5 * size
    text = compiled.as_text()
    matrices = 7 * 8
    # in the backward pass the head again, but not the embedding; and 3 of the batch
    assert len(re.findall(r" all-gather\(", text)) == 2 * matrices + 3 + 3
    assert len(re.findall(r" reduce-scatter\(", text)) == matrices + 2
    once = 7 / 8 * size
    sent = count_work(text, SIZES).traffic["fsdp"]
    assert 2.8 * once < sent < 3.05 * once


def check_memory_of_variants() -> None:
    """So it is in a loop over layers, with recomputed layers, and over several parts of a batch."""
    for options in (
        {"scan_layers": True},
        {"remat": "layers"},
        {"remat": "attention"},
        {"remat": "products"},
        {"parts": 2},
    ):
        compiled, size = compiled_sft(8, **options)
        temporary = compiled.memory_analysis().temp_size_in_bytes
        assert temporary < 0.75 * size, (options, temporary / size)
        once = 7 / 8 * size
        passes = options.get("parts", 1)
        sent = count_work(compiled.as_text(), SIZES).traffic["fsdp"]
        assert 2.8 * passes * once < sent < 3.05 * passes * once, (options, sent / once)


# ------------------------------------------------------------------------------------- Numbers


class Case(NamedTuple):
    """A model, what of it is trained, and how."""

    config: TransformerConfig
    sizes: tuple[int, int, int] = (1, 8, 1)
    scan: bool = False
    remat: Remat = "none"
    lora: LoRAConfig | None = None
    train_layers: int = 0
    critic: Any = "shared"
    accumulation: int = 1
    score_rows: int = 1024
    masked: bool = False


GPT2 = gpt2_config(
    vocab_size=64, hidden_size=32, num_layers=3, num_heads=4, context_length=32,
    tie_embeddings=True,
)  # fmt: skip
GEMMA = tiny_config(
    vocab_size=64, num_layers=4, post_norms=True, qk_norm=True, sliding_window=4,
    layer_windows=(True, False) * 2, logits_softcap=30.0, embedding_scale=32**0.5,
    norm_scale_offset=1.0,
)  # fmt: skip
CASES = {
    "plain": Case(tiny_config(vocab_size=64, tie_embeddings=False)),
    "gpt2": Case(GPT2, train_layers=2, accumulation=2, score_rows=4),
    "gemma": Case(GEMMA, (2, 2, 2), scan=True, lora=LoRAConfig(2, targets="(query|down)$")),
    "critic": Case(tiny_config(vocab_size=64), (1, 4, 2), remat="products", critic="separate"),
    "remat": Case(GEMMA, (2, 4, 1), scan=True, remat="layers", accumulation=2, score_rows=4),
    "masked": Case(tiny_config(vocab_size=64, tie_embeddings=False), masked=True, score_rows=4),
}


def rollout(width: int, masked: bool) -> tuple[Rollout, jax.Array]:
    """16 completions of 6 tokens with random log-probs and values, and their scores."""
    keys = jax.random.split(jax.random.key(3), 8)
    tokens = jax.random.randint(keys[0], (16, 4), 0, 64)
    prompts = Prompts(tokens, tokens > 5, jnp.arange(16), jnp.zeros(16, jnp.int32))
    mask = jnp.arange(6) < jax.random.randint(keys[1], (16, 1), 2, 7)
    floats = [jnp.where(mask, jax.random.normal(k, (16, 6)), 0) for k in keys[2:5]]
    allowed = jnp.full((16, 6), 60.0) if masked else None
    made = Completions(
        jax.random.randint(keys[5], (16, 6), 0, 64), mask, floats[0] - 4, floats[1], allowed
    )
    hidden = jax.random.normal(keys[7], (16, 6, width)) if masked else None
    return Rollout(prompts, made, floats[2] - 4, hidden), jax.random.normal(keys[6], (16,))


def check_update(name: str) -> None:
    """A PPO update of shared-out parameters is that of one device, and stays shared out."""
    case = CASES[name]
    model = make_model(case.config, remat=case.remat, scan_layers=case.scan)
    trainable = make_trainable(case.lora, case.train_layers)
    policy, base = trainable.split(noisy_params(model), jax.random.key(1))
    if case.lora is not None:
        policy = jax.tree.map(lambda leaf: leaf + 0.1, policy)
    config = ppo.PPOConfig(
        batch_size=16, num_epochs=1, num_minibatches=1, critic=case.critic,
        gradient_accumulation=case.accumulation, score_rows=case.score_rows, entropy_coef=0.01,
        mask_top_p=0.9 if case.masked else 1.0,
    )  # fmt: skip
    optimizer = optax.sgd(0.1)
    start = init_state(
        policy, case.config.hidden_size, optimizer, critic=case.critic, kl_coef=jnp.float32(0.1),
        base=None if policy is base else base, masked=case.masked,
    )  # fmt: skip
    sampling = SamplingConfig(max_new_tokens=6)
    update = ppo.make_update(model, config, sampling, (), optimizer, trainable.compose)
    rows, key = rollout(case.config.hidden_size, case.masked), jax.random.key(0)
    expected, metrics = quick_jit(update)(start, *rows, key)
    place = placement(case.config, *case.sizes)
    kept = place.outputs(lambda: start, rest=True)
    compiled = place.jit(update, compiler_options=QUICK, **kept)
    shared = place.put(start)
    found, numbers = compiled(shared, *place.rows(rows), key)
    close(numbers, metrics, 1e-4)
    close(found, expected, 1e-4)
    moved = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), expected.params, start.params)
    assert max(jax.tree.leaves(moved)) > 1e-3


if __name__ == "__main__":
    assert len(jax.devices()) == 8
    enable_compilation_cache()
    checks = {"memory": check_memory, "variants": check_memory_of_variants}
    for name in sys.argv[1:]:
        checks[name]() if name in checks else check_update(name)
    print("ok")
