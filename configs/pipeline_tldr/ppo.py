"""Summaries of Reddit posts, 3 of 3: PPO with the learned reward.

Settings of Huang et al. 2024 (https://arxiv.org/abs/2403.17031): 512 completions of 53 tokens a
step, temperature 0.7, a KL coefficient of 0.05, a critic of its own, a score of -1 where there is
no end. There the critic starts as the reward model, here as the policy. Not measured here yet.

    python experiments/ppo.py --config configs/pipeline_tldr/ppo.py
"""

from dataclasses import replace

from rljax.algorithms.ppo import PPOConfig
from rljax.experiment import ModelConfig, PPOExperiment
from rljax.kl import KLConfig
from rljax.rollout.distribution import SamplingConfig
from rljax.tasks import TaskConfig
from rljax.training.optimizer import OptimizerConfig

config = PPOExperiment(
    model=ModelConfig(source="runs/pipeline_tldr/sft"),
    task=TaskConfig(
        prompts="hf:trl-lib/tldr?split=train",
        prompt_tokens=512,
        reward="model:runs/pipeline_tldr/reward_model",
    ),
    sampling=SamplingConfig(max_new_tokens=53, temperature=0.7),
    ppo=PPOConfig(
        batch_size=512,
        num_epochs=4,
        gradient_accumulation=32,
        critic="separate",
        whiten_rewards=False,
        missing_eos_penalty=-1.0,
        kl=KLConfig(coef=0.05),
    ),
    optimizer=OptimizerConfig(
        learning_rate=3e-6, schedule="linear", adam_eps=1e-5, max_grad_norm=None
    ),
    steps=1953,
    workdir="runs/pipeline_tldr/ppo",
    checkpoint_every=100,
)

variants = {
    "smoke": replace(
        config,
        model=ModelConfig(source="runs/pipeline_tldr_smoke/sft"),
        task=replace(
            config.task,
            prompts="imdb",
            prompt_tokens=8,
            reward="model:runs/pipeline_tldr_smoke/reward_model",
        ),
        sampling=replace(config.sampling, max_new_tokens=8),
        ppo=replace(config.ppo, batch_size=8, gradient_accumulation=1),
        steps=2,
        eval_prompts=8,
        workdir="runs/pipeline_tldr_smoke/ppo",
    ),
}
