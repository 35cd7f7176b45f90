"""Find the reward that a flag names: built in, in a module, or in a file of the user's own."""

from rljax.plugins import Plugin
from rljax.rewards.protocol import Reward, RewardError, TokenReward

BUILT_IN = {
    "sentiment": "rljax.rewards.sentiment:vader_compound",
    "exact_match": "rljax.rewards.rules:exact_match",
    "exact_match_tokens": "rljax.rewards.tokens:exact_match",
    "partial_match_tokens": "rljax.rewards.tokens:partial_match",
}
MODEL = "model:"
REWARD = Plugin(
    "reward",
    f"a reward is one of {sorted(BUILT_IN)}, 'model:DIRECTORY' (a reward model, or a run that "
    "trained one), 'package.module:function', or 'path/to/file.py:function'",
    RewardError,
)


def load_reward(spec: str) -> Reward:
    """Load the reward that `spec` names.

    A built-in name, `model:DIRECTORY` for a learned reward model (see `rewards.learned`),
    `package.module:function`, or `path/to/file.py:function`; the function is a text reward, or a
    `TokenReward`. Raises RewardError, which names the spec, when the module or
    file is missing or fails to import, has no such name, or holds something that is not callable.
    """
    if spec.startswith(MODEL):
        from rljax.rewards.learned import load_learned_reward  # models: only where they are used

        return load_learned_reward(spec.removeprefix(MODEL))
    source, name = REWARD.split(BUILT_IN.get(spec, spec))
    reward = REWARD.load(spec, source, name)
    if isinstance(reward, TokenReward):
        return reward
    if isinstance(reward, type) or not callable(reward):
        kind = "a class" if isinstance(reward, type) else f"a {type(reward).__name__}"
        raise RewardError(f"reward {spec!r}: {name} must be a function, it is {kind}")
    return reward
