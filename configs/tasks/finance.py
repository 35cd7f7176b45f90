"""GRPO on text finance: answer where sure, say "unknown" where not."""

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
        batch_size=512,
        samples_per_prompt=8,
        num_minibatches=2,
        advantage="group_mean",
        loss_aggregation="token",
        kl=KLConfig(coef=0.0),
    ),
    optimizer=OptimizerConfig(learning_rate=3e-4, schedule="linear", adam_eps=1e-5),
    steps=150,
    workdir="runs/tasks/finance",
    eval_prompts=1000,
    prompt_multiple=16,
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
