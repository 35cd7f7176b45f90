"""Measure a model here: prefill, sampling, scoring and one PPO update.

    python experiments/benchmark.py
    python experiments/benchmark.py --model random:tiny-gpt2 --batch 64 --prompt 16 --new 48

Sampling is at temperature 1 and never stops early. Times are medians after one warm-up call, which
compiles; rates are compared with a matrix product measured in the same process.
"""

from __future__ import annotations

import dataclasses
import json
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import tyro

from rljax.algorithms.actor_critic import init_state
from rljax.algorithms.ppo import PPOConfig, make_update
from rljax.errors import UserError
from rljax.models import load_pretrained
from rljax.models.flops import forward_flops
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.sampler import make_sampler
from rljax.rollout.scoring import make_score
from rljax.training.flags import plain_errors
from rljax.training.optimizer import OptimizerConfig, make_optimizer
from rljax.training.throughput import matmul_rate
from rljax.types import Prompts, Rollout


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Measure prefill, sampling, scoring and a PPO update."""

    model: str = "smollm2-135m-instruct"
    """A Hugging Face directory or hub id, a .gguf file, or a short name."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What parameters are stored and computed in."""
    batch: int = 16
    """Sequences."""
    prompt: int = 32
    """Prompt tokens."""
    new: int = 64
    """Completion tokens."""
    repeats: int = 5
    """Timed calls of each part."""
    json: str | None = None
    """Also write the numbers to this file."""


def timed(call: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Return the seconds of the first call and the median of those after it."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - start)
    return seconds[0], statistics.median(seconds[1:])


def measure(flags: Benchmark) -> dict[str, Any]:
    """Time every part; the update donates its state, as training does."""
    pretrained = load_pretrained(flags.model, dtype=flags.dtype)
    model, config = pretrained.model, pretrained.model.config
    slots = flags.prompt + flags.new
    if slots > config.context_length:
        raise UserError(f"prompt + new is {slots}; the context is {config.context_length}")
    sampling = SamplingConfig(max_new_tokens=flags.new, temperature=1.0)
    ppo = PPOConfig(batch_size=flags.batch, num_epochs=1)
    optimizer = make_optimizer(OptimizerConfig(), num_steps=100)
    sample = jax.jit(make_sampler(model, sampling, (), 0))
    score_fn = make_score(model, sampling, ())
    score = jax.jit(lambda *a: score_fn(*a).log_probs)
    update = jax.jit(make_update(model, ppo, sampling, (), optimizer), donate_argnums=0)
    prefill = jax.jit(lambda p, t: model.prefill(p, t, jnp.ones(t.shape, bool), slots))
    state = init_state(
        pretrained.params, config.hidden_size, optimizer, critic="shared", kl_coef=jnp.float32(0.1)
    )
    key = jax.random.key(0)
    tokens = jax.random.randint(key, (flags.batch, flags.prompt), 0, config.vocab_size)
    rows = jnp.arange(flags.batch)
    prompts = Prompts(tokens, jnp.ones(tokens.shape, bool), rows, jnp.zeros_like(rows))
    policy = state.params["policy"]
    results: dict[str, dict[str, float]] = {}
    peak = matmul_rate(jnp.dtype(flags.dtype))
    count = flags.batch * slots
    forward = forward_flops(config, count, attended=slots / 2, head_tokens=flags.batch * flags.new)
    start = forward_flops(
        config, flags.batch * flags.prompt, attended=flags.prompt / 2, head_tokens=0
    )

    def add(name: str, call: Callable[[], Any], produced: int, flops: float) -> None:
        first, median = timed(call, flags.repeats)
        results[name] = {
            "first_s": first,
            "median_s": median,
            "tokens_per_s": produced / median,
            "share_of_matmul": flops / median / peak,
        }

    add("prefill", lambda: prefill(policy, tokens), flags.batch * flags.prompt, start)
    head = state.params["value_head"]
    made = sample(policy, head, prompts, key)
    add("generate", lambda: sample(policy, head, prompts, key), flags.batch * flags.new, forward)
    add("score", lambda: score(policy, prompts, made), count, forward)
    rollout = Rollout(prompts, made, score(policy, prompts, made))
    scores = jnp.linspace(-1.0, 1.0, flags.batch)
    holder = [state]

    def learn() -> Any:
        holder[0], report = update(holder[0], rollout, scores, key)
        return report

    add("update", learn, count, 3 * forward)
    memory = jax.local_devices()[0].memory_stats() or {}
    return {
        "flags": dataclasses.asdict(flags),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "matmul_gflops": peak / 1e9,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "peak_device_mb": memory.get("peak_bytes_in_use", 0) / 2**20,
        "results": results,
    }


def main(argv: list[str] | None = None) -> None:
    flags = tyro.cli(Benchmark, args=argv, description=__doc__)
    with plain_errors():
        if min(flags.batch, flags.prompt, flags.new, flags.repeats) < 1:
            raise UserError("batch, prompt, new and repeats must be at least 1")
        numbers = measure(flags)
    print(f"{'part':<10}{'first s':>10}{'median s':>10}{'tokens/s':>12}{'of matmul':>11}")
    for name, row in numbers["results"].items():
        print(
            f"{name:<10}{row['first_s']:>10.2f}{row['median_s']:>10.3f}"
            f"{row['tokens_per_s']:>12.1f}{row['share_of_matmul']:>10.0%}"
        )
    print(
        f"matrix product {numbers['matmul_gflops']:.0f} GFLOP/s; peak memory "
        f"{numbers['peak_rss_mb']:.0f} MB host, {numbers['peak_device_mb']:.0f} MB device"
    )
    if flags.json:
        Path(flags.json).write_text(json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
