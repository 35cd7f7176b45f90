"""What must be exactly true before anything is learnt, and how it breaks.

Huang et al. 2023 ("The N implementation details of RLHF with PPO",
https://huggingface.co/blog/the_n_implementation_details_of_rlhf_with_ppo) and Ahmadian et al. 2024
with its reproduction (https://huggingface.co/blog/putting_rl_back_in_rlhf_with_rloo). At step 0 the
learner is the policy that sampled: all ratios are 1, and the KL from the reference is 0. Each arm
samples 10 tokens at temperature 0.7 after left-padded prompts, scores them, and does one thing
wrong:

    correct              nothing
    no_position_ids      the learner counts padding as positions
    pad_is_eos           the learner's mask is `tokens != pad`, of prompts that begin with EOS
    ref_temperature      the reference is scored at temperature 1
    dropout              a tenth of the learner's last states is dropped (the models have none)
    bf16_logits          the learner's head and logits are bfloat16
    bf16_rollout         the sampler computes in bfloat16, the learner in float32
    smollm2...           the last two and the correct one of SmolLM2-135M

of a random GPT-2 of 2 layers with noise on its weights (positions are learnt there: rotary ones do
not see the padding); a seed draws weights, prompts and tokens. Metrics: the largest |ratio - 1|,
|KL| in nats per token, the larger of the two, and the standard deviation of the tokens' ratios,
which for bfloat16 is given as 0.051 (read as that of tokens; of whole completions it is reported).

Came out, 5 seeds, all 12 claims reproduced (results/numerical_invariants/table.md): correct: the
largest |ratio - 1| 2.0e-6 (SmolLM2 4.7e-5), the KL 2e-8 (1.2e-6). Broken, the larger of the two:
positions 16, pad 7.0, dropout 2.0, reference 0.054, bfloat16 rollout 0.031 and logits 0.014. Of
SmolLM2 the ratios' deviation under a bfloat16 rollout is 0.074 [0.062, 0.087] for tokens and 0.19
[0.15, 0.24] for completions of 10 tokens; under bfloat16 logits 0.044 and 0.11. In float32 it is
1.4e-5 and 3.3e-5, above the 6.6e-6 that the reproduction gives. The claim is of the real model: of
the small one under a bfloat16 rollout the deviation is 0.0094. 17.7 minutes beside about ten other
programs on 2 cores, 16 of them SmolLM2's.

    python experiments/sweep.py --config configs/ablations/numerical_invariants.py
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from rljax.models import load_pretrained
from rljax.models.precision import cast_matrices
from rljax.models.transformer import Model, make_model
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.sampler import make_sampler
from rljax.rollout.scoring import make_score
from rljax.sweeps.spec import Claim, Sweep, last
from rljax.training.writer import MetricsWriter
from rljax.types import Prompts

Fault = Literal[
    "none", "positions", "pad", "ref_temperature", "dropout", "bf16_logits", "bf16_rollout"
]


@dataclasses.dataclass(frozen=True)
class Invariants:
    """One batch, sampled and scored, with one fault."""

    model: str = "random:tiny-gpt2"
    """As `--model.source` takes it."""
    noise: float = 0.1
    """Deviation of what is added to every weight, so that no bias, norm or mask is idle."""
    fault: Fault = "none"
    """What is wrong."""
    prompts: int = 32
    """Prompts of 4 to 24 random tokens, left-padded."""
    new_tokens: int = 10
    """Tokens of every completion; EOS is forbidden."""
    temperature: float = 0.7
    """Of sampling and scoring."""
    seed: int = 0
    """Of noise, prompts and tokens."""


@functools.lru_cache(maxsize=2)
def load(source: str) -> Any:
    """Load a model once for all of a process's runs."""
    return load_pretrained(source)


def draw_prompts(config: Invariants, vocabulary: int, eos: int) -> Prompts:
    """Draw prompts, each an EOS and random tokens, left-padded with EOS."""
    rng = np.random.default_rng(config.seed)
    lengths = rng.integers(4, 25, size=config.prompts)
    tokens = np.full((config.prompts, 24), eos, np.int32)
    mask = np.arange(24) >= 24 - lengths[:, None]
    words = rng.integers(0, vocabulary, size=tokens.shape)
    words = np.where(words == eos, (eos + 1) % vocabulary, words)
    inner = np.arange(24) > 24 - lengths[:, None]
    tokens = np.where(inner, words, tokens)
    numbers = np.arange(config.prompts, dtype=np.int32)
    return Prompts(jnp.asarray(tokens), jnp.asarray(mask), numbers, np.zeros_like(numbers))


def faulty_model(model: Model, fault: Fault) -> Model:
    """Return the learner's model with its fault."""

    def shifted(params: Any, tokens: Any, mask: Any = None, segments: Any = None) -> jax.Array:
        table = params["positions"]["embedding"]
        pads = jnp.sum(~mask, axis=1)

        def row(pad: jax.Array, tokens: jax.Array, mask: jax.Array) -> jax.Array:
            own = params | {"positions": {"embedding": jnp.roll(table, -pad, axis=0)}}
            return model.hidden(own, tokens[None], mask[None])[0]

        return jax.vmap(row)(pads, tokens, mask)

    def dropped(params: Any, tokens: Any, mask: Any = None, segments: Any = None) -> jax.Array:
        hidden = model.hidden(params, tokens, mask)
        return hidden * jax.random.bernoulli(jax.random.key(1), 0.9, hidden.shape) / 0.9

    def rounded(params: Any, hidden: jax.Array) -> jax.Array:
        logits = model.head(cast_matrices(params, jnp.bfloat16), hidden.astype(jnp.bfloat16))
        return logits.astype(jnp.bfloat16).astype(jnp.float32)

    changes: dict[str, dict[str, Any]] = {
        "positions": {"hidden": shifted},
        "dropout": {"hidden": dropped},
        "bf16_logits": {"head": rounded},
    }
    return model._replace(**changes.get(fault, {}))


@functools.lru_cache(maxsize=16)
def programs(source: str, fault: Fault, sampling: SamplingConfig) -> tuple[Any, Any, Any]:
    """Compile sampler, learner's score and reference's score of a fault."""
    pretrained = load(source)
    config, ends = pretrained.model.config, pretrained.eos_token_ids
    kind = jnp.bfloat16 if fault == "bf16_rollout" else jnp.float32
    sample = make_sampler(make_model(config, kind), sampling, ends, pretrained.pad_token_id)
    learner = make_score(faulty_model(make_model(config), fault), sampling, ends)
    plain = dataclasses.replace(sampling, temperature=1.0)
    unscaled = plain if fault == "ref_temperature" else sampling
    reference = make_score(make_model(config), unscaled, ends)
    return jax.jit(sample), jax.jit(learner), jax.jit(reference)


def measure(config: Invariants, run_dir: Path) -> None:
    """Sample one batch, score it, and write how far it is from what must be true."""
    pretrained = load(config.model)
    sampling = SamplingConfig(
        max_new_tokens=config.new_tokens,
        min_new_tokens=config.new_tokens,
        temperature=config.temperature,
    )
    sample, learner, reference = programs(config.model, config.fault, sampling)
    params = pretrained.params
    if config.noise:
        leaves, tree = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.key(config.seed + 100), len(leaves))
        noisy = [
            x + config.noise * jax.random.normal(k, x.shape)
            for x, k in zip(leaves, keys, strict=True)
        ]
        params = jax.tree.unflatten(tree, noisy)
    eos = pretrained.eos_token_ids[0]
    prompts = draw_prompts(config, pretrained.model.config.vocab_size, eos)
    made = sample(params, None, prompts, jax.random.key(config.seed))
    seen = prompts._replace(mask=prompts.tokens != eos) if config.fault == "pad" else prompts
    learnt = np.asarray(learner(params, seen, made).log_probs, np.float64)
    ref = np.asarray(reference(params, prompts, made).log_probs, np.float64)
    old = np.asarray(made.log_probs, np.float64)
    ratio = np.exp(learnt - old)
    gap, kl = float(np.max(np.abs(ratio - 1))), float(abs(np.mean(old - ref)))
    with MetricsWriter(run_dir) as writer:
        numbers = {
            "ratio_gap": gap,
            "start_kl": kl,
            "worst": max(gap, kl),
            "ratio_std": float(np.std(ratio)),
            "sequence_ratio_std": float(np.std(np.exp(np.sum(learnt - old, axis=1)))),
        }
        writer.scalars(1, {f"invariants/{name}": value for name, value in numbers.items()})


def arms(real: str, sizes: dict[str, Any]) -> dict[str, Any]:
    """List the arms: all faults of the small model, and rounding of a real one."""
    small = {
        "correct": {"fault": "none"},
        "no_position_ids": {"fault": "positions"},
        "pad_is_eos": {"fault": "pad"},
        "ref_temperature": {"fault": "ref_temperature"},
        "dropout": {"fault": "dropout"},
        "bf16_logits": {"fault": "bf16_logits"},
        "bf16_rollout": {"fault": "bf16_rollout"},
    }
    large = {
        f"{real}{end}": {"model": MODELS[real], "noise": 0.0, "fault": fault, **sizes}
        for end, fault in (
            ("", "none"), ("_bf16_logits", "bf16_logits"), ("_bf16_rollout", "bf16_rollout")
        )
    }  # fmt: skip
    return small | large


MODELS = {"smollm2": "smollm2-135m-instruct", "qwen": "Qwen/Qwen2.5-0.5B"}
METRICS = {
    name: last(f"invariants/{name}")
    for name in ("worst", "ratio_gap", "start_kl", "ratio_std", "sequence_ratio_std")
}
FAULTS = (
    "no_position_ids", "pad_is_eos", "ref_temperature", "dropout", "bf16_logits", "bf16_rollout",
)  # fmt: skip


def claims(real: str) -> tuple[Claim, ...]:
    """Write down what must come out."""
    right = [
        claim
        for arm in ("correct", real)
        for claim in (
            Claim(f"{arm}: max |ratio - 1| is below 1e-4", "ratio_gap", arm, "<", 1e-4),
            Claim(f"{arm}: the KL is below 1e-5 nats per token", "start_kl", arm, "<", 1e-5),
        )
    ]
    broken = [Claim(f"{arm} shows: above 1e-3", "worst", arm, ">", 1e-3) for arm in FAULTS]
    name = f"{real}_bf16_rollout"
    spread = [
        Claim("bfloat16 rollout: deviation of ratios above 1e-2", "ratio_std", name, ">", 1e-2),
        Claim("bfloat16 rollout: deviation of ratios below 1e-1", "ratio_std", name, "<", 1e-1),
    ]
    return (*right, *broken, *spread)


cpu = Sweep(
    name="numerical_invariants",
    base=Invariants(),
    arms=arms("smollm2", {"prompts": 8}),
    seeds=(0, 1, 2, 3, 4),
    metrics=METRICS,
    claims=claims("smollm2"),
    program=measure,
    smoke={"model": "random:tiny-gpt2", "prompts": 4},
)

full = dataclasses.replace(
    cpu,
    base=Invariants(model="gpt2", noise=0.0, prompts=64),
    arms=arms("qwen", {"prompts": 64}),
    claims=claims("qwen"),
)
