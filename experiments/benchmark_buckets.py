"""Measure --*.length-buckets here: scoring and one PPO update, in few widths and in the whole one.

    python experiments/benchmark_buckets.py
    python experiments/benchmark_buckets.py --model shape:tiny-gpt2 --batch 64 --prompt 16 --new 48

Random weights; lengths are geometric with mean new / 4, cut off at new. Three ways, measured in
turn, round after round, so that a busy machine slows all of them:

whole    the whole width, a minibatch at once
parts    the whole width, in parts (gradient accumulation)
buckets  the same parts, of similar lengths, each in the smallest width that holds it
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tyro

from rljax.algorithms.actor_critic import init_state
from rljax.algorithms.buckets import FILL
from rljax.algorithms.checks import require_positive
from rljax.algorithms.ppo import PPOConfig, make_update
from rljax.models import make_model
from rljax.models.architectures import find_architecture
from rljax.reporting.files import write_json
from rljax.rollout.buckets import map_by_length
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.scoring import make_score
from rljax.training.compilation import enable_compilation_cache
from rljax.training.flags import plain_errors, validate
from rljax.training.optimizer import OptimizerConfig, make_optimizer
from rljax.types import Completions, Prompts, Rollout, TrainState


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Measure scoring and update in few widths."""

    model: str = "shape:smollm2-135m"
    """A shape (shape:smollm2-135m, shape:gpt2, shape:tiny-gpt2) or a config.json."""
    scan_layers: bool = False
    """Compile one layer and loop over it, instead of all layers."""
    batch: int = 16
    """Completions."""
    prompt: int = 32
    """Prompt tokens."""
    new: int = 64
    """Completion slots."""
    group: int = 1
    """Completions of one prompt, which is computed once for all of them."""
    accumulation: int = 4
    """Parts that the minibatch is computed in."""
    buckets: int = 3
    """Widths that a part chooses from."""
    repeats: int = 5
    """Timed rounds."""
    cache: bool = True
    """Load programs that were compiled before; compile times are then those of loading."""
    json: str | None = None
    """Also write the numbers to this file."""

    def validate(self) -> None:
        """Raise ValueError for sizes that mean nothing."""
        require_positive(self, ("batch", "prompt", "repeats"))
        if self.new <= 4:
            raise ValueError(f"new is {self.new}; it must be above 4: the mean length is a quarter")
        for config in self.ways().values():
            config.validate()
            config.buckets.require_slots(self.new)

    def ways(self) -> dict[str, PPOConfig]:
        """Return the configs that are compared, by name."""
        whole = PPOConfig(batch_size=self.batch, samples_per_prompt=self.group, num_epochs=1)
        parts = dataclasses.replace(whole, gradient_accumulation=self.accumulation)
        short = dataclasses.replace(parts, length_buckets=self.buckets)
        return {"whole": whole, "parts": parts, "buckets": short}


def make_batch(flags: Benchmark, vocabulary: int) -> tuple[Prompts, Completions]:
    """Draw prompts and completions of geometric lengths."""
    keys = jax.random.split(jax.random.key(0), 3)
    rows = jnp.arange(flags.batch)
    tokens = jax.random.randint(keys[0], (flags.batch, flags.prompt), 0, vocabulary)
    tokens = tokens[rows // flags.group * flags.group]
    samples = rows % flags.group
    prompts = Prompts(tokens, jnp.ones(tokens.shape, bool), rows - samples, samples)
    written = jax.random.randint(keys[1], (flags.batch, flags.new), 0, vocabulary)
    lengths = jnp.minimum(jax.random.geometric(keys[2], 4 / flags.new, (flags.batch,)), flags.new)
    zeros = jnp.zeros(written.shape)
    return prompts, Completions(written, jnp.arange(flags.new) < lengths[:, None], zeros, zeros)


def build(function: Any, *arguments: Any) -> tuple[Any, float]:
    """Compile a jitted function for its arguments: the program, and the seconds that took."""
    start = time.perf_counter()
    return function.lower(*arguments).compile(), time.perf_counter() - start


def measure(flags: Benchmark) -> dict[str, dict[str, Any]]:
    """Time scoring and update of every way, in turn."""
    model = make_model(find_architecture(flags.model), scan_layers=flags.scan_layers)
    params = jax.jit(model.init, static_argnums=1)(jax.random.key(0), jnp.float32)
    prompts, made = make_batch(flags, model.config.vocab_size)
    sampling = SamplingConfig(max_new_tokens=flags.new, temperature=1.0)
    optimizer = make_optimizer(OptimizerConfig(), num_steps=100, updates_per_step=1)
    score = make_score(model, sampling, ())
    scores, key = jnp.linspace(-1.0, 1.0, flags.batch), jax.random.key(0)

    def log_probs(config: PPOConfig, params: Any, prompts: Prompts, made: Completions) -> Any:
        def some(prompts: Prompts, made: Completions) -> jax.Array:
            return score(params, prompts, made, group=flags.group).log_probs

        return map_by_length(some, prompts, made, made.mask, config.buckets, flags.group)

    own = jax.tree.map(jnp.copy, params)  # updates use the state up
    hidden, kl_coef = model.config.hidden_size, jnp.float32(0.1)
    state: TrainState = init_state(own, hidden, optimizer, critic="shared", kl_coef=kl_coef)
    rows: dict[str, dict[str, Any]] = {}
    programs: dict[str, Any] = {}
    for name, config in flags.ways().items():
        scoring, first = build(jax.jit(functools.partial(log_probs, config)), params, prompts, made)
        found = scoring(params, prompts, made)
        rollout = Rollout(prompts, made._replace(log_probs=found), found)
        update = make_update(model, config, sampling, (), optimizer)
        learn, second = build(jax.jit(update, donate_argnums=0), state, rollout, scores, key)
        memory = learn.memory_analysis()
        rows[name] = {
            "compile_s": first + second,
            "temporary_mb": None if memory is None else memory.temp_size_in_bytes / 2**20,
            "seconds": [],
        }
        programs[name] = (scoring, learn, rollout)
    for turn in range(flags.repeats + 1):
        for name, (scoring, learn, rollout) in programs.items():
            start = time.perf_counter()
            state, metrics = learn(state, rollout, scores, key)
            jax.block_until_ready((metrics, scoring(params, prompts, made)))
            seconds = time.perf_counter() - start
            rows[name]["fill"] = metrics[FILL]
            if turn:
                rows[name]["seconds"].append(seconds)
    for row in rows.values():
        ratios = [a / b for a, b in zip(rows["whole"]["seconds"], row["seconds"], strict=True)]
        row |= {"fill": float(row["fill"]), "median_s": statistics.median(row["seconds"])}
        row |= {"faster": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
    return rows


def main(argv: list[str] | None = None) -> None:
    flags = tyro.cli(Benchmark, args=argv, description=__doc__)
    with plain_errors():
        validate(flags)
        if flags.cache:
            enable_compilation_cache()
        rows = measure(flags)
        print(f"{'way':<9}{'compile s':>11}{'temp MB':>9}{'fill':>7}{'median s':>10}{'faster':>20}")
        for name, row in rows.items():
            memory = "?" if row["temporary_mb"] is None else f"{row['temporary_mb']:.0f}"
            faster = f"{row['faster']:.2f} ({row['least']:.2f} - {row['most']:.2f})"
            print(
                f"{name:<9}{row['compile_s']:>11.1f}{memory:>9}{row['fill']:>7.1%}"
                f"{row['median_s']:>10.3f}{faster:>20}"
            )
        if flags.json is not None:
            write_json(Path(flags.json), {"flags": dataclasses.asdict(flags), "ways": rows})


if __name__ == "__main__":
    main()
