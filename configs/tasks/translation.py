"""GRPO on translating Django's messages into German, French and Chinese, from translation_sft.py.

The reward is sacrebleu's sentence chrF in [0, 1], times 0.5 where the placeholders (%(name)s, %s,
{name}) are not the source's. 286 pairs are held out; of the first 200 of them, 95% bootstrap
intervals (BLEU and chrF are corpus scores, means of the three languages):

    copy the source                     0.229 [0.192, 0.268]   BLEU 17.0  chrF 25.5
    rule: word by word (Dice)           0.401 [0.358, 0.447]   BLEU 21.7  chrF 42.7
    supervised: translation memory      0.395 [0.354, 0.439]   BLEU 34.3  chrF 43.4
    start, at temperature 1             0.198 [0.161, 0.236]   BLEU 12.7  chrF 21.9
    start and GRPO, the same            0.325 [0.284, 0.367]   BLEU 22.2  chrF 34.3

GRPO adds +0.127 [+0.095, +0.160] (one seed, KL 1.7 nats a completion), in all three languages:
placeholders are kept in 0.76 of the answers for 0.45, Chinese answers are 1.4 times as long as the
right ones for 2.3 times. Another start of the same config had 0.232. Many held-out sources have
relatives in training ("Delete %(name)s"), which is what rule and memory live on: they stay ahead.
The start took 4 minutes on 2 idle cores, GRPO 12 (20 s a step).

    python experiments/sft.py --config configs/tasks/translation_sft.py
    python experiments/grpo.py --config configs/tasks/translation.py
"""

from dataclasses import replace

from rljax.algorithms.grpo import GRPOConfig
from rljax.experiment import GRPOExperiment, ModelConfig
from rljax.kl import KLConfig
from rljax.rollout.distribution import SamplingConfig
from rljax.tasks import TaskConfig
from rljax.training.optimizer import OptimizerConfig

config = GRPOExperiment(
    model=ModelConfig(source="runs/tasks/translation_sft", scan_layers=True),
    train_layers=10,
    task=TaskConfig(
        prompts="translation?to=de,fr,zh_Hans&memory=1&max_chars=60",
        prompt_tokens=None,
        reward="task",
    ),
    sampling=SamplingConfig(max_new_tokens=24, temperature=1.0),
    grpo=GRPOConfig(
        batch_size=64,
        samples_per_prompt=8,
        num_minibatches=1,
        gradient_accumulation=4,
        kl=KLConfig(coef=0.0),
    ),
    optimizer=OptimizerConfig(learning_rate=1e-4, schedule="linear", adam_eps=1e-5),
    steps=24,
    workdir="runs/tasks/translation",
    eval_prompts=200,
    prompt_multiple=32,
    checkpoint_every=12,
)

variants = {
    "smoke": replace(
        config,
        model=ModelConfig(source="random:tiny-llama"),
        train_layers=0,
        task=replace(config.task, prompts="translation?to=de&max_chars=30"),
        sampling=replace(config.sampling, max_new_tokens=8),
        grpo=replace(config.grpo, batch_size=16, gradient_accumulation=1),
        steps=3,
        workdir="runs/tasks/translation_smoke",
        eval_prompts=8,
    ),
}
