"""Any gymnasium.Env whose observations and actions are text, by its registered id."""

from __future__ import annotations

import importlib
from typing import Any

from rljax.environments.loading import MakeEnvironment
from rljax.environments.text import EnvironmentFailure, TextEnvironment
from rljax.specs import plain_value


def make_gymnasium(name: str, settings: dict[str, str]) -> MakeEnvironment:
    """Return what makes `gymnasium.make(name, **settings)`.

    name: as gymnasium's, "module:ID" where a module has to be imported first. Settings are read as
    JSON where they are, else as text. Raises EnvironmentFailure without the package, for an id
    that is not registered, and where observations or actions are no text.
    """
    try:
        package = importlib.import_module("gymnasium")
    except ModuleNotFoundError:
        raise EnvironmentFailure(
            f"environment 'gymnasium:{name}' needs the package gymnasium: pip install "
            "'rljax[games]'"
        ) from None
    arguments = {key: plain_value(value) for key, value in settings.items()}

    def make() -> TextEnvironment:
        try:
            environment: Any = package.make(name, **arguments)
        except (package.error.Error, ModuleNotFoundError, TypeError) as error:
            raise EnvironmentFailure(f"environment 'gymnasium:{name}': {error}") from error
        for part in ("observation_space", "action_space"):
            space = getattr(environment, part)
            if not isinstance(space, package.spaces.Text):
                raise EnvironmentFailure(
                    f"environment 'gymnasium:{name}': its {part} is {space}, not Text: wrap it in "
                    "a class that says observations in words and reads actions from text"
                )
        made: TextEnvironment = environment
        return made

    return make
