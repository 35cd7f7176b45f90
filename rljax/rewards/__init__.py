"""Score completions: rules, lexicons, a user's own function, and the shaping of rewards."""

from rljax.rewards.loading import load_reward
from rljax.rewards.protocol import (
    Reward,
    RewardError,
    TextReward,
    TokenReward,
    check_scores,
    score_texts,
)

__all__ = [
    "Reward",
    "RewardError",
    "TextReward",
    "TokenReward",
    "check_scores",
    "load_reward",
    "score_texts",
]
