"""A reward model of film reviews' sentiment (as Ziegler et al. 2019, but from review labels).

SmolLM2-135M-Instruct with a scalar head, on pairs of review continuations of 24 tokens: that of a
positive review is preferred to that of a negative one, after 16 tokens of either. Prompts are those
of configs/ppo_sentiment.py, and what that holds out is held out here too.

Measured (seed 0, 10 minutes on 2 busy cores): of 120 held-out pairs 0.617 [0.525, 0.700] in the
right order, 0.500 before. It sees 640 of the 11,000 pairs that the reviews give: raise
--data.max-records and --steps for more.

    python experiments/reward_model.py --workdir runs/rm
    python experiments/ppo.py --task.reward model:runs/rm
"""

from dataclasses import replace

from rljax.algorithms.reward_model import RewardModelConfig
from rljax.experiment import ModelConfig, RewardExperiment
from rljax.tasks.preferences import PreferenceConfig
from rljax.training.optimizer import OptimizerConfig

config = RewardExperiment(
    model=ModelConfig(source="smollm2-135m-instruct"),
    data=PreferenceConfig(source="imdb", completion_tokens=24, max_records=1200),
    reward_model=RewardModelConfig(loss="pairwise", batch_size=8, normalise_samples=64),
    optimizer=OptimizerConfig(learning_rate=2e-5, schedule="linear", warmup_steps=5),
    steps=80,
    eval_batches=None,
    eval_every=40,
    checkpoint_every=40,
)

smoke = replace(
    config,
    model=ModelConfig(source="random:tiny-llama"),
    data=replace(config.data, max_records=120),
    reward_model=replace(config.reward_model, batch_size=4, normalise_samples=8),
    optimizer=replace(config.optimizer, learning_rate=1e-3, warmup_steps=0),
    steps=3,
    eval_every=0,
)


def with_loss(**changes: object) -> RewardExperiment:
    return replace(config, reward_model=replace(config.reward_model, **changes))


variants = {
    "smoke": smoke,
    "classification": with_loss(loss="classification", normalise_samples=0),
    "vader-regression": replace(
        with_loss(loss="regression", normalise_samples=0),
        data=replace(config.data, gold_reward="sentiment"),
    ),
    "vader-bradley-terry": replace(
        config,
        data=replace(config.data, gold_reward="sentiment", labels="bradley_terry", label_scale=4.0),
    ),
}
