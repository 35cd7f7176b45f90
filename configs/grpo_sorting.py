"""GRPO on sorting letters, for a tiny model trained from scratch: a minute, a base for ablations.

The policy is what configs/pretrain_sorting.py makes, which sorts a word with a slip in every second
one, as its demonstrations did; reward 1 for the right answer. Held-out words are held out of both
stages.

    python experiments/pretrain.py --config configs/pretrain_sorting.py --workdir runs/sorting
    python experiments/grpo.py --config configs/grpo_sorting.py
"""

from dataclasses import replace

from rljax.algorithms.grpo import GRPOConfig
from rljax.experiment import GRPOExperiment, ModelConfig
from rljax.kl import KLConfig
from rljax.rollout.distribution import SamplingConfig
from rljax.tasks import TaskConfig
from rljax.training.optimizer import OptimizerConfig

config = GRPOExperiment(
    model=ModelConfig(source="runs/sorting"),
    task=TaskConfig(prompts="sorting:6", prompt_tokens=None, reward="exact_match"),
    sampling=SamplingConfig(max_new_tokens=8, temperature=1.0),
    grpo=GRPOConfig(
        batch_size=256,
        samples_per_prompt=8,
        num_minibatches=2,
        kl=KLConfig(coef=0.0),
    ),
    optimizer=OptimizerConfig(learning_rate=3e-4, schedule="linear", adam_eps=1e-5),
    steps=150,
    eval_prompts=200,
    prompt_multiple=8,
    checkpoint_every=50,
)

variants = {
    "smoke": replace(
        config,
        model=ModelConfig(source="random:tiny-llama"),
        grpo=replace(config.grpo, batch_size=16),
        steps=3,
        eval_prompts=8,
    ),
}
