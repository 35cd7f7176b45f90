"""Teach a tiny model to sort the letters of a word, from noisy demonstrations: a base for RL.

8,000 words of 3 to 6 letters ("dbca=" -> "abcd"), a tenth of them held out by their hash; bytes are
the tokens, the loss is on the answers. In half of the demonstrations two neighbours have changed
places ("acbd"). The model learns to sort and learns the slips too: at temperature 1 it is right in
about half of the words, which leaves RL something to learn on every one. RL goes on with the same
split (configs/grpo_sorting.py, ppo_sorting.py): its held-out words were never demonstrated.

After 500 steps the held-out loss is 0.34 nats a token, and 0.485 [0.415, 0.555] of 200 held-out
words are sorted at temperature 1; beside ten other programs that took 100 s on one core.

    python experiments/pretrain.py --config configs/pretrain_sorting.py --workdir runs/sorting
"""

from dataclasses import replace

from rljax.algorithms.sft import SFTConfig
from rljax.experiment import PretrainExperiment
from rljax.models.scratch import ArchitectureConfig
from rljax.tasks.documents import DocumentConfig
from rljax.training.optimizer import OptimizerConfig

config = PretrainExperiment(
    architecture=ArchitectureConfig(
        family="llama", hidden_size=64, num_layers=2, num_heads=4, context_length=64
    ),
    tokenizer="bytes",
    data=DocumentConfig(source="sorting:6", sequence_length=64),
    sft=SFTConfig(batch_size=32),
    optimizer=OptimizerConfig(
        learning_rate=3e-3,
        schedule="cosine",
        warmup_steps=20,
        adam_b2=0.98,
        adam_eps=1e-8,
    ),
    steps=500,
    eval_batches=None,
    eval_every=100,
    checkpoint_every=250,
)

variants = {
    "smoke": replace(
        config,
        architecture=replace(config.architecture, hidden_size=32, num_layers=1),
        sft=replace(config.sft, batch_size=4),
        optimizer=replace(config.optimizer, warmup_steps=0),
        steps=3,
        eval_batches=1,
        eval_every=0,
    ),
}
