"""PPO on chit-chat with the rewards of Li et al. 2016 (https://arxiv.org/abs/1606.01541).

The user answers as people in chitchat-dataset did; ease of answering, information flow and semantic
coherence are judged by the frozen models of configs/tasks/dialogue_sft.py, the first of which is
also the start. A turn that does not end the dialogue is worth 3 more: log-probabilities are
negative, and without it the best thing to say would be something dull at once.

    python experiments/ppo.py --config configs/tasks/dialogue.py

200 held-out dialogues of up to 4 turns, one seed, 95% intervals; 9 minutes on 2 cores beside other
programs, after 6 for the two models:

    policy             score                      ease   flow   coherence   words   distinct bigrams
    supervised start   -4.85 [-5.05, -4.65]       2.53   0.38   -9.87        7.4    0.83
    + PPO              -3.39 [-3.59, -3.20]       2.49   0.26   -9.07       13.4    0.51

PPO is above its start by 1.46 [1.21, 1.70], at 26 nats a dialogue from it. What rises is coherence,
which is a mean over words of log-probabilities under two small models: turns become longer and more
alike ("i think that is just pretty cool"), and ease and flow fall a little. Dull ends are rare in
both (0.02, 0.01).
"""

from dataclasses import replace

from rljax.algorithms.ppo import PPOConfig
from rljax.environments.config import EnvironmentConfig
from rljax.experiment import ModelConfig, PPOExperiment
from rljax.kl import KLConfig
from rljax.rollout.distribution import SamplingConfig
from rljax.training.optimizer import OptimizerConfig

DIALOGUE = "rljax.environments.dialogue:Dialogue?turns=4&turn_bonus=3"
MODELS = "model=runs/tasks/dialogue_sft&backward=runs/tasks/dialogue_backward"

config = PPOExperiment(
    model=ModelConfig(source="runs/tasks/dialogue_sft"),
    environment=EnvironmentConfig(
        name=f"{DIALOGUE}&{MODELS}",
        max_turns=4,
        max_turn_tokens=20,
        max_observation_tokens=40,
        # what the conversations were written in: the chat template of tokenizers made here
        template="user: {observation}\nassistant: ",
        separator="",
        stop_token="\n",
    ),
    sampling=SamplingConfig(max_new_tokens=208, temperature=1.0),
    ppo=PPOConfig(batch_size=64, num_minibatches=2, num_epochs=2, kl=KLConfig(coef=0.05)),
    optimizer=OptimizerConfig(learning_rate=3e-4, schedule="linear", adam_eps=1e-5),
    steps=40,
    eval_prompts=200,
    prompt_multiple=16,
    checkpoint_every=20,
    workdir="runs/tasks/dialogue",
)

variants = {
    "smoke": replace(
        config,
        model=ModelConfig(source="random:tiny-llama"),
        environment=replace(
            config.environment,
            name=f"{DIALOGUE}&model=random:tiny-llama&pairs=500",
            max_turns=2,
            max_turn_tokens=8,
            max_observation_tokens=60,
        ),
        sampling=replace(config.sampling, max_new_tokens=96),
        ppo=replace(config.ppo, batch_size=8),
        steps=2,
        eval_prompts=8,
        workdir=None,
    ),
}
