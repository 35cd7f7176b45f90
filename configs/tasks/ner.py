"""doc"""

from dataclasses import replace

from rljax.algorithms.grpo import GRPOConfig
from rljax.experiment import GRPOExperiment, ModelConfig
from rljax.kl import KLConfig
from rljax.rollout.distribution import SamplingConfig
from rljax.tasks import TaskConfig
from rljax.training.optimizer import OptimizerConfig

config = GRPOExperiment(
    model=ModelConfig(source="runs/tasks/ner_sft"),
    task=TaskConfig(prompts="ner", prompt_tokens=None, reward="task"),
    sampling=SamplingConfig(max_new_tokens=40, temperature=1.0),
    grpo=GRPOConfig(batch_size=256, samples_per_prompt=8, num_minibatches=2, kl=KLConfig(coef=0.0)),
    optimizer=OptimizerConfig(learning_rate=2e-4, schedule="linear", adam_eps=1e-5),
    steps=80,
    workdir="runs/tasks/ner",
    eval_prompts=228,
    prompt_multiple=128,
    checkpoint_every=40,
)

variants = {
    "smoke": replace(
        config,
        model=ModelConfig(source="random:tiny-llama"),
        task=replace(config.task, prompts="ner?max_words=8"),
        sampling=replace(config.sampling, max_new_tokens=8),
        grpo=replace(config.grpo, batch_size=16),
        steps=3,
        workdir="runs/tasks/ner_smoke",
        eval_prompts=8,
    ),
}
