"""GRPO on summaries of docstrings from a small model that starts from nothing.

    python experiments/pretrain.py --config configs/tasks/summarisation_scratch_sft.py
    python experiments/grpo.py --config configs/tasks/summarisation_scratch.py

200 held-out docstrings, temperature 1, one seed, 95% intervals; 3 minutes on 2 cores, both stages:

    policy                reward                  ROUGE-1   ROUGE-2   ROUGE-L   words
    supervised start      0.053 [0.044, 0.063]    5.5       0.0       5.1       8.4
    + RL                  0.107 [0.098, 0.117]    11.7      0.5       10.2      17.9

RL is above the start by 0.054 [0.042, 0.066], and not in the way that one would want: the start is
hardly able to write, and what is rewarded are the commonest words of summaries in a completion
twice as long ("Return to the a seconds a string or the."), at 17 nats from the start. The rules are
far above both, 0.164 for the first sentence. A policy that writes is needed for more.
"""

from dataclasses import replace

from rljax.algorithms.grpo import GRPOConfig
from rljax.experiment import GRPOExperiment, ModelConfig
from rljax.kl import KLConfig
from rljax.rollout.distribution import SamplingConfig
from rljax.tasks import TaskConfig
from rljax.training.optimizer import OptimizerConfig

config = GRPOExperiment(
    model=ModelConfig(source="runs/tasks/summarisation_scratch_sft"),
    task=TaskConfig(prompts="summarisation?max_chars=240", prompt_tokens=None, reward="task"),
    sampling=SamplingConfig(max_new_tokens=24, temperature=1.0),
    grpo=GRPOConfig(
        batch_size=128,
        samples_per_prompt=8,
        num_minibatches=2,
        kl=KLConfig(coef=0.0),
    ),
    optimizer=OptimizerConfig(learning_rate=3e-4, schedule="linear", adam_eps=1e-5),
    steps=60,
    workdir="runs/tasks/summarisation_scratch",
    eval_prompts=200,
    prompt_multiple=64,
    checkpoint_every=30,
)

variants = {
    "smoke": replace(
        config,
        model=ModelConfig(source="random:tiny-llama"),
        task=replace(config.task, prompts="summarisation?max_chars=80"),
        sampling=replace(config.sampling, max_new_tokens=8),
        grpo=replace(config.grpo, batch_size=16),
        steps=3,
        workdir="runs/tasks/summarisation_scratch_smoke",
        eval_prompts=8,
    ),
}
