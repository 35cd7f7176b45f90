"""A12. How good a critic is: learned, pretrained, decoupled, or sampled.

Kazemnejad et al. 2024, VinePPO (https://arxiv.org/abs/2410.01679), figure 8: learned values are far
from the truth, means over sampled completions are near it. Yuan et al. 2025, VC-PPO
(https://arxiv.org/abs/2503.01491): a critic that is trained before the policy moves helps early on.

Task: walks to a goal on a graph (`rljax.sweeps.walks`, after trlx's randomwalks): 12 nodes, 3 edges
each, 6 moves at most; score 1 for a shortest walk, less for longer ones, 0 else. The start has
learned random walks. All legal walks can be listed, so that the exact value of every prefix under
the policy of each step is known. 32 completions a step, 4 epochs, no KL; a critic learns
at five times the policy's rate.

Arms: the critic's head on the policy's trunk (shared), a critic of its own (separate), the same
after 15 steps in which only the critic learns (pretrain), with lambda 1 for the critic and 0.95 for
the policy (decoupled), and values that are means of 4 and 9 completions of each prefix, with
one-step advantages as in VinePPO's equation 5 (mc4, mc9).

Metrics: `error`: mean |value - exact value| over the tokens of a batch, mean of steps 16 to 40;
`steps`: training steps of the policy until its exact expected score is 0.9 (41: never), without the
15 steps of pretraining, which cost samples all the same; `exact`: that score at the end.

Came out, 5 seeds (results/critic_quality/table.md): all three reproduced. The error of 4 samples is
0.031 [0.027, 0.034] below that of a critic of its own (0.026 against 0.057), of 9 samples 0.038
[0.035, 0.041] below; after pretraining the policy needs 8 steps, without 13, -5.0 [-5.6, -4.4]. A
critic on the policy's trunk is the worst, 0.117; lambda 1 for the critic changes nothing here.

    python experiments/sweep.py --config configs/ablations/critic_quality.py
"""

import dataclasses

import numpy as np

from rljax.algorithms.ppo import PPOConfig
from rljax.experiment import GRPOExperiment, ModelConfig, PPOExperiment
from rljax.kl import KLConfig
from rljax.reporting.runs import RunRecord
from rljax.rollout.distribution import SamplingConfig
from rljax.sweeps.nano import NanoPPO, train_nano
from rljax.sweeps.spec import Claim, Sweep, first_step_where, last, mean_of_last
from rljax.sweeps.walks import Walks
from rljax.training.flags import load_config
from rljax.training.optimizer import OptimizerConfig

STEPS, WARMUP, WANTED = 40, 15, 0.9

base = NanoPPO(
    world=Walks(),
    sampling=SamplingConfig(max_new_tokens=6, temperature=1.0),
    optimizer=OptimizerConfig(learning_rate=1e-3, critic_learning_rate=5e-3, schedule="constant"),
    ppo=PPOConfig(
        batch_size=32,
        num_epochs=4,
        critic="separate",
        value_coef=0.5,
        value_clip_eps=None,
        whiten_rewards=False,
        kl=KLConfig(coef=0.0),
    ),
    steps=STEPS,
)
sampled = {"ppo.critic": "shared", "ppo.value_coef": 0.0, "ppo.gae_lambda": 0.0}
arms = {
    "shared": {"ppo.critic": "shared"},
    "separate": {},
    "pretrain": {"ppo.critic_warmup_steps": WARMUP, "steps": STEPS + WARMUP},
    "decoupled": {"ppo.value_lambda": 1.0},
    "mc4": sampled | {"value_samples": 4},
    "mc9": sampled | {"value_samples": 9},
}


def _after_warmup(run: RunRecord, tag: str) -> np.ndarray:
    """Return the values of a tag at the steps in which the policy learns."""
    return np.asarray(run.metrics[tag].values)[run.config["ppo"]["critic_warmup_steps"] :]


def error(run: RunRecord) -> float:
    """Read the mean error of the values, of the policy's steps 16 to 40."""
    return float(np.mean(_after_warmup(run, "value/exact_error")[15:]))


def steps(run: RunRecord) -> float:
    """Read how many steps the policy takes to the score that is wanted; all and one: never."""
    values = _after_warmup(run, "objective/exact")
    good = np.flatnonzero(values >= WANTED)
    return float(good[0] if len(good) else len(values) + 1)


claims = (
    Claim("4 samples are nearer to the values than a critic", "error", "mc4", "<", "separate"),
    Claim("9 samples are nearer to the values than a critic", "error", "mc9", "<", "separate"),
    Claim(
        "a pretrained critic needs no more steps of the policy than one from nothing",
        "steps", "pretrain", "<=", "separate",
    ),
)  # fmt: skip

cpu = Sweep(
    name="critic_quality",
    base=base,
    arms=arms,
    seeds=(0, 1, 2, 3, 4),
    metrics={"error": error, "steps": steps, "exact": last("objective/exact")},
    claims=claims,
    program=train_nano,
    smoke={"pretrain_steps": 5, "steps": 20, "ppo.batch_size": 8},
)

solver = load_config("configs/grpo_arithmetic.py", GRPOExperiment)

full = Sweep(
    name="critic_quality",
    base=PPOExperiment(
        model=ModelConfig(source="EleutherAI/pythia-410m"),
        task=solver.task,
        sampling=solver.sampling,
        optimizer=OptimizerConfig(learning_rate=1e-6, warmup_steps=20),
        ppo=dataclasses.replace(
            base.ppo, batch_size=512, num_epochs=2, num_minibatches=8, kl=KLConfig(coef=1e-4)
        ),
        steps=650,
        eval_every=25,
    ),
    arms={
        "shared": {"ppo.critic": "shared"},
        "separate": {},
        "pretrain": {"ppo.critic_warmup_steps": 50, "steps": 700},
        "decoupled": {"ppo.value_lambda": 1.0},
    },
    seeds=(0, 1, 2, 3),
    metrics={
        "score": last("eval/scores"),
        "explained": mean_of_last("value/explained_variance", 0.5),
        "steps": first_step_where("eval/scores", ">=", 0.5, otherwise=701.0),
    },
    claims=(
        Claim("a pretrained critic ends at least as high", "score", "pretrain", ">=", "separate"),
    ),
    smoke={
        "model.source": "random:tiny-llama",
        "ppo.batch_size": 16,
        "ppo.critic_warmup_steps": 1,
        "optimizer.warmup_steps": 0,
        "steps": 3,
        "eval_every": 0,
        "eval_prompts": 8,
    },
)
"""Pythia-410M on sums and products, in place of the paper's Rho-1B on GSM8K, which the library has
no data for yet. There are no exact values here: the critic is judged by its explained variance, and
sampled values, which need a reward inside the program, are of the small size alone."""
