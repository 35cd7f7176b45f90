"""Optimise a learnt reward too far: runs of nano size.

Gao, Schulman and Hilton 2022 (https://arxiv.org/abs/2210.10760): a gold reward labels pairs of the
reference's texts, a proxy learns from them, a policy learns from the proxy (or the best of n texts
is taken by it), and what the gold reward says is told beside it. Reward model, PPO, sampler and
scorer are the library's; a run is one compiled program, as in `rljax.sweeps.nano`.

Written for each step, from 0, the reference: `curve/gold`, `curve/proxy`, `curve/kl` (nats per
text) and `curve/distance`, d = sqrt(KL), all of the batch that the step learns from, and the
update's own metrics. Of best_of_n: for n = 1, 2, 4 ... best_of, which stands in the place of the
step, with KL = ln n - (n - 1) / n, that of rewards without ties. With the last line: `proxy/*` and
what `judge_curve` says.

Gold and proxy are shifted and scaled to mean 0 and deviation 1 over texts of the reference.

B texts, N texts of the reference, L words, K lines.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rljax.algorithms import reward_model
from rljax.algorithms.learner import init_supervised
from rljax.algorithms.reward_model import HEAD, RewardModelConfig
from rljax.environments import frontier
from rljax.models.gru import make_gru
from rljax.models.heads import init_reward_head
from rljax.rollout.keys import Role, role_key
from rljax.rollout.scoring import reward_scores
from rljax.sweeps.nano import QUICK, NanoPPO, Params, Parts, start_of
from rljax.sweeps.pairs import Pairs, draw_preferences
from rljax.sweeps.worlds import Praise
from rljax.tasks.preference_batches import PreferenceBatch
from rljax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from rljax.training.writer import MetricsWriter
from rljax.types import Completions, Prompts

MOST_PAIRS = 8192
"""Pairs that a program has room for."""
TEXTS = 16_384
"""Texts of the reference that rewards are scaled by, and that the best of n is taken of."""
GIVEN = 2.0
"""The d at which runs are compared."""
BINS = 30
"""Parts of a curve's way in d: a law is fitted to their means."""
Law = Literal["ppo", "best_of_n"]


@dataclasses.dataclass(frozen=True)
class OveroptimisationExperiment(NanoPPO):
    """PPO or best of n on a proxy that was learnt of so many pairs."""

    world: Praise = Praise()
    method: Law = "ppo"
    """What uses the proxy."""
    best_of: int = 512
    """Largest n of best_of_n."""
    pairs: int = 2000
    """Pairs of texts of the reference that the proxy learns from; which of two is preferred is
    drawn, with probability sigmoid(label_scale (gold of one - gold of the other))."""
    label_scale: float = 2.0
    """How sure these labels are."""
    proxy_size: int = 16
    """Width of the proxy's recurrent layer."""
    proxy_steps: int = 400
    """Batches that the proxy learns from."""
    proxy_optimizer: OptimizerConfig = OptimizerConfig(learning_rate=0.01, schedule="cosine")
    proxy: RewardModelConfig = RewardModelConfig(batch_size=64, normalise_samples=0)

    def validate(self) -> None:
        """Raise ValueError for values that mean nothing."""
        super().validate()
        self.proxy.validate()
        for name in ("best_of", "pairs", "proxy_size", "proxy_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.pairs > MOST_PAIRS or self.best_of > TEXTS // 8:
            raise ValueError(
                f"pairs is {self.pairs} and best_of {self.best_of}; they must be at most "
                f"{MOST_PAIRS} and {TEXTS // 8}"
            )
        if not self.label_scale > 0:
            raise ValueError(f"label_scale is {self.label_scale}; it must be positive")
        slots = self.sampling
        if not slots.min_new_tokens == slots.max_new_tokens == self.world.length:
            raise ValueError(
                f"sampling min_new_tokens {slots.min_new_tokens} and max_new_tokens "
                f"{slots.max_new_tokens} must be world.length, {self.world.length}"
            )


class Scale(NamedTuple):
    """Makes rewards of mean 0 and deviation 1: (reward - mean) / deviation."""

    mean: jax.Array
    deviation: jax.Array

    def __call__(self, rewards: jax.Array) -> jax.Array:
        """Scale rewards."""
        return (rewards - self.mean) / self.deviation


def scale_of(rewards: jax.Array) -> Scale:
    """Return what scales these rewards [N] to mean 0 and deviation 1."""
    return Scale(jnp.mean(rewards), jnp.std(rewards))


class Proxy(NamedTuple):
    """A learnt reward, and what it was made with."""

    params: Params
    """{"policy": the trunk, "reward_head"}."""
    scale: Scale
    gold: Scale
    scores: jax.Array
    """[N], of the reference's texts, scaled."""
    gold_scores: jax.Array
    """[N]."""


# ------------------------------------------------------------------------------------- The proxy


def prefer(
    prompts: Prompts, made: Completions, gold: jax.Array, key: jax.Array, scale: float, rows: int
) -> PreferenceBatch:
    """Pair texts [2 M] with the next ones, and draw which is preferred: M records.

    gold: [2 M]. rows: records whose weights add up to 1.
    """
    count = len(gold) // 2
    pairs = Pairs(
        prompts.tokens[::2],
        prompts.mask[::2],
        made.tokens.reshape(count, 2, -1),
        made.mask.reshape(count, 2, -1),
        jnp.full((count, 2), jnp.nan),
    )
    return draw_preferences(pairs, scale * (gold[::2] - gold[1::2]), key, batch_size=rows)


def fit_proxy(
    config: OveroptimisationExperiment, records: PreferenceBatch, count: jax.Array, key: jax.Array
) -> Params:
    """Train a reward model on batches of the first `count` records."""
    model = make_gru(config.world.vocabulary, config.proxy_size)
    optimizer = make_optimizer(config.proxy_optimizer, num_steps=config.proxy_steps)
    schedule = make_schedule(config.proxy_optimizer, num_steps=config.proxy_steps)
    update = reward_model.make_update(model, config.proxy, optimizer, schedule)
    trunk_key, head_key, key = jax.random.split(key, 3)
    head = init_reward_head(head_key, config.proxy_size)
    state = init_supervised({"policy": model.init(trunk_key), HEAD: head}, optimizer)

    def step(state: Any, key: jax.Array) -> tuple[Any, None]:
        chosen = jax.random.randint(key, (config.proxy.batch_size,), 0, count)
        return update(state, jax.tree.map(lambda x: x[chosen], records), key)[0], None

    return jax.lax.scan(step, state, jax.random.split(key, config.proxy_steps))[0].params


def proxy_scores(
    config: OveroptimisationExperiment, params: Params, prompts: Prompts, made: Completions
) -> jax.Array:
    """Score texts by a proxy that is not scaled yet: [B]."""
    model = make_gru(config.world.vocabulary, config.proxy_size)
    return reward_scores(model, params["policy"], params[HEAD], prompts, made)


def make_proxy(
    config: OveroptimisationExperiment, parts: Parts, start: Params, seed: jax.Array, count: Any
) -> Proxy:
    """Sample texts of the reference, label pairs, learn from `count` of them."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1), 4)
    first = {"policy": start}

    def texts(key: jax.Array, rows: int) -> tuple[Prompts, Completions, jax.Array]:
        asked, sampled = jax.random.split(key)
        prompts = parts.ask(asked, rows)
        made = parts.single(first, prompts, sampled)
        return prompts, made, config.world.judge(prompts.ids, made)["score"]

    prompts, made, gold = texts(keys[0], TEXTS)
    gold_scale = scale_of(gold)
    asked, paired, labels = texts(keys[1], 2 * MOST_PAIRS)
    rows = config.proxy.batch_size
    records = prefer(asked, paired, gold_scale(labels), keys[2], config.label_scale, rows)
    params = fit_proxy(config, records, count, keys[3])
    scores = proxy_scores(config, params, prompts, made)
    scale = scale_of(scores)
    return Proxy(params, scale, gold_scale, scale(scores), gold_scale(gold))


def proxy_quality(proxy: np.ndarray, gold: np.ndarray) -> dict[str, float]:
    """Compare the scores of a proxy [N] with the gold rewards of the same texts.

    `proxy/correlation`, and `proxy/accuracy`: the share of pairs of unequal gold rewards (each text
    with its neighbour) that both put in the same order.
    """
    lead, right = np.diff(proxy), np.diff(gold)
    return {
        "proxy/correlation": float(np.corrcoef(proxy, gold)[0, 1]),
        "proxy/accuracy": float(np.mean((lead * right > 0)[right != 0])),
    }


# ------------------------------------------------------------------------------------ Its use


def learn_policy(
    config: OveroptimisationExperiment,
    parts: Parts,
    proxy: Proxy,
    start: Params,
    seed: jax.Array,
    kl_coef: Any,
) -> dict[str, jax.Array]:
    """Train on a proxy: metrics [steps], told of the batch that each step learns from."""

    def step(state: Any, _: None) -> tuple[Any, dict[str, jax.Array]]:
        asked, sampled = jax.random.split(role_key(seed, Role.SAMPLING, state.step))
        prompts = parts.ask(asked, config.ppo.batch_size)
        made = parts.act(state.params, prompts, sampled)
        rollout = parts.refer(state, prompts, made)
        scores = proxy.scale(proxy_scores(config, proxy.params, prompts, made))
        judged = config.world.judge(prompts.ids, made)
        shuffled = role_key(seed, Role.SHUFFLING, state.step)
        state, metrics = parts.update(state, rollout, scores, shuffled)
        told = {
            "curve/gold": jnp.mean(proxy.gold(judged["score"])),
            "curve/proxy": jnp.mean(scores),
            "curve/kl": metrics["objective/kl"],
            "curve/repeats": jnp.mean(judged["repeats"]),
        }
        return state, metrics | told

    state = parts.first_state(start)._replace(kl_coef=jnp.float32(kl_coef))
    return jax.lax.scan(step, state, length=config.steps)[1]


@functools.lru_cache(maxsize=8)
def _program(config: OveroptimisationExperiment) -> Callable[..., Any]:
    """Compile a run; seed, pairs and the KL's coefficient are its arguments."""
    parts = Parts(config)

    def run(start: Params, seed: jax.Array, count: jax.Array, kl_coef: jax.Array) -> Any:
        proxy = make_proxy(config, parts, start, seed, count)
        scores = (proxy.scores, proxy.gold_scores)
        if config.method == "best_of_n":
            return scores, {}
        return scores, learn_policy(config, parts, proxy, start, seed, kl_coef)

    return jax.jit(run, compiler_options=QUICK)


def numbers_of_samples(most: int) -> list[int]:
    """Return 1, 2, 4 ... up to `most`."""
    return [2**power for power in range(most.bit_length())]


def best_of_n_curve(proxy: np.ndarray, gold: np.ndarray, most: int) -> dict[str, np.ndarray]:
    """Choose the best of n texts by a proxy: what is told of each n [K].

    The N texts stand for the reference: each of the n is one of them at random.
    """
    uniform = np.full(len(proxy), -math.log(len(proxy)))
    rows = []
    for n in numbers_of_samples(most):
        chosen = np.exp(frontier.best_of_n(uniform, proxy, n))
        rows.append((math.log(n) - (n - 1) / n, chosen @ proxy, chosen @ gold))
    kl, learnt, true = np.asarray(rows).T
    return {"curve/kl": kl, "curve/proxy": learnt, "curve/gold": true}


# ------------------------------------------------------------------------------------- The curve


def evened(distance: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average a curve within `BINS` equal parts of its way in d, those that have points.

    Else the end, where a policy stands still for long, would be most of what is fitted.
    """
    top = max(float(np.max(distance)), 1e-12)
    place = np.minimum((np.maximum(distance, 0) / top * BINS).astype(int), BINS - 1)
    count = np.bincount(place, minlength=BINS)
    d, mean = (
        np.bincount(place, weights=x, minlength=BINS)[count > 0] / count[count > 0]
        for x in (distance, values)
    )
    return d, mean


def fit_law(distance: np.ndarray, gold: np.ndarray, law: Law) -> tuple[float, float, float]:
    """Fit d (alpha - beta ln d) (ppo) or d (alpha - beta d) (best_of_n): alpha, beta, R^2.

    Least squares; R^2 is 1 - residual / variance about the mean.
    """
    d = np.maximum(distance, 1e-12)
    columns = np.stack([d, -d * (np.log(d) if law == "ppo" else d)], axis=1)
    found = np.linalg.lstsq(columns, gold, rcond=None)[0]
    residual = float(np.sum((gold - columns @ found) ** 2))
    spread = float(np.sum((gold - np.mean(gold)) ** 2))
    return float(found[0]), float(found[1]), 1 - residual / spread if spread else math.nan


def judge_curve(told: dict[str, np.ndarray], law: Law) -> dict[str, float]:
    """Say what became of a run whose gold reward starts at 0.

    The curve is that of the parts of its way, see `evened`, for PPO; at the end means the mean of
    the last tenth of the steps. `peak/gold`, `peak/distance`: where the gold reward is largest;
    `end/gold`, `end/proxy`, `end/distance`; `fall`: (peak - end) / peak of the gold reward, NaN
    where the peak is not above 0; `proxy_rise`: the proxy at the end less at the peak;
    `overoptimised`: 1 where the gold falls by a tenth while the proxy rises; `given/gold`: at d =
    `GIVEN`, NaN for a run that does not come so far; `fit/*`.
    """
    d, gold, proxy = (told[f"curve/{name}"] for name in ("distance", "gold", "proxy"))
    last = max(len(d) // 10, 1) if law == "ppo" else 1
    end = {"distance": d, "gold": gold, "proxy": proxy}
    found = {f"end/{name}": float(np.mean(x[-last:])) for name, x in end.items()}
    if law == "ppo":
        (_, proxy), (d, gold) = evened(d, proxy), evened(d, gold)
    top = int(np.argmax(gold))
    peak = float(gold[top])
    found["peak/gold"], found["peak/distance"] = peak, float(d[top])
    found["fall"] = (peak - found["end/gold"]) / peak if peak > 0 else math.nan
    found["proxy_rise"] = found["end/proxy"] - float(proxy[top])
    found["overoptimised"] = float(found["fall"] >= 0.1 and found["proxy_rise"] > 0)
    there = d[-1] >= GIVEN
    found["given/gold"] = float(np.interp(GIVEN, d, gold)) if there else math.nan
    names = ("fit/alpha", "fit/beta", "fit/r2")
    return found | dict(zip(names, fit_law(d, gold, law), strict=True))


def run_overoptimisation(config: OveroptimisationExperiment, run_dir: str | Path) -> None:
    """Train a proxy, use it, and write what the module's docstring lists.

    Raises ValueError for an impossible config.
    """
    config.validate()
    start = start_of(config.world, config.hidden_size, config.pretrain_steps)
    # what only seeds, numbers of pairs and KL coefficients tell apart shares a program
    kl = dataclasses.replace(config.ppo.kl, coef=1.0)
    shared = dataclasses.replace(
        config, seed=0, pairs=1, best_of=1, ppo=dataclasses.replace(config.ppo, kl=kl)
    )
    numbers = (jnp.int32(config.seed), jnp.int32(config.pairs), jnp.float32(config.ppo.kl.coef))
    found = jax.device_get(_program(shared)(start, *numbers))
    (proxy, gold), told = found
    proxy, gold = (np.asarray(x, np.float64) for x in (proxy, gold))
    steps = list(range(config.steps))
    if config.method == "best_of_n":
        told = best_of_n_curve(proxy, gold, config.best_of)
        steps = numbers_of_samples(config.best_of)
    told["curve/distance"] = np.sqrt(np.maximum(told["curve/kl"], 0))
    last = judge_curve(told, config.method) | proxy_quality(proxy, gold)
    with MetricsWriter(run_dir) as writer:
        for line, step in enumerate(steps):
            row = {name: float(values[line]) for name, values in told.items()}
            writer.scalars(step, row | (last if step == steps[-1] else {}))
