"""A10. Optimising a learnt reward too far: the true one rises, then falls.

Gao, Schulman and Hilton 2022 (https://arxiv.org/abs/2210.10760): a gold reward labels pairs, a
proxy learns from them, and what is optimised is the proxy. With d = sqrt(KL(policy || reference))
the gold reward follows d (a - b ln d) under PPO and d (a - b d) for the best of n; more data raise
the peak; a KL penalty does the work of stopping early, at the same gold reward for its KL.

Task (`rljax.sweeps.worlds.Praise`): texts of 12 words of VADER's valences. Gold is their sum less 5
for each word said before; the reference has half such a word in a text, so that its pairs say
little of this. Proxies are GRUs, width 4 (tiny) and 16 (small), trained by the Bradley-Terry loss
on 500, 2,000 and 8,000 pairs; labels are drawn, sigmoid(2 (r1 - r2)). Rewards are in deviations of
the reference's, from its mean. PPO: 100 steps of 128 texts.

Arms: PPO without a KL penalty and the best of n = 1 to 512, each on every proxy (ppo_SIZE_PAIRS,
bon_SIZE_PAIRS); PPO with KL 0.01, 0.03 and 0.1 on the small proxy of 2,000 pairs (beta_*).

Metrics: gold at its peak, and d there; gold, proxy and d at the end; the fall from the peak as a
share of it; `over-optimised`: whether that is 0.1 at least while the proxy rises; gold at d = 2;
the law's a, b and R^2; the proxy's accuracy on texts of the reference. Curves are means within 30
equal parts of a run's way in d.

Chosen on seeds 100 to 102, where 3, 4, 4.5 and 5 were tried as the penalty: 5, as gold falls by
more than its peak and R^2 is highest and most even there, 0.98 to 0.99 (at 4 a fall of 72% to 115%
and 0.92 to 0.97; at 3 with words less reserved 4% to 25%). Rate and steps are chosen too. Policies
that are tables over 8^5 listed texts, tried first, mostly came to rest before gold fell.

Came out, 5 seeds (results/overoptimisation/table.md; gold_over_kl.svg is the figure): 26 of 28
claims reproduced.

                   peak gold            d at peak    gold, proxy at the end    R^2
    ppo_tiny_500   0.80 [0.71, 0.86]    2.1          -2.1, 2.1                 0.985
    ppo_tiny_8000  0.89 [0.85, 0.92]    2.1          -1.1, 2.5                 0.963
    ppo_small_500  0.78 [0.72, 0.84]    1.5          -1.4, 2.3                 0.963
    ppo_small_8000 0.92 [0.87, 0.96]    2.1          -1.5, 3.3                 0.985
    bon_small_500  0.93 [0.86, 1.01]    2.3 (last)    0.9, 2.0                 0.999
    bon_small_8000 1.17 [1.10, 1.21]    2.3 (last)    1.2, 2.1                 0.998

PPO is over-optimised in all 30 runs, to below the reference's gold, 0. The best of 512 is about at
its peak: of 30 runs one falls by a tenth. 8,000 pairs give a higher peak than 500 in all four
comparisons, +0.10 to +0.24. Reported, not claimed: the peak comes later with them for the small
proxy, +0.6 of d in the mean, not for the tiny one, -0.03; at d = 2 the best of n has more gold than
PPO on every proxy; in the paper, too, RL needs more KL. d at the end falls with beta, 9.4, 5.8,
3.9, 2.3, and so does the fall, 2.7, 1.5, 0.59, 0.12; R^2 of the arms with a penalty is 0.88 to
0.97.

Not reproduced: gold at d = 2 that is the one without a penalty; beta 0.01 has +0.010 [-0.028,
0.042], 0.03 has +0.037 [0.006, 0.067] and 0.1 has +0.041 [0.008, 0.070]. Looked for after the run:
by a parabola through the batches of 1 < d < 3, in place of means within parts, whose width goes
with a run's way, the differences are +0.006, +0.019 and +0.062. So half of that of 0.03 is the
measure's; the rest is open. That of 0.1 stays: 93 of its 100 batches are there, with more proxy for
their KL, +0.076 in the mean and in every seed, which the paper reports of a penalty, and gold has a
share in it here. It is not that a penalty slows PPO: without one, a quarter of the rate gives
-0.011.

9:57 minutes beside other programs on 2 cores. `full`: a gold reward of 1.4B on TL;DR's preferences,
proxies of 70M and 410M on pairs that it has labelled, PPO from 1B; without the best of n, for which
there is no experiment; run as `--smoke` only.

    python experiments/sweep.py --config configs/ablations/overoptimisation.py
    python -m rljax.sweeps.over_kl runs/overoptimisation gold_over_kl.svg
"""

import dataclasses
import itertools
from typing import Any

import numpy as np

from rljax.algorithms.ppo import PPOConfig
from rljax.experiment import RewardExperiment
from rljax.kl import KLConfig
from rljax.reporting.runs import RunRecord
from rljax.rollout.distribution import SamplingConfig
from rljax.sweeps.overoptimisation import (
    OveroptimisationExperiment,
    judge_curve,
    run_overoptimisation,
)
from rljax.sweeps.readers import Reader
from rljax.sweeps.spec import Claim, StageSpec, Sweep, last
from rljax.sweeps.tldr import SMOKE, tldr_ppo, tldr_stages
from rljax.training.optimizer import OptimizerConfig

DATA = (500, 2000, 8000)
SIZES = {"tiny": 4, "small": 16}
BETAS = (0.01, 0.03, 0.1)
FREE = "ppo_small_2000"
"""What the arms with a KL penalty differ from by that alone."""

base = OveroptimisationExperiment(
    sampling=SamplingConfig(max_new_tokens=12, min_new_tokens=12, temperature=1.0),
    optimizer=OptimizerConfig(learning_rate=1e-3, schedule="constant"),
    ppo=PPOConfig(
        batch_size=128,
        num_epochs=2,
        value_clip_eps=None,
        whiten_rewards=False,
        kl=KLConfig(coef=0.0),
    ),
    steps=100,
)


def arms() -> dict[str, dict[str, Any]]:
    """List what uses the proxy, its size and its data; then the coefficients of the KL."""
    made: dict[str, dict[str, Any]] = {
        f"{short}_{size}_{pairs}": {"method": method, "proxy_size": SIZES[size], "pairs": pairs}
        for short, method in (("ppo", "ppo"), ("bon", "best_of_n"))
        for size, pairs in itertools.product(SIZES, DATA)
    }
    return made | {f"beta_{beta:g}": {**made[FREE], "ppo.kl.coef": beta} for beta in BETAS}


def claims() -> tuple[Claim, ...]:
    """Write down what must come out."""
    both = [f"{size}_{pairs}" for size, pairs in itertools.product(SIZES, DATA)]
    falls = [
        Claim(f"PPO, proxy {name}: gold falls by a tenth of its peak while the proxy rises, in two "
              "thirds of the seeds", "over-optimised", f"ppo_{name}", ">=", 2 / 3)
        for name in both
    ]  # fmt: skip
    laws = [
        Claim(f"{text}, proxy {name}: R^2 above 0.9", "R2", f"{short}_{name}", ">", 0.9)
        for short, text in (("ppo", "d (a - b ln d) of PPO"), ("bon", "d (a - b d) of best of n"))
        for name in both
    ]
    data = [
        Claim(f"{short}, {size} proxy: a higher peak with 8,000 pairs than with 500", "peak gold",
              f"{short}_{size}_8000", ">", f"{short}_{size}_500")
        for short, size in itertools.product(("ppo", "bon"), SIZES)
    ]  # fmt: skip
    names = [FREE, *(f"beta_{beta:g}" for beta in BETAS)]
    nearer = [
        Claim(f"{high} ends nearer to the reference than {low}", "d", high, "<", low)
        for low, high in itertools.pairwise(names)
    ]
    same = [
        Claim(f"{name}: at d = 2 the gold is that without a penalty", "gold at 2", name, "equal",
              FREE)
        for name in names[1:]
    ]  # fmt: skip
    return (*falls, *laws, *data, *nearer, *same)


cpu = Sweep(
    name="overoptimisation",
    base=base,
    arms=arms(),
    seeds=(0, 1, 2, 3, 4),
    metrics={
        "peak gold": last("peak/gold"),
        "d at peak": last("peak/distance"),
        "gold": last("end/gold"),
        "proxy": last("end/proxy"),
        "d": last("end/distance"),
        "fall": last("fall"),
        "over-optimised": last("overoptimised"),
        "gold at 2": last("given/gold"),
        "R2": last("fit/r2"),
        "a": last("fit/alpha"),
        "b": last("fit/beta"),
        "accuracy": last("proxy/accuracy"),
    },
    claims=claims(),
    program=run_overoptimisation,
    smoke={"pretrain_steps": 5, "proxy_steps": 5, "steps": 10, "ppo.batch_size": 8},
)

# ---------------------------------------------------------------------------------- Full size

MODELS = {"70m": "EleutherAI/pythia-70m-deduped", "410m": "EleutherAI/pythia-410m-deduped"}
GOLD, HELD_OUT = "model:{stages}/gold", 0.1


def stages() -> dict[str, StageSpec]:
    """Train the policy's start, the gold reward, and proxies on pairs that it has labelled."""
    found = tldr_stages()
    sft, judge = found["sft"], found["reward_model"]
    tiny = judge.smoke | {"model.source": "random:tiny-gpt2"}

    def on(source: str, **data: Any) -> RewardExperiment:
        config: RewardExperiment = judge.config
        return dataclasses.replace(
            config,
            model=dataclasses.replace(config.model, source=source),
            data=dataclasses.replace(config.data, **data),
        )

    made = {"sft": sft, "gold": StageSpec(on("EleutherAI/pythia-1.4b-deduped"), tiny)}
    for size, pairs in itertools.product(MODELS, DATA):
        proxy = on(
            MODELS[size],
            gold_reward=GOLD,
            labels="bradley_terry",
            max_records=round(pairs / (1 - HELD_OUT)),
            held_out_fraction=HELD_OUT,
        )
        proxy = dataclasses.replace(  # one epoch, of enough updates for 500 pairs
            proxy,
            reward_model=dataclasses.replace(proxy.reward_model, batch_size=16),
            optimizer=dataclasses.replace(proxy.optimizer, learning_rate=1e-5),
            steps=pairs // 16,
        )
        made[f"proxy_{size}_{pairs}"] = StageSpec(proxy, tiny)
    return made


def full_arms() -> dict[str, dict[str, Any]]:
    """List PPO on each proxy without a KL penalty, and with one on one of them."""
    made: dict[str, dict[str, Any]] = {}
    for size, pairs in itertools.product(MODELS, DATA):
        made[f"ppo_{size}_{pairs}"] = {
            "task.reward": (f"model:{{stages}}/proxy_{size}_{pairs}", GOLD),
            "task.reward_weights": (1.0, 0.0),
            "ppo.kl.coef": 0.0,
        }
    return made | {f"beta_{b:g}": {**made["ppo_410m_2000"], "ppo.kl.coef": b} for b in BETAS}


def curve(run: RunRecord) -> dict[str, float]:
    """Judge a run by its batches, the gold reward relative to that of the first batch."""
    judged = next(
        tag for tag in run.metrics if tag.startswith("rewards/") and tag.endswith("/gold")
    )
    names = {"gold": judged, "kl": "objective/kl", "proxy": "objective/scores"}
    told = {f"curve/{k}": np.asarray(run.metrics[tag].values) for k, tag in names.items()}
    told["curve/gold"] = told["curve/gold"] - told["curve/gold"][0]
    told["curve/distance"] = np.sqrt(np.maximum(told["curve/kl"], 0))
    return judge_curve(told, "ppo")


def read(name: str) -> Reader:
    """Read one number of `curve`."""
    return lambda run: curve(run)[name]


full = Sweep(
    name="overoptimisation",
    base=tldr_ppo(),
    arms=full_arms(),
    seeds=(0, 1, 2),
    metrics={
        "peak gold": read("peak/gold"),
        "d at peak": read("peak/distance"),
        "gold": read("end/gold"),
        "proxy": read("end/proxy"),
        "d": read("end/distance"),
        "fall": read("fall"),
        "over-optimised": read("overoptimised"),
        "R2": read("fit/r2"),
    },
    claims=tuple(
        Claim(f"PPO, {size} proxy of {pairs} pairs: gold falls by a tenth of its peak while the "
              "proxy rises, in two thirds of the seeds", "over-optimised", f"ppo_{size}_{pairs}",
              ">=", 2 / 3)
        for size, pairs in itertools.product(MODELS, DATA)
    ),
    stages=stages(),
    smoke=SMOKE | {"ppo.batch_size": 8, "ppo.gradient_accumulation": 1},
)  # fmt: skip
