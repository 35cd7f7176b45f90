"""Find the reward that a flag names: built in, in a module, or in a file of the user's own."""

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from rljax.rewards.protocol import Reward, RewardError, TokenReward

BUILT_IN = {
    "sentiment": "rljax.rewards.sentiment:vader_compound",
    "exact_match": "rljax.rewards.rules:exact_match",
    "exact_match_tokens": "rljax.rewards.tokens:exact_match",
    "partial_match_tokens": "rljax.rewards.tokens:partial_match",
}
MODEL = "model:"
FORMS = (
    f"a reward is one of {sorted(BUILT_IN)}, 'model:DIRECTORY' (a reward model, or a run that "
    "trained one), 'package.module:function', or 'path/to/file.py:function'"
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
    source, colon, name = BUILT_IN.get(spec, spec).rpartition(":")
    if not colon or not source or not name:
        raise RewardError(f"unknown reward {spec!r}: {FORMS}")
    is_file = source.endswith(".py")
    module = _load_file(spec, Path(source)) if is_file else _load_module(spec, source)
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


def _load_module(spec: str, name: str) -> ModuleType:
    """Import a module by its dotted name."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise RewardError(
            f"reward {spec!r}: cannot import {name!r}: {error}. {FORMS}; a file needs its .py"
        ) from error
    except Exception as error:
        raise RewardError(f"reward {spec!r}: importing {name!r} failed: {error!r}") from error


def _load_file(spec: str, path: Path) -> ModuleType:
    """Import a Python file under a name of its own, so that it shadows no module."""
    path = path.expanduser().resolve()
    if not path.is_file():
        raise RewardError(f"reward {spec!r}: there is no file {path}")
    name = f"rljax_user_reward_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    module_spec = importlib.util.spec_from_file_location(name, path)
    if module_spec is None or module_spec.loader is None:
        raise RewardError(f"reward {spec!r}: {path} cannot be read as a Python module")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise RewardError(f"reward {spec!r}: running {path} failed: {error!r}") from error
    return module
