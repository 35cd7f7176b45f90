"""GRPO on translation from a small model that starts from nothing: less to compute, and far worse.

The task and reward of configs/tasks/translation.py, with two similar pairs in each prompt. The
pairs are too few for such a start, and RL only makes it longer. 200 held-out prompts, temperature
1, one seed, 95% intervals, about 5 minutes on 2 cores beside other programs, both stages:

    policy              reward (chrF)           BLEU   placeholders   length ratio
    supervised start    0.073 [0.059, 0.089]    4.2    0.17           1.2
    + RL                0.085 [0.073, 0.099]    2.0    0.11           3.8

The reward's gain of 0.012 [0.001, 0.022] is no better translation: chrF weighs recall of letters,
which more letters bring, and BLEU falls by half. Copying the source is far above both.

    python experiments/pretrain.py --config configs/tasks/translation_scratch_sft.py
    python experiments/grpo.py --config configs/tasks/translation_scratch.py
"""

from dataclasses import replace

from rljax.algorithms.grpo import GRPOConfig
from rljax.experiment import GRPOExperiment, ModelConfig
from rljax.kl import KLConfig
from rljax.rollout.distribution import SamplingConfig
from rljax.tasks import TaskConfig
from rljax.training.optimizer import OptimizerConfig

config = GRPOExperiment(
    model=ModelConfig(source="runs/tasks/translation_scratch_sft"),
    task=TaskConfig(
        prompts="translation?to=de,fr,zh_Hans&memory=2", prompt_tokens=None, reward="task"
    ),
    sampling=SamplingConfig(max_new_tokens=24, temperature=1.0),
    grpo=GRPOConfig(
        batch_size=128,
        samples_per_prompt=8,
        num_minibatches=2,
        kl=KLConfig(coef=0.0),
    ),
    optimizer=OptimizerConfig(learning_rate=3e-4, schedule="linear", adam_eps=1e-5),
    steps=60,
    workdir="runs/tasks/translation_scratch",
    eval_prompts=200,
    prompt_multiple=64,
    checkpoint_every=30,
)

variants = {
    "smoke": replace(
        config,
        model=ModelConfig(source="random:tiny-llama"),
        task=replace(config.task, prompts="translation?to=de&max_chars=30"),
        sampling=replace(config.sampling, max_new_tokens=8),
        grpo=replace(config.grpo, batch_size=16),
        steps=3,
        workdir="runs/tasks/translation_scratch_smoke",
        eval_prompts=8,
    ),
}
