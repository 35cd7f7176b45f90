"""GRPO on summaries of docstrings from a small model that starts from nothing. Not measured yet.

python experiments/pretrain.py --config configs/tasks/summarisation_scratch_sft.py
python experiments/grpo.py --config configs/tasks/summarisation_scratch.py
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
