"""Measure a model here: prefill, sampling, scoring and one PPO update.

    python experiments/benchmark.py
    python experiments/benchmark.py --model shape:tiny-gpt2 --batch 64 --prompt 16 --new 48
    python experiments/benchmark.py --model my-model/config.json --parts decode --json numbers.json
    python experiments/benchmark.py --model shape:tiny-gpt2 --batch 256 --slots 64 --parts decode
    python experiments/benchmark.py --preset gpu
    python experiments/benchmark.py --preset gpu --model shape:tiny-llama --batch 8 --new 8

The parts are the functions that training runs, compiled and with the state donated. `decode` is a
whole generation, prefill included, at temperature 1, in which no sequence ends early; its tokens
are the new ones. Tokens of `score` and `update` are prompt and completion. Times are medians after
a warm-up call; FLOP/s are the model's own (recomputation is not counted), as a share of what a
matrix product reaches in the same process. What decoding has to read, weights once a token and the
keys and values, is given as a share of what a copy moves, in the time that prefill leaves of it.

--preset gpu is Llama 3.2 1B's shape in bfloat16 with float32 masters, cuDNN's attention, batch 64;
other flags change it. To try it without a GPU, give a smaller shape.

With --slots, the batch is also sampled with ends: every token of a random model ends its completion
with probability 4 / new, so that lengths are geometric with mean new / 4 (real weights end where
they will). It is written all at once, in batches of as many rows as slots, which need as much
memory as these, and through the slots, in turn.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import tyro

from rljax import compiler
from rljax.algorithms.actor_critic import init_state
from rljax.algorithms.checks import require_positive
from rljax.algorithms.ppo import PPOConfig, make_update
from rljax.errors import UserError
from rljax.models import Model, TransformerConfig, make_model
from rljax.models.architectures import SHAPE_PREFIX, find_architecture
from rljax.models.flops import decode_bytes, forward_flops, prompt_flops
from rljax.models.fused_attention import AttentionKind
from rljax.models.remat import Remat
from rljax.parallel import over_rows
from rljax.reporting.benchmarks import print_table
from rljax.reporting.files import write_json
from rljax.rollout.continuous import make_continuous_sampler
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.sampler import make_sampler
from rljax.rollout.scoring import make_score
from rljax.training.compilation import CompileCounter, enable_compilation_cache
from rljax.training.flags import plain_errors, validate
from rljax.training.mesh import MeshConfig, Placement, make_layout, open_mesh
from rljax.training.optimizer import OptimizerConfig, make_optimizer
from rljax.training.policies import load_model
from rljax.training.throughput import compare_slots, copy_rate, matmul_rate, peak_memory
from rljax.types import Completions, Prompts, Rollout

Part = Literal["prefill", "decode", "score", "update"]


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Measure prefill, sampling, scoring and a PPO update."""

    preset: Literal["gpu"] | None = None
    """Other defaults: those for one GPU."""
    model: str = "shape:smollm2-135m"
    """Random weights of a shape: shape:smollm2-135m, shape:gpt2, shape:llama-3.2-1b,
    shape:tiny-gpt2, shape:tiny-llama, or the config.json of a Hugging Face model; or a model with
    its weights, as in the other scripts."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What is computed in; parameters are float32, as in training."""
    attention: AttentionKind = "einsum"
    """Of whole sequences; fused: cuDNN's kernel on an NVIDIA GPU in bfloat16, else XLA's."""
    remat: Remat = "none"
    """What the backward pass of the update computes again: attention, products or layers."""
    scan_layers: bool = False
    """Compile one layer and loop over it, instead of all layers."""
    batch: int = 16
    """Sequences."""
    prompt: int = 32
    """Prompt tokens."""
    new: int = 64
    """Completion tokens."""
    group: int = 1
    """Sequences of one prompt, which sampling, scoring and update compute once for all of them."""
    minibatches: int = 1
    """Optimizer updates in the one epoch of an update."""
    accumulation: int = 1
    """Parts that a minibatch is computed in."""
    devices: int = 1
    """Devices that `decode` shares its rows out over, as --mesh.data does; a CPU counts as one for
    each of its cores. The other parts run on the first one."""
    slots: int | None = None
    """Compare sampling through so many slots, which divide the batch, with plain batches, on
    completions that end."""
    parts: tuple[Part, ...] = ("prefill", "decode", "score", "update")
    """What is measured."""
    repeats: int = 5
    """Timed calls of each part."""
    cache: bool = True
    """Load programs that were compiled before; the table marks their first calls."""
    json: str | None = None
    """Also write the numbers to this file."""

    def validate(self) -> None:
        """Raise ValueError for sizes that mean nothing."""
        counts = ("batch", "prompt", "new", "group", "repeats", "minibatches", "accumulation")
        require_positive(self, (*counts, "devices"))
        MeshConfig(data=self.devices).check_rows(self.batch, "batch")
        if self.batch % (self.minibatches * self.accumulation):
            raise ValueError("batch must be a multiple of minibatches x accumulation")
        if self.slots is not None:
            SamplingConfig(slots=self.slots).validate()
            SamplingConfig(slots=self.slots).require_queue(self.batch)
            if self.batch % self.slots or self.slots % self.group:
                raise ValueError(
                    f"slots {self.slots} must divide batch {self.batch} and be a multiple of group "
                    f"{self.group}: they are compared with batches of as many rows"
                )
            if self.new <= 4:
                raise ValueError(f"slots need completions that end: new is {self.new}, not above 4")
        if self.batch % self.group:
            raise ValueError("batch must be a multiple of group")
        if self.preset != "gpu" or self.model != PRESETS["gpu"]["model"]:
            return
        platform = jax.default_backend()
        if platform != "gpu":
            raise ValueError(
                f"preset gpu measures {self.model} on a GPU, and JAX found none here (it would run "
                f"on: {platform}). Install JAX for the GPU (pip install 'jax[cuda12]'), or try the "
                "preset out with a smaller one: --model shape:tiny-llama --batch 8 --prompt 8 "
                "--new 8"
            )


PRESETS: dict[str, dict[str, Any]] = {
    "gpu": {
        "model": "shape:llama-3.2-1b",
        "dtype": "bfloat16",
        "attention": "fused",
        "batch": 64,
        "prompt": 256,
        "new": 256,
        "accumulation": 8,
    },
}
"""Name -> values in place of the defaults."""


def parse(argv: list[str] | None) -> Benchmark:
    """Read the flags, over the values of a preset where one is named."""
    flags = tyro.cli(Benchmark, args=argv, description=__doc__)
    if flags.preset is None:
        return flags
    default = Benchmark(preset=flags.preset, **PRESETS[flags.preset])
    return tyro.cli(Benchmark, args=argv, description=__doc__, default=default)


def load(flags: Benchmark) -> tuple[Model, Any]:
    """Return the model and its parameters."""
    options: dict[str, Any] = {
        name: getattr(flags, name) for name in ("dtype", "remat", "scan_layers", "attention")
    }
    if not flags.model.startswith(SHAPE_PREFIX) and not flags.model.endswith(".json"):
        pretrained = load_model(flags.model)
        return make_model(pretrained.model.config, **options), pretrained.params
    model = make_model(find_architecture(flags.model), **options)
    return model, compiler.jit(model.init)(jax.random.key(0))


def build(function: Any, arguments: tuple[Any, ...]) -> tuple[Any, dict[str, Any]]:
    """Compile a jitted function for its arguments: the program, and what that cost."""
    with CompileCounter() as counter:
        start = time.perf_counter()
        program = function.lower(*arguments).compile()
        seconds = time.perf_counter() - start
    memory = program.memory_analysis()
    return program, {
        "compile_s": seconds,
        "from_cache": counter.cache_hits > 0,
        "temporary_mb": None if memory is None else memory.temp_size_in_bytes / 2**20,
    }


def timed(call: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Time a call: the first, and the median, least and most of `repeats` after it."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - start)
    first, rest = seconds[0], seconds[1:]
    spread = {"median_s": statistics.median(rest), "min_s": min(rest), "max_s": max(rest)}
    return {"first_call_s": first, **spread}


def part_work(flags: Benchmark, config: TransformerConfig) -> dict[str, tuple[int, float]]:
    """Count the tokens and the model's FLOPs of each part."""
    batch, prompt, new = flags.batch, flags.prompt, flags.new
    prompts = batch // flags.group
    # Every token sees itself and those before it; the last one is never an input.
    prefill = prompt_flops(config, prompts, prompt, head_tokens=prompts)
    read = prompt_flops(config, prompts, prompt)
    written = forward_flops(
        config, batch * (new - 1), attended=prompt + new / 2, head_tokens=batch * new
    )
    whole = read + written
    return {
        "prefill": (prompts * prompt, prefill),
        "decode": (batch * new, whole),
        "score": (batch * (prompt + new), whole),
        "update": (batch * (prompt + new), 3 * whole),
    }


class Parts:
    """The measured functions, compiled by need, and the batch that they are measured on."""

    def __init__(self, flags: Benchmark) -> None:
        self.flags = flags
        self.mesh = open_mesh(MeshConfig(data=flags.devices))
        self.model, self.params = load(flags)
        config = self.model.config
        if flags.prompt + flags.new > config.context_length:
            raise UserError(
                f"prompt + new is {flags.prompt + flags.new} tokens; the model's context is "
                f"{config.context_length}"
            )
        self.sampling = SamplingConfig(max_new_tokens=flags.new, temperature=1.0)
        self.key = jax.random.key(0)
        keys = jax.random.split(self.key)
        tokens, written = (
            jax.random.randint(key, (flags.batch, length), 0, config.vocab_size)
            for key, length in zip(keys, (flags.prompt, flags.new), strict=True)
        )
        rows = jnp.arange(flags.batch)
        tokens = tokens[rows // flags.group * flags.group]
        samples = rows % flags.group
        self.prompts = Prompts(tokens, jnp.ones(tokens.shape, bool), rows - samples, samples)
        zeros = jnp.zeros(written.shape)
        self.made = Completions(written, jnp.ones(written.shape, bool), zeros, zeros)

    def prefill(self) -> dict[str, Any]:
        """Fill the cache with the prompts and compute the next token's logits."""
        model, slots = self.model, self.flags.prompt + self.flags.new
        group = self.flags.group

        def start(params: Any, prompts: Prompts) -> Any:
            tokens, mask = prompts.tokens[::group], prompts.mask[::group]
            hidden, cache = model.prefill(params, tokens, mask, slots, group)
            return model.head_columns(params, hidden[:, -1].T), cache

        program, cost = build(compiler.jit(start), (self.params, self.prompts))
        return cost | timed(lambda: program(self.params, self.prompts), self.flags.repeats)

    def decode(self) -> dict[str, Any]:
        """Sample completions with the shipped sampler, on as many devices as are asked for."""
        sample = make_sampler(self.model, self.sampling, (), 0, group=self.flags.group)
        place = Placement(make_layout(self.mesh, self.model.config))
        local = lambda params, prompts, key: sample(params, None, prompts, key)  # noqa: E731
        arguments = (place.put(self.params), place.rows(self.prompts), self.key)
        program, cost = build(place.jit(lambda *args: over_rows(local)(*args)), arguments)
        return cost | timed(lambda: program(*arguments), self.flags.repeats)

    def queue(self) -> dict[str, Any]:
        """Sample completions of geometric lengths at once, in batches, through slots; in turn."""
        flags, vocabulary = self.flags, self.model.config.vocab_size
        assert flags.slots is not None
        some = jax.random.permutation(self.key, vocabulary)[: -(-4 * vocabulary // flags.new)]
        ends = some.tolist()

        def make(slots: int | None) -> Any:
            sampling = dataclasses.replace(self.sampling, slots=slots)
            return make_continuous_sampler(self.model, sampling, ends, 0, group=flags.group)

        compared = (self.params, self.prompts, self.key)
        return compare_slots(make, *compared, slots=flags.slots, repeats=flags.repeats)

    def build_score(self) -> tuple[Any, dict[str, Any]]:
        """Compile the scoring of the completions."""
        score = make_score(self.model, self.sampling, ())

        def log_probs(params: Any, prompts: Prompts, made: Completions) -> jax.Array:
            return score(params, prompts, made, group=self.flags.group).log_probs

        return build(compiler.jit(log_probs), (self.params, self.prompts, self.made))

    def score(self) -> dict[str, Any]:
        """Compute log-probs of completions."""
        program, cost = self.build_score()
        call = lambda: program(self.params, self.prompts, self.made)  # noqa: E731
        return cost | timed(call, self.flags.repeats)

    def update(self) -> dict[str, Any]:
        """Learn from the batch, one epoch; this uses the parameters up, as training does."""
        flags = self.flags
        log_probs = self.build_score()[0](self.params, self.prompts, self.made)
        rollout = Rollout(self.prompts, self.made._replace(log_probs=log_probs), log_probs)
        config = PPOConfig(
            batch_size=flags.batch,
            samples_per_prompt=flags.group,
            num_epochs=1,
            num_minibatches=flags.minibatches,
            gradient_accumulation=flags.accumulation,
        )
        optimizer = make_optimizer(
            OptimizerConfig(), num_steps=100, updates_per_step=flags.minibatches
        )
        update = make_update(self.model, config, self.sampling, (), optimizer)
        learn = compiler.jit(update, donate_argnums=0)
        hidden, kl_coef = self.model.config.hidden_size, jnp.float32(0.1)
        state = init_state(
            self.params, hidden, optimizer, critic="shared", kl_coef=kl_coef,
            frozen_dtype=self.model.dtype,
        )  # fmt: skip
        scores = jnp.linspace(-1.0, 1.0, flags.batch)
        program, cost = build(learn, (state, rollout, scores, self.key))

        def step() -> Any:
            nonlocal state
            state, metrics = program(state, rollout, scores, self.key)
            return state, metrics

        return cost | timed(step, flags.repeats)


def decode_rate(
    flags: Benchmark, config: TransformerConfig, results: dict[str, Any]
) -> float | None:
    """Compute the bytes/s at which the steps after the prefill read what they have to.

    None where prefill and decode were not both measured, or the prefill took all of the time.
    """
    if not {"prefill", "decode"} <= results.keys() or flags.new == 1:
        return None
    seconds = results["decode"]["median_s"] - results["prefill"]["median_s"]
    cached = flags.batch // flags.group * flags.prompt + flags.batch * flags.new / 2
    work = decode_bytes(config, cached, jnp.dtype(flags.dtype).itemsize)
    return None if seconds <= 0 else (flags.new - 1) * work / seconds


def measure(flags: Benchmark) -> dict[str, Any]:
    """Time every part that is asked for; the update comes last."""
    parts, dtype = Parts(flags), jnp.dtype(flags.dtype)
    work = part_work(flags, parts.model.config)
    count = sum(leaf.size for leaf in jax.tree.leaves(parts.params))
    rate, copy = matmul_rate(dtype), copy_rate()
    queue = None if flags.slots is None else parts.queue()
    results: dict[str, Any] = {}
    for name in ("prefill", "decode", "score", "update"):
        if name in flags.parts:
            results[name] = getattr(parts, name)() | peak_memory()
    rate = max(rate, matmul_rate(dtype))  # a moment in which the machine was busy is no yardstick
    for name, row in results.items():
        tokens, flops = work[name]
        row["tokens_per_s"] = tokens / row["median_s"]
        row["flops_per_s"] = flops / row["median_s"]
        row["share_of_matmul"] = row["flops_per_s"] / rate
    copy = max(copy, copy_rate())
    return {
        "flags": dataclasses.asdict(flags),
        "parameters": count,
        "device": jax.devices()[0].device_kind,
        "cpus": os.cpu_count(),
        "jax": jax.__version__,
        "matmul_flops_per_s": rate,
        "copy_bytes_per_s": copy,
        "decode_bytes_per_s": decode_rate(flags, parts.model.config, results),
        "results": results,
        "slots": queue,
    }


def main(argv: list[str] | None = None) -> None:
    flags = parse(argv)
    with plain_errors():
        validate(flags)
        if flags.cache:
            enable_compilation_cache()
        numbers = measure(flags)
        print_table(numbers)
        if flags.json is not None:
            write_json(Path(flags.json), numbers)


if __name__ == "__main__":
    main()
