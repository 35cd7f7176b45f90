"""Positive continuations of film reviews (mock sentiment of Ziegler et al. 2019, section 3.1.1).

SmolLM2-135M-Instruct goes on from the first 16 tokens of an IMDB review; the score is VADER's
compound sentiment of the 24 tokens it writes.

NLPO (Ramamurthy et al. 2022, https://arxiv.org/abs/2210.01241) is its variant whose actions an
earlier policy masks: at every token only the nucleus of mass 0.9 of the policy as it was up to 5
steps ago, and at least its 100 most probable tokens, can be sampled; these are the values of
RL4LMs' IMDB task. The run's own evaluations are masked too, as RL4LMs'; experiments/evaluate.py,
generate.py and export.py take the policy alone. Not yet measured.

    python experiments/ppo.py
    python experiments/ppo.py --config configs/ppo_sentiment.py:nlpo
"""

from dataclasses import replace

from rljax.algorithms.ppo import PPOConfig
from rljax.experiment import ModelConfig, PPOExperiment
from rljax.kl import KLConfig
from rljax.rollout.distribution import SamplingConfig
from rljax.tasks import TaskConfig
from rljax.training.alarms import AlarmConfig
from rljax.training.optimizer import OptimizerConfig

config = PPOExperiment(
    model=ModelConfig(source="smollm2-135m-instruct"),
    task=TaskConfig(prompts="imdb", prompt_tokens=16, min_prompt_tokens=16, reward="sentiment"),
    sampling=SamplingConfig(max_new_tokens=24, temperature=0.7),
    alarms=AlarmConfig(truncated=None),  # reviews are continued up to a length: cut on purpose
    ppo=PPOConfig(
        batch_size=32,
        num_epochs=1,
        num_minibatches=2,
        gae_lambda=1.0,
        whiten_rewards=False,
        kl=KLConfig(coef=0.04, controller="fixed"),
    ),
    optimizer=OptimizerConfig(learning_rate=6e-5, schedule="linear", adam_eps=1e-5),
    steps=24,
)

smoke = replace(
    config,
    model=ModelConfig(source="random:tiny-llama"),
    ppo=replace(config.ppo, batch_size=8),
    optimizer=replace(config.optimizer, learning_rate=1e-3),
    steps=3,
    eval_prompts=8,
)


def masked(base: PPOExperiment, sync_every: int) -> PPOExperiment:
    """Return a config with NLPO's action mask."""
    mask = {"mask_top_p": 0.9, "mask_min_tokens": 100, "mask_sync_every": sync_every}
    return replace(base, ppo=replace(base.ppo, **mask))


variants = {
    "smoke": smoke,
    "nlpo": masked(config, sync_every=5),
    "smoke-nlpo": masked(smoke, sync_every=2),
}
