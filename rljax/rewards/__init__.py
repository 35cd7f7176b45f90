"""Score completions: rules, lexicons, a user's own function, and the shaping of rewards."""

from rljax.rewards.loading import load_reward
from rljax.rewards.protocol import (
    Failure,
    Judgement,
    Reward,
    RewardError,
    TextReward,
    TokenReward,
    judge_texts,
)

__all__ = [
    "Failure",
    "Judgement",
    "Reward",
    "RewardError",
    "TextReward",
    "TokenReward",
    "judge_texts",
    "load_reward",
]
