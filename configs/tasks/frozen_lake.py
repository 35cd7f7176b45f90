"""GRPO on walking over ice (TextArena's FrozenLake-v0, 4 x 4, 3 holes, 8 turns): 1 for the goal.

The start is what configs/tasks/frozen_lake_sft.py makes.

Of 200 held-out boards random moves reach the goal on 0.010 [0.000, 0.025], the shortest way on all,
in 6 moves; the demonstrations (of 2,500) on 0.421. One seed at temperature 1: the start, made in
202 s on 2 cores, on 0.080; 100 steps later (411 s) 0.140, KL 0.7 nats. Score +0.009 before, +0.097
after, change +0.088 [+0.032, +0.144].

    python experiments/grpo.py --config configs/tasks/frozen_lake.py
"""

from dataclasses import replace

from rljax.algorithms.grpo import GRPOConfig
from rljax.environments.config import EnvironmentConfig
from rljax.experiment import GRPOExperiment, ModelConfig
from rljax.kl import KLConfig
from rljax.rollout.distribution import SamplingConfig
from rljax.training.optimizer import OptimizerConfig

config = GRPOExperiment(
    model=ModelConfig(source="runs/tasks/frozen_lake_sft"),
    environment=EnvironmentConfig(
        name="rljax.environments.games:FrozenLake",
        max_turns=8,
        max_turn_tokens=4,
        max_observation_tokens=32,
        # what the demonstrations were written in: the chat template of tokenizers made here
        template="user: {observation}\nassistant: ",
        separator="",
        stop_token="\n",
    ),
    sampling=SamplingConfig(max_new_tokens=216, temperature=1.0),
    grpo=GRPOConfig(
        batch_size=128,
        samples_per_prompt=8,
        num_minibatches=2,
        kl=KLConfig(coef=0.0),
    ),
    optimizer=OptimizerConfig(learning_rate=3e-4, schedule="linear", adam_eps=1e-5),
    steps=100,
    eval_prompts=200,
    prompt_multiple=8,
    checkpoint_every=40,
    workdir="runs/tasks/frozen_lake",
)

variants = {
    "smoke": replace(
        config,
        model=ModelConfig(source="random:tiny-llama"),
        environment=replace(config.environment, max_turns=2, max_observation_tokens=64),
        sampling=replace(config.sampling, max_new_tokens=160),
        grpo=replace(config.grpo, batch_size=16),
        steps=3,
        eval_prompts=8,
        workdir=None,
    ),
}
