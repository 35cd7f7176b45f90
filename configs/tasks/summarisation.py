"""doc"""

from dataclasses import replace

from rljax.algorithms.grpo import GRPOConfig
from rljax.experiment import GRPOExperiment, ModelConfig
from rljax.kl import KLConfig
from rljax.rollout.distribution import SamplingConfig
from rljax.tasks import TaskConfig
from rljax.training.optimizer import OptimizerConfig

config = GRPOExperiment(
    model=ModelConfig(source="runs/tasks/summarisation_sft", scan_layers=True),
    train_layers=8,
    task=TaskConfig(
        prompts="summarisation?max_chars=240",
        prompt_tokens=None,
        reward="task",
    ),
    sampling=SamplingConfig(max_new_tokens=24, temperature=1.0),
    grpo=GRPOConfig(
        batch_size=64,
        samples_per_prompt=8,
        num_minibatches=1,
        gradient_accumulation=4,
        length_buckets=2,
        kl=KLConfig(coef=0.0),
    ),
    optimizer=OptimizerConfig(learning_rate=1e-4, schedule="linear", adam_eps=1e-5),
    steps=16,
    workdir="runs/tasks/summarisation",
    eval_prompts=200,
    prompt_multiple=32,
    checkpoint_every=8,
)

variants = {
    "smoke": replace(
        config,
        model=ModelConfig(source="random:tiny-llama"),
        train_layers=0,
        task=replace(config.task, prompts="summarisation?max_chars=100"),
        sampling=replace(config.sampling, max_new_tokens=8),
        grpo=replace(config.grpo, batch_size=16, gradient_accumulation=1, length_buckets=1),
        steps=3,
        workdir="runs/tasks/summarisation_smoke",
        eval_prompts=8,
    ),
}
