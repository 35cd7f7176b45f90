"""GRPO on guessing a number (TextArena's GuessTheNumber-v0, 1 to 31, 5 turns): 1 for winning.

The start is what configs/tasks/guess_number_sft.py makes.

Of 200 held-out games random guesses win 0.145 [0.095, 0.195], halving the range all, in 4.2 turns;
the demonstrations win 0.60. One seed at temperature 1: the start, made in 71 s on 2 cores, wins
0.395 and answers with no number 0.185 times a game; 100 steps later (65 s) it is 0.525 and
0.095, KL 0.8 nats. Score +0.376 before, +0.515 after, change +0.139 [+0.072, +0.210].

    python experiments/grpo.py --config configs/tasks/guess_number.py
"""

from dataclasses import replace

from rljax.algorithms.grpo import GRPOConfig
from rljax.environments.config import EnvironmentConfig
from rljax.experiment import GRPOExperiment, ModelConfig
from rljax.kl import KLConfig
from rljax.rollout.distribution import SamplingConfig
from rljax.training.optimizer import OptimizerConfig

config = GRPOExperiment(
    model=ModelConfig(source="runs/tasks/guess_number_sft"),
    environment=EnvironmentConfig(
        name="rljax.environments.games:GuessTheNumber",
        max_turns=5,
        max_turn_tokens=4,
        max_observation_tokens=12,
        # what the demonstrations were written in: the chat template of tokenizers made here
        template="user: {observation}\nassistant: ",
        separator="",
        stop_token="\n",
    ),
    sampling=SamplingConfig(max_new_tokens=72, temperature=1.0),
    grpo=GRPOConfig(
        batch_size=128,
        samples_per_prompt=8,
        num_minibatches=2,
        kl=KLConfig(coef=0.0),
    ),
    optimizer=OptimizerConfig(learning_rate=5e-4, schedule="linear", adam_eps=1e-5),
    steps=100,
    eval_prompts=200,
    prompt_multiple=8,
    checkpoint_every=40,
    workdir="runs/tasks/guess_number",
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
