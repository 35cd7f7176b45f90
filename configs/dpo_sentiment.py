"""DPO towards positive film reviews (Rafailov et al. 2023, https://arxiv.org/abs/2305.18290).

SmolLM2-135M-Instruct on pairs of review continuations of 24 tokens: that of a positive review is
preferred to that of a negative one, after 16 tokens of either. Not yet measured.

    python experiments/dpo.py
    python experiments/dpo.py --config configs/dpo_sentiment.py:ipo
    python experiments/evaluate.py --run runs/dpo-DATE-TIME
"""

from dataclasses import replace

from rljax.algorithms.dpo import DPOConfig
from rljax.experiment import ModelConfig, PreferenceExperiment
from rljax.tasks.preferences import PreferenceConfig
from rljax.training.optimizer import OptimizerConfig

config = PreferenceExperiment(
    model=ModelConfig(source="smollm2-135m-instruct"),
    data=PreferenceConfig(source="imdb", completion_tokens=24, max_records=480),
    dpo=DPOConfig(loss="sigmoid", beta=0.1, batch_size=8),
    optimizer=OptimizerConfig(learning_rate=5e-6, schedule="linear", warmup_steps=5),
    steps=50,
    eval_batches=None,
    checkpoint_every=25,
)

smoke = replace(
    config,
    model=ModelConfig(source="random:tiny-llama"),
    data=replace(config.data, max_records=120),
    dpo=replace(config.dpo, batch_size=4),
    optimizer=replace(config.optimizer, learning_rate=1e-3, warmup_steps=0),
    steps=3,
)


def with_loss(**changes: object) -> PreferenceExperiment:
    return replace(config, dpo=replace(config.dpo, **changes))


variants = {
    "smoke": smoke,
    "cdpo": with_loss(label_smoothing=0.1),
    "robust": with_loss(loss="robust", label_smoothing=0.1),
    "ipo": with_loss(loss="ipo"),
    "hinge": with_loss(loss="hinge"),
    "kto": with_loss(loss="kto"),
    "orpo": with_loss(loss="orpo"),
    "simpo": with_loss(loss="simpo", beta=2.0, target_margin=1.0),
    "smoke-kto": replace(smoke, dpo=replace(smoke.dpo, loss="kto")),
    "smoke-simpo": replace(smoke, dpo=replace(smoke.dpo, loss="simpo", beta=2.0)),
}
