"""Find the reward that a flag names: built in, in a module, or in a file of the user's own."""

from rljax.rewards.protocol import Reward, RewardError, TokenReward
from rljax.specs import SpecError, load_module

BUILT_IN = {
    "sentiment": "rljax.rewards.sentiment:vader_compound",
    "exact_match": "rljax.rewards.rules:exact_match",
    "exact_match_tokens": "rljax.rewards.tokens:exact_match",
    "partial_match_tokens": "rljax.rewards.tokens:partial_match",
}
MODEL = "model:"
TASK = "task"
FORMS = (
    f"a reward is one of {sorted(BUILT_IN)}, 'task' (that of the prompts' language task), "
    "'model:DIRECTORY' (a reward model, or a run that trained one), 'package.module:function', or "
    "'path/to/file.py:function'"
)


def load_reward(spec: str) -> Reward:
    """Load the reward that `spec` names.

    A built-in name, `model:DIRECTORY` for a learned reward model (see `rewards.learned`),
    `task:SPEC` for that of a language task (see `rljax.tasks.language`), `package.module:function`,
    or `path/to/file.py:function`; the function is a text reward, or a `TokenReward`. Raises
    RewardError, which names the spec, when the module or file is missing or fails to import, has no
    such name, or holds something that is not callable.
    """
    if spec.startswith(MODEL):
        from rljax.rewards.learned import load_learned_reward  # models: only where they are used

        return load_learned_reward(spec.removeprefix(MODEL))
    if spec.startswith(f"{TASK}:"):
        from rljax.tasks.language import load_task  # tasks: only where they are used

        return load_task(spec.removeprefix(f"{TASK}:")).reward
    source, colon, name = BUILT_IN.get(spec, spec).rpartition(":")
    if not colon or not source or not name:
        raise RewardError(f"unknown reward {spec!r}: {FORMS}")
    try:
        module = load_module(source, what=f"reward {spec!r}")
    except SpecError as error:
        raise RewardError(f"{error}. {FORMS}") from error
    if not hasattr(module, name):
        known = sorted(n for n, v in vars(module).items() if callable(v) and not n.startswith("_"))
        raise RewardError(f"reward {spec!r}: {source} has no {name!r}; it has {known}")
    reward = getattr(module, name)
    if isinstance(reward, TokenReward):
        return reward
    if isinstance(reward, type) or not callable(reward):
        kind = "a class" if isinstance(reward, type) else f"a {type(reward).__name__}"
        raise RewardError(f"reward {spec!r}: {name} must be a function, it is {kind}")
    return reward
