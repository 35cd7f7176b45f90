"""Conversations about films: answers from the earlier ratings, clicks from the later ones."""

import math
import random

import pytest

from rljax.environments import EnvironmentFailure, load_environment, reset, step
from rljax.environments.recommendation import Recommendation, favourite_genres, ndcg
from rljax.environments.recommenders import count_likes, read_conversation
from rljax.environments.scripted import find_scripted, play, replay, seeds_of, summarize
from rljax.environments.text import HELD_OUT_SEEDS
from rljax.tasks.sources import DataError

ITEMS = """item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq
10\tGodfather, The\t1972\tCrime Drama
20\tFargo\t1996\tCrime
30\tSabrina\t1954\tComedy
40\tSabrina\t1995\tComedy
50\tSolo\t1996\tDrama
60\tNobody saw it\t1999\tDrama
"""
# Each user has seen five films, in the order of their numbers; the last two are the later part.
RATINGS = {"10": 5, "20": 2, "30": 4, "40": 5, "50": 4}


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    rows = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(40):
        for when, (item, rating) in enumerate(RATINGS.items()):
            if user or item < "40":
                rows.append(f"u{user}\t{item}\t{rating}\t{when}")
    (folder / "f.inter").write_text("\n".join(rows) + "\n")
    (folder / "f.item").write_text(ITEMS)
    return str(folder / "f")


def make(prefix, **settings) -> Recommendation:
    settings = {"titles": 5, "known_fraction": 0.6, "min_clicks": 2} | settings
    return Recommendation(data=prefix, **settings)


def test_the_catalogue_is_what_training_users_rated_most(prefix):
    task = make(prefix)
    titles = [film.title for film in task.ratings.films]
    assert set(titles) == {"The Godfather", "Fargo", "Sabrina (1954)", "Sabrina (1995)", "Solo"}
    assert "Nobody saw it" not in titles
    assert make(prefix, names="code").name_of(3) == "F3"
    with pytest.raises(DataError, match="5 rated films, but titles is 6"):
        reset_of(make(prefix, titles=6))


def reset_of(task):
    return task.reset(seed=HELD_OUT_SEEDS)


def test_users_are_split_and_told_from_the_earlier_part(prefix):
    task = make(prefix)
    held_out, train = task.users(held_out=True), task.users(held_out=False)
    assert held_out and train and not {u.name for u in held_out} & {u.name for u in train}
    assert "u0" not in {u.name for u in held_out + train}  # would click on one film only
    user = train[0]
    names = [task.name_of(film) for film in sorted(user.clicks)]
    assert set(names) == {"Sabrina (1995)", "Solo"}
    assert {task.name_of(film) for film in user.liked} == {"The Godfather", "Sabrina (1954)"}
    met = {task.reset(seed=HELD_OUT_SEEDS + s)[1]["user"] for s in range(60)}
    assert met <= {u.name for u in train} and len(met) > 5
    judged = [task.reset(seed=s)[1]["user"] for s in range(len(held_out))]
    assert judged == [u.name for u in held_out]


def test_a_conversation_worked_by_hand(prefix):
    task = make(prefix, recommendations=4, questions=2)
    assert reset(task, HELD_OUT_SEEDS + 1) == "What should I watch?"
    told = step(task, "ask film")
    assert told.observation in ("I liked The Godfather.", "I liked Sabrina (1954).")
    assert told.reward == -0.05
    other = step(task, "Ask film")
    assert other.observation.startswith("I liked ") and other.observation != told.observation
    refused = step(task, "ask genres")
    assert refused[:2] == ("No more questions.", -0.1)
    assert step(task, "hello")[:2] == ("What do you mean?", -0.1)
    assert step(task, "recommend Fargo")[:2] == ("Seen it, disliked it.", 0.0)
    assert step(task, "recommend solo")[:2] == ("Clicked.", 1.0)
    assert step(task, "recommend Solo")[:2] == ("You said that.", -0.1)
    last = step(task, "recommend Alien")
    assert last[:4] == ("I do not know that film.", -0.1, True, False)
    metrics = last.info["metrics"]
    best = 1 + 1 / math.log2(3)
    assert metrics == {
        "ndcg@4": pytest.approx(1 / math.log2(3) / best), "hit_rate@4": 1.0, "clicks": 1.0,
        "questions": 2.0, "invalid": 4.0, "invalid_titles": 2.0,
    }  # fmt: skip


def test_what_is_left_to_say(prefix):
    task = make(prefix, questions=5)
    reset(task, HELD_OUT_SEEDS)
    answers = [step(task, "ask film").observation for _ in range(3)]
    assert answers[2] == "I cannot think of another."
    assert step(task, "ask genres").observation.startswith("I like ")
    assert step(task, "recommend The Godfather").observation == "Seen it, liked it."


def test_turns_without_end_are_cut_off(prefix):
    task = make(prefix, recommendations=2, questions=1)
    reset(task, 3)
    ends = [step(task, "so")[2:4] for _ in range(6)]
    assert ends == [(False, False)] * 5 + [(False, True)]


def test_the_same_seed_is_the_same_conversation(prefix):
    task = make(prefix)
    policy = find_scripted(task, "demonstration", 0.5)
    first, other = (play(task, HELD_OUT_SEEDS + s, policy) for s in (7, 8))
    assert first == play(make(prefix), HELD_OUT_SEEDS + 7, policy) and first != other
    again = replay(make(prefix), first.seed, first.said)
    assert again == first


def test_genres_are_favourites_against_the_catalogue(prefix):
    films = make(prefix).ratings.films
    place = {film.title: number for number, film in enumerate(films)}
    liked = [place["Fargo"], place["The Godfather"], place["Solo"]]
    # drama and crime: (2 + 5 x .4) / (8 x .4)
    assert favourite_genres(liked, films) == ["Crime", "Drama"]
    assert favourite_genres([place["Sabrina (1954)"], place["Solo"]], films)[0] == "Comedy"
    assert favourite_genres([], films) == []


def test_ndcg_is_one_for_the_best_list_and_bounded_by_what_there_is():
    assert ndcg([True, True, False], 2, 3) == 1.0
    assert ndcg([False, False], 5, 2) == 0.0 and ndcg([True], 0, 5) == 0.0
    assert ndcg([False, True, False], 1, 3) == pytest.approx(1 / math.log2(3))


def test_baselines_hear_what_was_said(prefix):
    task = make(prefix, recommendations=3, questions=2)
    told = play(task, HELD_OUT_SEEDS, find_scripted(task, "knn"))
    assert told.said[:2] == ("ask film", "ask film") and len(told.said) == 5
    heard = read_conversation(task, told.messages)
    assert len(heard.questions) == 2 and len(heard.recommended) >= 2 and heard.liked
    assert len(set(told.said[2:])) == 3  # nothing twice
    assert all("Sabrina (1954)" not in t and "Godfather" not in t for t in told.said[2:])
    popular = play(task, HELD_OUT_SEEDS, find_scripted(task, "popularity"))
    counts = count_likes(task)
    assert popular.said[0] == f"recommend {task.name_of(int(counts.clicks.argmax()))}"
    assert counts.similarity.diagonal().tolist() == [0.0] * 5


def test_noise_makes_turns_random(prefix):
    task = make(prefix, recommendations=2)
    messages = ({"role": "user", "content": "What should I watch?"},)
    calm, wild = (find_scripted(task, "popularity", noise) for noise in (0.0, 1.0))
    assert len({calm(messages, random.Random(s)) for s in range(20)}) == 1
    assert len({wild(messages, random.Random(s)) for s in range(40)}) == 5


def test_popularity_clicks_more_than_chance(prefix):
    task = make(prefix, recommendations=2)
    seeds = seeds_of("train", 30)
    scores = {
        name: summarize([play(task, s, find_scripted(task, name)) for s in seeds])["clicks"].mean
        for name in ("random", "popularity")
    }
    assert scores["popularity"] == 2.0 > scores["random"]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ("titles=1", "titles is 1; at least 2"),
        ("recommendations=60", "recommendations 60 are more than titles 50"),
        ("question_cost=-1", "question_cost is -1.0; it must not be negative"),
        ("known_fraction=1", "known_fraction is 1.0; it must be in"),
        ("min_clicks=0", "min_clicks is 0"),
        ("names=number", "names is 'number'; it must be"),
    ],
)
def test_settings_that_mean_nothing(settings, problem):
    with pytest.raises(EnvironmentFailure, match=problem):
        load_environment(f"rljax.environments.recommendation:Recommendation?{settings}")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("u1\t10\t5\t0", "u1\t10\tgood\t0"), r"f.inter:5: rating is 'good'; expected a number"),
        (("u1\t10\t5\t0", "u1\t10\t5"), r"f.inter:5: expected 4 fields .*, got 3"),
        (("timestamp:float", "time:float"), r"f.inter:2: expected a field 'timestamp'"),
    ],
)
def test_a_broken_file_is_named(prefix, tmp_path, change, problem):
    from pathlib import Path

    for ending in (".inter", ".item"):
        text = Path(prefix + ending).read_text()
        (tmp_path / f"f{ending}").write_text(text.replace(*change))
    with pytest.raises(DataError, match=problem):
        make(str(tmp_path / "f")).reset(seed=0)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match="there is no file .*none.inter: pip install --no-deps"):
        Recommendation(data=str(tmp_path / "none")).reset(seed=0)


def test_the_real_ratings():
    pytest.importorskip("recbole")
    task = Recommendation()
    assert task.ratings.films[0].title == "Star Wars"
    assert len(task.users(held_out=True)) > 150 and len(task.users(held_out=False)) > 350
