"""PPO or GRPO."""

from dataclasses import replace

from rljax.algorithms.grpo import GRPOConfig
from rljax.experiment import GRPOExperiment, ModelConfig
from rljax.kl import KLConfig
from rljax.rollout.distribution import SamplingConfig
from rljax.tasks import TaskConfig
from rljax.training.optimizer import OptimizerConfig

config = GRPOExperiment(
    model=ModelConfig(source="runs/tasks/customer_service_sft"),
    task=TaskConfig(prompts="customer_service", prompt_tokens=None, reward="task"),
    sampling=SamplingConfig(max_new_tokens=40, temperature=1.0),
    grpo=GRPOConfig(
        batch_size=256,
        samples_per_prompt=8,
        num_minibatches=2,
        kl=KLConfig(coef=0.0),
    ),
    optimizer=OptimizerConfig(learning_rate=3e-4, schedule="linear", adam_eps=1e-5),
    steps=150,
    workdir="runs/tasks/customer_service",
    eval_prompts=480,
    prompt_multiple=8,
    checkpoint_every=50,
)

variants = {
    "smoke": replace(
        config,
        model=ModelConfig(source="random:tiny-llama"),
        grpo=replace(config.grpo, batch_size=16),
        steps=3,
        workdir=None,
        eval_prompts=8,
    ),
}
