"""A4. PPO's details, each left out in turn.

Huang et al. 2023, "The N implementation details of RLHF with PPO"
(https://huggingface.co/blog/the_n_implementation_details_of_rlhf_with_ppo), and Ziegler et al.
2019, whose code has them (https://arxiv.org/abs/1909.08593).

Task: the nano task of `rljax.sweeps.worlds`; half of the demonstrations end with a period, which
ends an answer as well as the end token does. 128 completions a step, four updates, a fixed KL
coefficient of 0.05 (the paper's is steered, which would hide what an arm does to the KL).

Arms: all (the details of 2019: rewards and advantages whitened, values clipped, a value head of 0,
logits divided by the temperature 0.7 wherever they are scored, a learning rate that falls to 0,
completions cut at the period and -1 without one, no dropout, Adam in TensorFlow's form), and

    no_reward_whitening, no_advantage_whitening, no_value_clip
    no_zero_value    the value head starts as the paper's reward heads do, N(0, 1 / (D + 1))
    no_temperature   samples at 0.7; learner and reference score at 1
    no_anneal        the learning rate stays
    no_penalty       no period is asked for, and nothing is cut behind it
    dropout          the learner drops a tenth of its states, the sampler and the reference none

No flag makes no_zero_value, no_temperature or dropout: they are faults put into the run
(`rljax.sweeps.faults`).

Metrics: `objective`, score - 0.05 KL (of the policies at the sampling temperature), last fifth of
the steps, for the score at equal KL: all arms are given one price. `score`, without the penalty,
and `period`, the share of completions with one, over the same steps. `explained`: variance of the
returns that the values explain, step 20. `KL`, nats a completion as the run logs it, and `sampled
KL`, the same at the sampling temperature, which differ in no_temperature only: step 50. `clipped`:
share of tokens that the clip acts on in the first epoch of step 1, before the policy has moved.

Claims: only those three that have a direction; that of the KL is made of both readings. Settings
were tried on seeds 100 and 101.

Came out, 5 seeds, 6 minutes beside other programs on 2 cores (results/ppo_details/table.md); three
of four claims reproduced, differences from all:

    no_temperature   logged KL +0.125 [0.102, 0.147] of 1.05 reproduced
                     sampled KL +0.029 [-0.004, 0.061] undecided
    no_penalty       share with a period 0.067 instead of 0.999 (0.5 before training) reproduced
    dropout          clipped 0.111 [0.105, 0.118] instead of 0 reproduced

Most of what the log shows without the temperature is the log's: ratios at temperature 1 of what was
sampled at 0.7. What is sampled drifts further by little, and the KL of one step is one batch's,
which varies by 0.05 to 0.09 from step to step. Looked at afterwards, in the same runs: the sampled
KL is +0.011 [0.000, 0.021] over the last fifth of the steps, +0.026 [0.018, 0.034] over all.

Reported: the objective is 0.904, with dropout 0.896, without the penalty, where the KL is lower,
0.913. The values explain 0.20 of the returns' variance at step 20, without reward whitening -0.37,
without a zero head 0.12; the causes were not looked for. The clip of values never acted
(`value/clip_fraction` is 0 at all steps), so that no_value_clip came out as all did. `full` has the
arms that flags make, means of the last fifth in place of single steps, and has been run as
`--smoke` only.

    python experiments/sweep.py --config configs/ablations/ppo_details.py
"""

from rljax.algorithms.ppo import PPOConfig
from rljax.kl import KLConfig
from rljax.rollout.distribution import SamplingConfig
from rljax.sweeps.faults import FaultyPPO, Sentences
from rljax.sweeps.nano import train_nano
from rljax.sweeps.spec import Claim, Sweep, at, less_kl, mean_of_last
from rljax.sweeps.tldr import SMOKE, tldr_ppo, tldr_stages
from rljax.training.optimizer import OptimizerConfig

BETA = 0.05
WORLD = Sentences(period=0.5)

base = FaultyPPO(
    world=WORLD,
    sampling=SamplingConfig(max_new_tokens=7, temperature=0.7),
    optimizer=OptimizerConfig(
        learning_rate=1e-3, schedule="linear", adam_form="tf", adam_eps=1e-5, max_grad_norm=None
    ),
    ppo=PPOConfig(
        batch_size=128,
        num_epochs=4,
        value_coef=0.1,
        whiten_rewards=True,
        truncate_token=WORLD.full_stop,
        truncate_after=WORLD.letters,
        truncate_penalty=-1.0,
        kl=KLConfig(coef=BETA),
    ),
    steps=60,
)
flags = {
    "no_advantage_whitening": {"ppo.whiten_advantages": False},
    "no_value_clip": {"ppo.value_clip_eps": None},
    "no_anneal": {"optimizer.schedule": "constant"},
}
arms = {
    "all": {},
    "no_reward_whitening": {"ppo.whiten_rewards": False},
    **flags,
    "no_penalty": {"ppo.truncate_token": None},
    "no_zero_value": {"fault": "value_head"},
    "no_temperature": {"fault": "temperature"},
    "dropout": {"fault": "dropout"},
}


claims = (
    Claim("without the temperature in the scoring the logged KL is higher",
          "KL", "no_temperature", ">", "all"),
    Claim("and so is the KL of what is sampled", "sampled KL", "no_temperature", ">", "all"),
    Claim("without the penalty fewer completions have a period",
          "period", "no_penalty", "<", "all"),
    Claim("with dropout the clip acts in the first epoch", "clipped", "dropout", ">", "all"),
)  # fmt: skip

cpu = Sweep(
    name="ppo_details",
    base=base,
    arms=arms,
    seeds=(0, 1, 2, 3, 4),
    metrics={
        "objective": less_kl(BETA, 0.2, "objective/sampled_kl"),
        "score": mean_of_last("objective/scores", 0.2),
        "explained": at("value/explained_variance", 20),
        "KL": at("objective/kl", 50),
        "sampled KL": at("objective/sampled_kl", 50),
        "period": mean_of_last("world/period", 0.2),
        "clipped": at("policy/first_clip_fraction", 1),
    },
    claims=claims,
    program=train_nano,
    smoke={"steps": 50, "pretrain_steps": 5, "ppo.batch_size": 8},
)

full = Sweep(
    name="ppo_details",
    base=tldr_ppo(),
    arms={
        "all": {},
        "reward_whitening": {"ppo.whiten_rewards": True},
        **flags,
        "no_penalty": {"ppo.missing_eos_penalty": None},
    },
    seeds=(0, 1, 2, 3),
    metrics={
        "objective": less_kl(BETA, 0.2),
        "score": mean_of_last("objective/scores", 0.2),
        "explained": mean_of_last("value/explained_variance", 0.2),
        "KL": mean_of_last("objective/kl", 0.2),
        "ends": mean_of_last("completion/eos_fraction", 0.2),
    },
    claims=(Claim("without the penalty fewer completions end", "ends", "no_penalty", "<", "all"),),
    stages=tldr_stages(),
    smoke=SMOKE | {"ppo.batch_size": 8, "ppo.gradient_accumulation": 1},
)
"""Pythia-1B on TL;DR with the settings of Huang et al. 2024, which whiten no rewards and penalise
completions that do not end: the arms that flags make."""
