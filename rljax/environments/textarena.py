"""TextArena's games for one player, by their registered id.

An observation is what the game has said since the last one: the rules at first, then its answers to
a move. What the player said is not repeated. The reward comes with the last move.

Guertler et al. 2025 (https://arxiv.org/abs/2504.11442).
"""

from __future__ import annotations

import contextlib
import importlib
import io
import random
from collections.abc import Iterator
from typing import Any

from rljax.environments.loading import MakeEnvironment
from rljax.environments.text import EnvironmentFailure
from rljax.specs import plain_value

RAW = "-raw"
"""The package's ending for a game without wrappers around its observations."""


class TextArena:
    """One game as a text environment; its randomness is its own.

    The games draw from the `random` module's global state: it is put back after every call, so that
    games side by side do not disturb each other.
    """

    def __init__(self, game: Any, own_message: Any) -> None:
        self._game, self._own_message = game, own_message
        self._random: Any = random.Random(0).getstate()

    def reset(self, *, seed: int) -> tuple[str, dict[str, Any]]:
        """Begin the game of a seed: its rules and its first state."""
        self._random = random.Random(seed).getstate()
        with self._own_random():
            self._game.reset(num_players=1, seed=seed)
            return self._news(), {}

    def step(self, text: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Make a move."""
        with self._own_random():
            done, info = self._game.step(text)
            news = self._news()
            if not done:
                return news, 0.0, False, False, dict(info)
            rewards, game_info = self._game.close()
        last = news or str(game_info[0].get("reason", ""))
        return last, float(rewards[0]), True, False, dict(info) | dict(game_info[0])

    def _news(self) -> str:
        """Return what the game has said since it was last asked."""
        _, messages = self._game.get_observation()
        return "\n".join(
            text.strip() for _, text, kind in messages if kind is not self._own_message
        ).strip()

    @contextlib.contextmanager
    def _own_random(self) -> Iterator[None]:
        outside = random.getstate()
        random.setstate(self._random)
        try:
            yield
        finally:
            self._random = random.getstate()
            random.setstate(outside)


def make_textarena(name: str, settings: dict[str, str]) -> MakeEnvironment:
    """Return what makes the game `name`, such as "GuessTheNumber-v0".

    Of the wrappers that belong to a name (those of "-train", say) the ones for moves are kept; the
    ones for observations repeat the whole game in each. Settings are arguments of the game. Raises
    EnvironmentFailure without the package, for a game that is not known, needs more players, or
    needs word lists of nltk that are not there.
    """
    where = f"environment 'textarena:{name}'"
    try:
        with _quiet():
            package = importlib.import_module("textarena")
    except ModuleNotFoundError:
        raise EnvironmentFailure(
            f"{where} needs the package textarena: pip install 'rljax[games]'"
        ) from None
    registry = importlib.import_module("textarena.envs.registration").ENV_REGISTRY
    if name not in registry:
        similar = sorted(n for n in registry if n.split("-")[0] == name.split("-")[0])
        raise EnvironmentFailure(
            f"{where}: there is no such game; "
            + (f"there are {similar}" if similar else "textarena.envs lists them")
        )
    wrappers = [
        wrapper
        for wrapper in registry[name].default_wrappers or ()
        if issubclass(wrapper, package.ActionWrapper)
    ]
    raw = name if name.endswith(RAW) or name + RAW not in registry else name + RAW
    bare = name.removesuffix("-train") + RAW
    raw = bare if bare in registry else raw
    arguments = {key: plain_value(value) for key, value in settings.items()}

    def make() -> TextArena:
        game = _made(package, raw, arguments, where)
        for wrapper in wrappers:
            game = wrapper(game)
        return TextArena(game, package.ObservationType.PLAYER_ACTION)

    _check(make(), where)
    return make


def _made(package: Any, name: str, arguments: dict[str, Any], where: str) -> Any:
    try:
        with _quiet():
            return package.make(name, **arguments)
    except LookupError as error:  # nltk's, for a word list that is not on this machine
        missing = str(error).split("nltk.download(")[-1].split(")")[0].strip("'\"")
        if "nltk.download" not in str(error):
            raise EnvironmentFailure(f"{where}: making it failed: {error!r}") from error
        raise EnvironmentFailure(
            f"{where} reads nltk's {missing!r}, which is not on this machine: python -m "
            f"nltk.downloader {missing}, or copy it to a folder that NLTK_DATA names"
        ) from None
    except (TypeError, ValueError, ImportError) as error:
        raise EnvironmentFailure(f"{where}: {error}") from error


def _check(environment: TextArena, where: str) -> None:
    """Raise EnvironmentFailure unless the game can be played by one."""
    try:
        environment.reset(seed=0)
    except Exception as error:
        raise EnvironmentFailure(
            f"{where}: it cannot be begun by one player: {error or repr(error)}"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep nltk's downloader, which some games start when they are imported, from printing."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
