"""Score completions: rules, lexicons, a user's own function, and the shaping of rewards."""

from rljax.rewards.loading import load_reward
from rljax.rewards.protocol import (
    Failure,
    Judgement,
    Reward,
    RewardError,
    TextReward,
    TokenReward,
    TokenTexts,
    Vocabulary,
    judge_texts,
    token_reward,
)

__all__ = [
    "Failure",
    "Judgement",
    "Reward",
    "RewardError",
    "TextReward",
    "TokenReward",
    "TokenTexts",
    "Vocabulary",
    "judge_texts",
    "load_reward",
    "token_reward",
]
