"""Teach a tiny model sums of two numbers, from scratch: a teacher for distill_arithmetic.py.

All sums a+b= of numbers below 50 (2,500), a tenth of them held out by their hash; bytes are the
tokens, the loss is on the answers. A task with the same split has `--task.prompts arithmetic:50
--task.prompt-tokens None`. It is no base for RL: the last digit is learnt all at once (held-out
accuracy of tokens 0.71 after 700 steps, 0.997 after 900, each with its own cosine), so that before
there is next to nothing to sharpen (GRPO left 0.185 and 0.140 where they were), and after it
nothing is left. configs/pretrain_sorting.py is that base.

    python experiments/pretrain.py --config configs/pretrain_arithmetic.py --workdir runs/sums
"""

from dataclasses import replace

from rljax.algorithms.sft import SFTConfig
from rljax.experiment import PretrainExperiment
from rljax.models.scratch import ArchitectureConfig
from rljax.tasks.documents import DocumentConfig
from rljax.training.optimizer import OptimizerConfig

config = PretrainExperiment(
    architecture=ArchitectureConfig(
        family="llama", hidden_size=128, num_layers=3, num_heads=4, context_length=64
    ),
    tokenizer="bytes",
    data=DocumentConfig(source="arithmetic:50", sequence_length=64),
    sft=SFTConfig(batch_size=16),
    optimizer=OptimizerConfig(
        learning_rate=2e-3,
        schedule="cosine",
        warmup_steps=20,
        adam_b2=0.98,
        adam_eps=1e-8,
    ),
    steps=1500,
    eval_batches=None,
    eval_every=100,
    checkpoint_every=500,
)

variants = {
    "smoke": replace(
        config,
        architecture=replace(config.architecture, hidden_size=32, num_layers=1),
        data=replace(config.data, source="arithmetic:10", held_out_fraction=0.3),
        sft=replace(config.sft, batch_size=4),
        optimizer=replace(config.optimizer, warmup_steps=0),
        steps=3,
        eval_every=0,
    ),
}
