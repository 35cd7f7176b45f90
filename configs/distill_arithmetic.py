"""Distil a model that can add into one a sixth of its size: GKD with half on-policy batches.

The teacher is what configs/pretrain_arithmetic.py trains, the student a Llama of two layers with
random weights and the same byte tokenizer. Agarwal et al. 2024: lambda 0.5, forward KL.

    python experiments/pretrain.py --config configs/pretrain_arithmetic.py --workdir runs/sums
    python experiments/distill.py
"""

from dataclasses import replace

from rljax.algorithms.distillation import DistillConfig
from rljax.experiment import DistillExperiment, ModelConfig
from rljax.rollout.distribution import SamplingConfig
from rljax.tasks.documents import DocumentConfig
from rljax.training.optimizer import OptimizerConfig

config = DistillExperiment(
    model=ModelConfig(source="random:tiny-llama"),
    teacher=ModelConfig(source="runs/sums"),
    data=DocumentConfig(source="arithmetic:50", sequence_length=64),
    distill=DistillConfig(divergence="forward", on_policy_fraction=0.5, batch_size=32),
    sampling=SamplingConfig(max_new_tokens=4, temperature=1.0),
    optimizer=OptimizerConfig(
        learning_rate=3e-3, schedule="cosine", warmup_steps=20, adam_b2=0.98, adam_eps=1e-8
    ),
    steps=400,
    eval_batches=None,
    eval_every=100,
    checkpoint_every=200,
)

variants = {
    "smoke": replace(
        config,
        teacher=ModelConfig(source="random:tiny-gpt2"),
        data=replace(config.data, source="arithmetic:10", held_out_fraction=0.3),
        distill=replace(config.distill, batch_size=4),
        optimizer=replace(config.optimizer, warmup_steps=0),
        steps=4,
        eval_every=0,
    ),
}
