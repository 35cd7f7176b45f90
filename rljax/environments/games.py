"""TextArena's games in few words, so that small models can learn them.

The rules are TextArena's (https://github.com/LeonGuertler/TextArena, Guertler et al. 2025,
https://arxiv.org/abs/2504.11442); an observation says what has changed and nothing else, an action
is a word. Every turn counts, also one that is no move. `concise=false` shows the game's own text.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import random
import re
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from rljax.environments.scripted import Message, Scripted
from rljax.environments.text import EnvironmentFailure, is_held_out
from rljax.tasks.prompts import text_fraction

WON, LOST = "You won.", "You lost."
HELD_OUT_BOARDS = 0.2
MOVES = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
Board = tuple[str, ...]
"""Rows of one letter a cell: P the player, G the goal, H a hole, . ice."""


@dataclasses.dataclass
class Game(abc.ABC):
    """A game of TextArena for one player: what its games share."""

    concise: bool = True
    """Say only what has changed, in few words; false: TextArena's own text."""
    turns: int = 8
    """Turns of an episode; the game is lost after them."""
    win: float = 1.0
    """Worth of winning."""
    partial_credit: float = 0.0
    """Worth of what TextArena calls completion, in [0, 1], at the end of a game that is lost."""
    turn_cost: float = 0.0
    """What every turn costs."""
    invalid_cost: float = 0.1
    """What a turn costs that is no move of the game."""

    def __post_init__(self) -> None:
        if self.turns < 1:
            raise EnvironmentFailure(f"turns is {self.turns}; it must be at least 1")
        for name in ("win", "partial_credit", "turn_cost", "invalid_cost"):
            if not getattr(self, name) >= 0:
                raise EnvironmentFailure(
                    f"{name} is {getattr(self, name)}; it must not be negative"
                )
        try:
            import textarena
        except ImportError as error:
            raise EnvironmentFailure(
                "this game needs the package textarena: pip install 'rljax[games]'"
            ) from error
        # -raw: without the wrappers that gather all that was said into every observation
        self.game: Any = textarena.make(f"{self.game_id}-raw", **self.game_settings())

    @property
    @abc.abstractmethod
    def game_id(self) -> str:
        """The game's name in TextArena."""

    @abc.abstractmethod
    def game_settings(self) -> dict[str, Any]:
        """Return what TextArena makes the game with."""

    @abc.abstractmethod
    def begin(self, seed: int) -> str:
        """Begin a game; say in few words where it stands."""

    @abc.abstractmethod
    def move(self, text: str) -> str | None:
        """Turn the policy's words into TextArena's form of a move; None where they are none."""

    @abc.abstractmethod
    def now(self, *, moved: bool) -> str:
        """Say in few words where a game stands that goes on."""

    def reset(self, *, seed: int) -> tuple[str, dict[str, Any]]:
        """Begin the game of a seed."""
        self._used = self._invalid = 0
        first = self.begin(seed)
        return (first if self.concise else self._own_text()), {}

    def step(self, text: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play a turn."""
        self._used += 1
        move = self.move(text)
        done, reward = False, 0.0 - self.turn_cost
        if move is None:
            self._invalid += 1
            reward -= self.invalid_cost
        else:
            done, _ = self.game.step(move)
        won = done and self.game.close()[0][0] == 1
        over = done or self._used >= self.turns
        if won:
            reward += self.win
        elif over:
            reward += self.partial_credit * self.game._get_percentage_completion()
        if over:
            observation = WON if won else LOST
        else:
            observation = self.now(moved=move is not None) if self.concise else self._own_text()
        metrics = {"won": float(won), "invalid": float(self._invalid)}
        return observation, reward, over, False, {"metrics": metrics}

    def start(self, seed: int) -> None:
        """Let TextArena set up a game, which seeds and uses Python's global randomness."""
        state = random.getstate()
        try:
            self.game.reset(num_players=1, seed=seed)
        finally:
            random.setstate(state)

    def _own_text(self) -> str:
        """Return what TextArena has said since it was last asked, but for the player's words."""
        _, said = self.game.get_observation()
        return "\n".join(text for sender, text, _ in said if sender < 0) or "Go on."


@dataclasses.dataclass
class GuessTheNumber(Game):
    """Guess a number; each guess is answered by "higher" or "lower"."""

    turns: int = 5
    low: int = 1
    """The least number."""
    high: int = 31
    """The greatest."""

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high:
            raise EnvironmentFailure(f"low {self.low} and high {self.high}: 0 <= low < high")
        super().__post_init__()

    @property
    def game_id(self) -> str:
        """The game's name in TextArena."""
        return "GuessTheNumber-v0"

    def game_settings(self) -> dict[str, Any]:
        """Return the range; one turn more than there is, so that turns are counted here alone."""
        return {"min_number": self.low, "max_number": self.high, "max_turns": self.turns + 1}

    def begin(self, seed: int) -> str:
        """Begin a game."""
        self.start(seed)
        return f"{self.low} to {self.high}, {self.turns} guesses"

    def move(self, text: str) -> str | None:
        """Read a number in the range, with or without brackets, that was not guessed yet."""
        found = re.fullmatch(r"\[?(\d+)\]?", text.strip(), re.ASCII)
        number = int(found[1]) if found and len(found[1]) < 10 else None
        if number is None or not self.low <= number <= self.high:
            return None
        return None if number in self.game.guessed_numbers else f"[{number}]"

    def now(self, *, moved: bool) -> str:
        """Say whether the number is higher or lower than the last guess."""
        return self.game.state.game_state["guess_history"][-1][1] if moved else "no guess"

    def scripted(self, noise: float) -> Mapping[str, Scripted]:
        """Make the policies "random" and "rule", which halves what is left."""

        def at_random(messages: Sequence[Message], rng: random.Random) -> str:
            return str(rng.randint(self.low, self.high))

        def rule(messages: Sequence[Message], rng: random.Random) -> str:
            low, high = self.low, self.high
            for turn, answer in zip(messages[1::2], messages[2::2], strict=False):
                if "higher" in answer["content"]:
                    low = max(low, int(turn["content"]) + 1)
                elif "lower" in answer["content"]:
                    high = min(high, int(turn["content"]) - 1)
            return str((low + high) // 2)

        return _with_noise({"random": at_random, "rule": rule}, at_random, noise)


@dataclasses.dataclass
class FrozenLake(Game):
    """Walk over ice to the goal; holes end the game. A move is up, down, left or right.

    Boards are held out by a hash: none that is trained on is judged by.
    """

    size: int = 4
    """Rows and columns."""
    holes: int = 3
    """Holes in the ice."""
    random_corners: bool = True
    """Start in any corner, the goal opposite; false: from the upper left."""

    def __post_init__(self) -> None:
        if self.size < 3 or not 0 <= self.holes <= self.size:
            raise EnvironmentFailure(
                f"size {self.size} must be at least 3, and holes {self.holes} from 0 to size"
            )
        super().__post_init__()

    @property
    def game_id(self) -> str:
        """The game's name in TextArena."""
        return "FrozenLake-v0"

    def game_settings(self) -> dict[str, Any]:
        """Return size, holes and corners."""
        return {
            "size": self.size,
            "num_holes": self.holes,
            "randomize_start_goal": self.random_corners,
        }

    def begin(self, seed: int) -> str:
        """Draw boards until one is on the seed's side."""
        for attempt in range(1000):
            digest = hashlib.sha256(f"frozen lake {seed} {attempt}".encode()).digest()
            self.start(int.from_bytes(digest[:4], "big"))
            if _is_held_out_board(self.board()) == is_held_out(seed):
                return self.now(moved=True)
        raise EnvironmentFailure(
            f"no board of size {self.size} with {self.holes} holes is on the side of seed {seed}: "
            "there are too few; raise size or holes"
        )

    def board(self) -> Board:
        """Return the board as it stands."""
        state = self.game.state.game_state
        rows = [[cell.replace(" ", ".") for cell in row] for row in state["grid"]]
        row, column = state["player_pos"]
        rows[row][column] = "P"
        return tuple("".join(cells) for cells in rows)

    def move(self, text: str) -> str | None:
        """Read a direction, with or without brackets, that does not lead into the wall."""
        word = text.strip().strip("[]").casefold()
        if word not in MOVES:
            return None
        places = zip(self.game.state.game_state["player_pos"], MOVES[word], strict=True)
        inside = all(0 <= place + by < self.size for place, by in places)
        return f"[{word}]" if inside else None

    def now(self, *, moved: bool) -> str:
        """Show the board, the cells of a row apart, so that each is a token of its own."""
        del moved
        return "\n".join(" ".join(row) for row in self.board())

    def scripted(self, noise: float) -> Mapping[str, Scripted]:
        """Make the policies "random", and "rule", which takes a shortest way."""

        def at_random(messages: Sequence[Message], rng: random.Random) -> str:
            return rng.choice(list(MOVES))

        def rule(messages: Sequence[Message], rng: random.Random) -> str:
            return shortest_way(read_board(messages[-1]["content"]), rng)[0]

        return _with_noise({"random": at_random, "rule": rule}, at_random, noise)


def _is_held_out_board(board: Board) -> bool:
    return text_fraction(" ".join(board)) < HELD_OUT_BOARDS


def read_board(observation: str) -> Board:
    """Read a board that was shown, in few words or as TextArena draws it."""
    drawn = [line for line in observation.splitlines() if line.startswith("|")]
    if drawn:
        cells = [[cell.strip() or "." for cell in line.strip("|").split("|")] for line in drawn]
    else:
        cells = [line.split() for line in observation.splitlines()]
    return tuple("".join(row) for row in cells)


def shortest_way(board: Board, rng: random.Random) -> list[str]:
    """Return the moves of a shortest way from P to G around the holes; ties are drawn.

    Raises ValueError where there is none.
    """
    cells = {(r, c): cell for r, row in enumerate(board) for c, cell in enumerate(row)}
    start = next(place for place, cell in cells.items() if cell == "P")
    queue: deque[tuple[tuple[int, int], list[str]]] = deque([(start, [])])
    seen = {start}
    while queue:
        (row, column), moves = queue.popleft()
        for name, (down, right) in rng.sample(list(MOVES.items()), len(MOVES)):
            place = (row + down, column + right)
            if cells.get(place, "H") == "H" or place in seen:
                continue
            if cells[place] == "G":
                return [*moves, name]
            seen.add(place)
            queue.append((place, [*moves, name]))
    raise ValueError(f"there is no way over the board {board}")


def _with_noise(
    policies: Mapping[str, Scripted], at_random: Scripted, noise: float
) -> dict[str, Scripted]:
    """Let policies act at random in a share of the turns."""

    def noisy(policy: Scripted) -> Scripted:
        return lambda messages, rng: (at_random if rng.random() < noise else policy)(messages, rng)

    return {name: noisy(policy) for name, policy in policies.items()}
