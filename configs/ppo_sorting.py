"""PPO on sorting letters, from the start of configs/grpo_sorting.py: what a critic is worth there.

Same words, batches and number of completions; one for each prompt, and a value head on the policy's
trunk in place of the group. Measured on the same 200 held-out words, 95% intervals:

    seed   before                 after                  KL (nats)
    0      0.485 [0.415, 0.555]   0.895 [0.850, 0.935]   0.63
    1      0.490 [0.420, 0.560]   0.860 [0.810, 0.905]   0.70
    2      0.475 [0.405, 0.545]   0.895 [0.850, 0.935]   0.93

Start to end a run needs 55 to 58 s of one core's time, compilation and both evaluations included.

    python experiments/pretrain.py --config configs/pretrain_sorting.py --workdir runs/sorting
    python experiments/ppo.py --config configs/ppo_sorting.py
"""

from dataclasses import replace

from rljax.algorithms.ppo import PPOConfig
from rljax.experiment import ModelConfig, PPOExperiment
from rljax.kl import KLConfig
from rljax.rollout.distribution import SamplingConfig
from rljax.tasks import TaskConfig
from rljax.training.optimizer import OptimizerConfig

config = PPOExperiment(
    model=ModelConfig(source="runs/sorting"),
    task=TaskConfig(prompts="sorting:6", prompt_tokens=None, reward="exact_match"),
    sampling=SamplingConfig(max_new_tokens=8, temperature=1.0),
    ppo=PPOConfig(
        batch_size=256,
        num_epochs=1,
        num_minibatches=2,
        gae_lambda=1.0,
        whiten_rewards=False,
        kl=KLConfig(coef=0.0),
    ),
    optimizer=OptimizerConfig(learning_rate=3e-4, schedule="linear", adam_eps=1e-5),
    steps=150,
    eval_prompts=200,
    prompt_multiple=8,
    checkpoint_every=50,
)

variants = {
    "smoke": replace(
        config,
        model=ModelConfig(source="random:tiny-llama"),
        ppo=replace(config.ppo, batch_size=16),
        steps=3,
        eval_prompts=8,
    ),
}
