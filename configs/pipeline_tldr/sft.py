"""Summaries of Reddit posts, 1 of 3: Pythia-1B learns the reference summaries.

Settings of Huang et al. 2024 (https://arxiv.org/abs/2403.17031): one epoch at 3e-6, batches of 128.
Then reward_model.py, then ppo.py. Not measured here yet; the paper's ROUGE-L is 0.247.

    python experiments/sft.py --config configs/pipeline_tldr/sft.py
"""

from dataclasses import replace

from rljax.algorithms.sft import SFTConfig
from rljax.experiment import ModelConfig, TextExperiment
from rljax.tasks.documents import DocumentConfig
from rljax.training.optimizer import OptimizerConfig

config = TextExperiment(
    model=ModelConfig(source="EleutherAI/pythia-1b-deduped"),
    data=DocumentConfig(
        source="hf:trl-lib/tldr?split=train", sequence_length=576, too_long="truncate"
    ),
    sft=SFTConfig(batch_size=128, gradient_accumulation=16),
    optimizer=OptimizerConfig(learning_rate=3e-6, schedule="cosine", adam_eps=1e-5),
    steps=912,
    workdir="runs/pipeline_tldr/sft",
    eval_batches=8,
    checkpoint_every=300,
)

variants = {
    "smoke": replace(
        config,
        model=ModelConfig(source="random:tiny-gpt2"),
        data=replace(config.data, source="imdb", max_documents=200, sequence_length=64),
        sft=SFTConfig(batch_size=4),
        optimizer=replace(config.optimizer, learning_rate=1e-3),
        steps=3,
        workdir="runs/pipeline_tldr_smoke/sft",
        eval_batches=2,
    ),
}
