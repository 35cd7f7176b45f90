"""A small model from scratch learns to translate: the start of configs/tasks/translation.py.

Django's messages in German, French and Chinese (pip install --no-deps Django), 1,947 pairs to train
on and 305 held out; a source is on one side in all languages. Two similar training pairs stand in
front of each prompt. The pairs are few: after 200 steps the loss is 3.0 nats a token on those
trained on and 4.13 (from 7.67) on those held out, 0.27 of the tokens right.

200 steps took 4 minutes beside other programs (5.7 minutes of processor time, compilation and five
evaluations included).

    python experiments/pretrain.py --config configs/tasks/translation_sft.py
"""

from dataclasses import replace

from rljax.algorithms.sft import SFTConfig
from rljax.experiment import PretrainExperiment
from rljax.models.scratch import ArchitectureConfig
from rljax.tasks.documents import DocumentConfig
from rljax.training.optimizer import OptimizerConfig

config = PretrainExperiment(
    architecture=ArchitectureConfig(
        family="llama", hidden_size=192, num_layers=3, num_heads=6, context_length=256
    ),
    tokenizer="bpe:2048",
    data=DocumentConfig(source="translation?to=de,fr,zh_Hans&memory=2", sequence_length=256),
    sft=SFTConfig(batch_size=16),
    optimizer=OptimizerConfig(
        learning_rate=2e-3,
        schedule="cosine",
        warmup_steps=20,
        adam_b2=0.98,
        adam_eps=1e-8,
    ),
    steps=200,
    workdir="runs/tasks/translation_sft",
    eval_batches=None,
    eval_every=50,
    checkpoint_every=100,
)

variants = {
    "smoke": replace(
        config,
        architecture=replace(config.architecture, hidden_size=32, num_layers=1, num_heads=4),
        tokenizer="bytes",
        data=replace(config.data, source="translation?to=de"),
        sft=replace(config.sft, batch_size=4),
        optimizer=replace(config.optimizer, warmup_steps=0),
        steps=3,
        workdir="runs/tasks/translation_smoke_sft",
        eval_batches=1,
        eval_every=0,
    ),
}
