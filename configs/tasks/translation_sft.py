"""Fine-tune SmolLM2-135M-Instruct on Django's translations: the start of translation.py.

Needs pip install 'rljax[tasks]' and pip install --no-deps Django. 1,859 pairs in German, French and
Chinese, each with one similar training pair in front; 30 steps of 8 rows of 128 tokens. The upper
10 layers are trained. Measured (seed 0, 4 minutes): held-out loss 2.21 -> 1.52 nats a token.
Untrained, greedy, with two similar pairs in front, the model has a mean reward of
0.360 [0.298, 0.424] on 100 held-out prompts.

    python experiments/sft.py --config configs/tasks/translation_sft.py
"""

from dataclasses import replace

from rljax.algorithms.sft import SFTConfig
from rljax.experiment import ModelConfig, TextExperiment
from rljax.tasks.documents import DocumentConfig
from rljax.training.optimizer import OptimizerConfig

config = TextExperiment(
    model=ModelConfig(source="smollm2-135m-instruct", scan_layers=True),
    train_layers=10,
    data=DocumentConfig(
        source="translation?to=de,fr,zh_Hans&memory=1&max_chars=60", sequence_length=128
    ),
    sft=SFTConfig(batch_size=8),
    optimizer=OptimizerConfig(learning_rate=1e-4, schedule="cosine", warmup_steps=4),
    steps=30,
    workdir="runs/tasks/translation_sft",
    eval_batches=4,
    checkpoint_every=10,
)

variants = {
    "smoke": replace(
        config,
        model=ModelConfig(source="random:tiny-llama"),
        train_layers=0,
        data=replace(config.data, source="translation?to=de&max_chars=30", sequence_length=64),
        sft=replace(config.sft, batch_size=4),
        optimizer=replace(config.optimizer, learning_rate=1e-3, warmup_steps=0),
        steps=3,
        workdir="runs/tasks/translation_smoke_sft",
        eval_batches=2,
    ),
}
