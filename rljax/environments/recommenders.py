"""Baselines of the recommendation conversations: they hear what a language model hears.

Everything is counted over the training users, and answers come from the conversation alone.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rljax.environments import recommendation as said
from rljax.environments.scripted import Message, Scripted

if TYPE_CHECKING:
    from rljax.environments.recommendation import Recommendation

SHRINKAGE = 10.0
"""Added to the norm of an item's similarities: titles that few users like are trusted less."""


class Heard(NamedTuple):
    """What a conversation has told so far."""

    liked: tuple[int, ...]
    """Films that the user named, clicked on, or has seen and liked."""
    disliked: tuple[int, ...]
    """Films that she has seen and disliked, or did not want."""
    genres: tuple[str, ...]
    recommended: tuple[str, ...]
    """All names that were recommended, lower-case."""
    questions: tuple[str, ...]


def read_conversation(task: Recommendation, messages: Sequence[Message]) -> Heard:
    """Understand a conversation by its fixed phrases."""
    liked: list[int] = []
    disliked: list[int] = []
    genres: tuple[str, ...] = ()
    recommended: list[str] = []
    questions: list[str] = []
    for turn, answer in zip(messages[1::2], messages[2::2], strict=False):
        text, reply = turn["content"], answer["content"]
        if text in (said.ASK_FILM, said.ASK_GENRES):
            questions.append(text)
            named = re.fullmatch(r"I liked (.*)\.", reply)
            told = re.fullmatch(r"I like (.*)\.", reply)
            film = task.place_of(named[1]) if named else None
            if film is not None:
                liked.append(film)
            elif told:
                genres = tuple(told[1].split(" and "))
            continue
        name = text.removeprefix(said.RECOMMEND + " ")
        recommended.append(name.casefold())
        film = task.place_of(name)
        if film is not None and reply in (said.CLICKED, said.LIKED_IT):
            liked.append(film)
        elif film is not None and reply in (said.DISLIKED_IT, said.NO):
            disliked.append(film)
    return Heard(tuple(liked), tuple(disliked), genres, tuple(recommended), tuple(questions))


class Counts(NamedTuple):
    """What training users like, N films."""

    clicks: np.ndarray
    """[N] float: by how many of them a film is clicked on."""
    similarity: np.ndarray
    """[N, N] float: shrunk cosine of the films' columns of likes, 0 on the diagonal."""


def count_likes(task: Recommendation) -> Counts:
    """Count clicks and co-occurrence of likes over the training users.

    similarity: |i and j| / (sqrt(|i| |j|) + SHRINKAGE), Sarwar et al. 2001
    (https://doi.org/10.1145/371920.372071), section 3.1, with likes for ratings.
    """
    users = [user for user in task.ratings.users if not user.held_out]
    likes = np.zeros((len(users), task.titles))
    clicks = np.zeros(task.titles)
    for row, user in enumerate(users):
        likes[row, list(user.liked)] = 1
        likes[row, list(user.clicks)] = 1
        clicks[list(user.clicks)] += 1
    together = likes.T @ likes
    alone = np.diag(together)
    similarity = together / (np.sqrt(np.outer(alone, alone)) + SHRINKAGE)
    np.fill_diagonal(similarity, 0)
    return Counts(clicks, similarity)


def make_recommenders(task: Recommendation, noise: float) -> Mapping[str, Scripted]:
    """Make the baselines.

    random: titles drawn uniformly. popularity: the titles that most training users clicked on.
    knn: asks for films, then item-kNN over what was liked so far, by popularity before that.
    demonstration: knn that asks from 0 questions to all, of both kinds, as often each, and gives
    films of the genres it heard a bonus. With noise, a turn is a random title in that share.
    """
    counts = count_likes(task)
    popular = counts.clicks / max(counts.clicks.max(), 1)

    def recommend(scores: np.ndarray, heard: Heard) -> str:
        for film in np.argsort(-scores, kind="stable"):
            name = task.name_of(int(film))
            if name.casefold() not in heard.recommended and int(film) not in heard.liked:
                return f"{said.RECOMMEND} {name}"
        return f"{said.RECOMMEND} {task.name_of(0)}"

    def at_random(messages: Sequence[Message], rng: random.Random) -> str:
        scores = np.asarray([rng.random() for _ in range(task.titles)])
        return recommend(scores, read_conversation(task, messages))

    def popularity(messages: Sequence[Message], rng: random.Random) -> str:
        return recommend(popular, read_conversation(task, messages))

    def neighbours(heard: Heard) -> np.ndarray:
        near = counts.similarity[:, list(heard.liked)].sum(axis=1)
        return near + 1e-3 * popular

    def knn(messages: Sequence[Message], rng: random.Random) -> str:
        heard = read_conversation(task, messages)
        if not heard.recommended and len(heard.questions) < task.questions:
            return said.ASK_FILM
        return recommend(neighbours(heard), heard)

    def demonstration(messages: Sequence[Message], rng: random.Random) -> str:
        heard = read_conversation(task, messages)
        left = task.questions - len(heard.questions)
        if not heard.recommended and left > 0 and rng.random() < left / (left + 1):
            fresh = said.ASK_GENRES not in heard.questions and rng.random() < 0.5
            return said.ASK_GENRES if fresh else said.ASK_FILM
        fits = [bool(set(film.genres) & set(heard.genres)) for film in task.ratings.films]
        return recommend(neighbours(heard) + 0.3 * popular * np.asarray(fits), heard)

    def noisy(policy: Scripted) -> Scripted:
        return lambda messages, rng: (at_random if rng.random() < noise else policy)(messages, rng)

    made = {
        "random": at_random,
        "popularity": popularity,
        "knn": knn,
        "demonstration": demonstration,
    }
    return {name: noisy(policy) for name, policy in made.items()}
