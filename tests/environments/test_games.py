"""TextArena's games in few words: the same rules, every turn counted, rules that win."""

import random

import pytest

from rljax.environments import EnvironmentFailure, load_environment, reset, step
from rljax.environments.games import FrozenLake, GuessTheNumber, read_board, shortest_way
from rljax.environments.scripted import find_scripted, play, replay, seeds_of, summarize
from rljax.environments.text import HELD_OUT_SEEDS

pytest.importorskip("textarena")


def results(game, name, count=40, noise=0.0):
    policy = find_scripted(game, name, noise)
    return summarize([play(game, seed, policy) for seed in seeds_of("train", count)])


def target(game) -> int:
    return game.game.state.game_state["game_number"]


def test_guesses_are_answered_and_counted():
    game = GuessTheNumber(turns=4, turn_cost=0.01)
    assert reset(game, 5) == "1 to 31, 4 guesses"
    number = target(game)
    wrong = 1 if number > 1 else 31
    hint = "higher" if wrong == 1 else "lower"
    assert step(game, str(wrong))[:4] == (hint, -0.01, False, False)
    for text in ("", "seven", "32", str(wrong)):  # the last was guessed already
        game.reset(seed=5)
        game.step(f"[{wrong}]")
        refused = step(game, text)
        assert refused.observation == "no guess" and refused.reward == pytest.approx(-0.11)
    won = step(game, f"[{number}]")
    assert won[:4] == ("You won.", pytest.approx(0.99), True, False)
    assert won.info["metrics"] == {"won": 1.0, "invalid": 1.0}


def test_a_game_is_lost_after_its_turns_with_partial_credit():
    game = GuessTheNumber(turns=2, partial_credit=0.5, invalid_cost=0.0)
    reset(game, 6)
    number = target(game)
    near = number + 1 if number < 31 else number - 1
    step(game, str(near))
    lost = step(game, "what")
    assert lost[:4] == ("You lost.", pytest.approx(0.5 * (1 - 1 / 30)), True, False)


def test_the_rule_halves_and_noise_loses():
    won = results(GuessTheNumber(), "rule")
    assert won["won"].mean == 1.0 and won["turns"].mean < 5
    noisy = results(GuessTheNumber(), "rule", noise=0.5)["won"].mean
    assert results(GuessTheNumber(), "random")["won"].mean < noisy < 1.0


def test_a_board_in_few_words_and_as_textarena_draws_it():
    game, plain = FrozenLake(), FrozenLake(concise=False)
    first, drawn = reset(game, 9), reset(plain, 9)
    assert len(first.splitlines()) == 4 and set(first) <= set("PGH. \n")
    assert "Welcome to Frozen Lake" in drawn
    assert read_board(first) == read_board(drawn) == game.board()
    assert first.count("H") == 3 and first.count("P") == first.count("G") == 1


def test_walking_into_a_hole_loses_and_into_the_wall_costs():
    game = FrozenLake(random_corners=False)
    assert reset(game, 0).startswith("P")
    wall = step(game, "up")
    assert wall.observation == "\n".join(" ".join(r) for r in game.board())
    assert wall.reward == pytest.approx(-0.1) and not wall.terminated
    assert step(game, "jump").info["metrics"]["invalid"] == 2.0
    for seed in range(50):
        board = read_board(reset(game, seed))
        if board[0][1] == "H":
            fallen = step(game, "right")
            assert fallen[:4] == ("You lost.", 0.0, True, False)
            break
    else:
        pytest.fail("no board with a hole beside the start")


def test_the_shortest_way_wins():
    assert results(FrozenLake(), "rule")["won"].mean == 1.0
    assert results(FrozenLake(concise=False), "rule", 5)["won"].mean == 1.0
    assert results(FrozenLake(), "random")["won"].mean < 0.3
    way = shortest_way(("P.H", "H..", "..G"), random.Random(0))
    assert way in (["right", "down", "down", "right"], ["right", "down", "right", "down"])
    with pytest.raises(ValueError, match="no way"):
        shortest_way(("PH.", "H..", "..G"), random.Random(0))


def test_boards_are_on_one_side_only():
    game = FrozenLake()
    held_out = {read_board(reset(game, seed)) for seed in range(60)}
    train = {read_board(reset(game, HELD_OUT_SEEDS + seed)) for seed in range(200)}
    assert len(held_out) > 30 and len(train) > 100 and not held_out & train


def test_a_seed_is_a_game_and_leaves_the_global_randomness_alone():
    random.seed(1)
    before = random.getstate()
    for game in (GuessTheNumber(), FrozenLake()):
        policy = find_scripted(game, "rule", 0.5)
        played = play(game, HELD_OUT_SEEDS + 3, policy)
        play(game, HELD_OUT_SEEDS + 4, policy)
        assert replay(game, played.seed, played.said) == played
    assert random.getstate() == before


def test_the_games_own_text():
    game = load_environment("rljax.environments.games:GuessTheNumber?concise=false&high=5")()
    assert "between 1 and 5" in reset(game, 3)
    wrong = 1 if target(game) > 1 else 2
    assert step(game, f"[{wrong}]").observation.startswith("The target number is")
    assert step(game, "hm").observation == "Go on."


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("GuessTheNumber?low=5&high=5", "low 5 and high 5"),
        ("GuessTheNumber?turns=0", "turns is 0"),
        ("GuessTheNumber?turn_cost=-1", "turn_cost is -1.0"),
        ("FrozenLake?holes=9", "holes 9 from 0 to size"),
        ("FrozenLake?depth=9", "no setting 'depth'"),
    ],
)
def test_settings_that_mean_nothing(spec, problem):
    with pytest.raises(EnvironmentFailure, match=problem):
        load_environment(f"rljax.environments.games:{spec}")
