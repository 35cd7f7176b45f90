"""Environments of other packages: gymnasium's, TextArena's games, reasoning-gym's problems."""

import random

import pytest

from rljax.environments import EnvironmentFailure, load_environment, reset, step


@pytest.fixture
def registered():
    gymnasium = pytest.importorskip("gymnasium")

    class Echo(gymnasium.Env):
        observation_space = gymnasium.spaces.Text(50)
        action_space = gymnasium.spaces.Text(50)

        def __init__(self, turns=2, greeting="hello"):
            self.turns, self.greeting = turns, greeting

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.left = self.turns
            return f"{self.greeting} {self.np_random.integers(100)}", {}

        def step(self, action):
            self.left -= 1
            return action.upper(), 0.5, self.left == 0, False, {}

    gymnasium.register("rljax/Echo-v0", Echo)
    yield
    del gymnasium.registry["rljax/Echo-v0"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_gymnasium_environment_with_text(registered):
    make = load_environment("gymnasium:rljax/Echo-v0?turns=1&greeting=hi")
    one, other = make(), make()
    assert one is not other and reset(one, 3) == reset(other, 3) != reset(other, 4)
    assert reset(one, 3).startswith("hi ")
    played = step(one, "yes")
    assert (played.observation, played.reward, played.terminated) == ("YES", 0.5, True)


def test_what_gymnasium_cannot_give(registered):
    for spec, problem in (
        ("gymnasium:Nothing-v0", "Nothing"),
        ("gymnasium:CartPole-v1", "observation_space is .*not Text"),
        ("gymnasium:rljax/Echo-v0?words=3", "words"),
    ):
        with pytest.raises(EnvironmentFailure, match=problem):
            load_environment(spec)


def test_a_game_of_textarena():
    pytest.importorskip("textarena")
    make = load_environment("textarena:GuessTheNumber-v0?max_number=8&max_turns=9")
    game = make()
    rules = reset(game, 5)
    assert "between 1 and 8 within 9 turns" in rules
    low, high, played = 1, 8, None
    for _ in range(4):
        guess = (low + high) // 2
        state = random.getstate()
        played = step(game, f"I say [{guess}]")
        assert random.getstate() == state  # the game's randomness is its own
        if played.terminated:
            break
        assert "I say" not in played.observation and "guess the number" not in played.observation
        assert played.reward == 0
        low, high = (guess + 1, high) if "higher" in played.observation else (low, guess - 1)
    assert played.terminated and played.reward == 1 and "correct" in played.observation
    assert reset(game, 5) == rules


def test_a_games_moves_may_be_wrapped():
    pytest.importorskip("textarena")
    game = load_environment("textarena:GuessTheNumber-v0-train")()
    reset(game, 1)
    assert "target number is" in step(game, "1").observation + step(game, "2").observation


def test_what_textarena_cannot_give():
    pytest.importorskip("textarena")
    for spec, problem in (
        ("textarena:Guess-v0", "there is no such game"),
        ("textarena:GuessTheNumber-v7", "there are .*GuessTheNumber-v0"),
        ("textarena:GuessTheNumber-v0?numbers=3", "numbers"),
        ("textarena:TicTacToe-v0", "cannot be begun by one player"),
    ):
        with pytest.raises(EnvironmentFailure, match=problem):
            load_environment(spec)


def test_a_game_without_its_word_list_says_how_to_get_it(monkeypatch):
    nltk = pytest.importorskip("nltk")
    pytest.importorskip("textarena")
    monkeypatch.setattr(nltk, "download", lambda *_, **__: False)
    monkeypatch.setattr(nltk.data, "path", [])
    with pytest.raises(EnvironmentFailure, match=r"nltk's 'words'.*nltk.downloader words"):
        load_environment("textarena:Hangman-v0")


def test_a_problem_is_an_episode_of_one_turn():
    pytest.importorskip("reasoning_gym")
    make = load_environment("reasoning-gym:chain_sum?min_terms=2&max_terms=2&max_digits=1")
    problem = make()
    question = reset(problem, 3)
    assert question == reset(make(), 3) != reset(make(), 4)
    right = step(problem, "no").info["answer"]
    reset(problem, 3)
    played = step(problem, f" {right}\nbecause")
    assert played.reward == 1.0 and played.terminated
    for spec, reason in (
        ("reasoning-gym:nothing", "nothing"),
        ("reasoning-gym:chain_sum?terms=2", "terms"),
        ("reasoning-gym:chain_sum?seed=2", "leave out 'seed'"),
    ):
        with pytest.raises(EnvironmentFailure, match=reason):
            load_environment(spec)
