"""GRPO on sums, for a tiny model trained from scratch: minutes on a laptop, a base for ablations.

The policy is what configs/pretrain_arithmetic.py makes, which answers some of the sums below 50;
reward 1 for the right answer. Held-out sums are held out of both stages.

Not shown to learn yet, one seed each: at rate 5e-4 held-out accuracy fell, 0.185 -> 0.150 after 200
steps; at 1e-4 it was 0.205 after 50, and batches stayed between 0.16 and 0.25 up to step 96. From a
start of 700 steps, at 3e-4: 0.140 -> 0.120 [0.080, 0.165] after 200, KL 0.5. Pretraining learns the
last digit all at once (held-out accuracy of tokens 0.71 after 700 steps, 0.997 after 900, each with
its own cosine): before that there is next to nothing for RL to sharpen, and after it nothing left.

    python experiments/pretrain.py --config configs/pretrain_arithmetic.py --workdir runs/sums
    python experiments/grpo.py --config configs/grpo_sums.py
"""

from dataclasses import replace

from rljax.algorithms.grpo import GRPOConfig
from rljax.experiment import GRPOExperiment, ModelConfig
from rljax.kl import KLConfig
from rljax.rollout.distribution import SamplingConfig
from rljax.tasks import TaskConfig
from rljax.training.optimizer import OptimizerConfig

config = GRPOExperiment(
    model=ModelConfig(source="runs/sums"),
    task=TaskConfig(prompts="arithmetic:50", prompt_tokens=None, reward="exact_match"),
    sampling=SamplingConfig(max_new_tokens=4, temperature=1.0),
    grpo=GRPOConfig(
        batch_size=256,
        samples_per_prompt=8,
        num_minibatches=2,
        kl=KLConfig(coef=0.0),
    ),
    optimizer=OptimizerConfig(learning_rate=1e-4, schedule="linear", adam_eps=1e-5),
    steps=200,
    eval_prompts=200,
    eval_every=50,
    checkpoint_every=50,
)

variants = {
    "smoke": replace(
        config,
        model=ModelConfig(source="random:tiny-llama"),
        grpo=replace(config.grpo, batch_size=16),
        steps=3,
        eval_prompts=8,
        eval_every=0,
    ),
}
