"""Recommend films in a conversation: ask about taste, then name titles that the user will click on.

A turn is one of

    ask genres          the genres that the user likes most
    ask film            a film that the user has seen and liked; another one each time
    recommend TITLE     a film of the catalogue

The user is a real one: her earlier ratings are what she tells, her later ratings of 4 or 5 what she
clicks on. What she says to a recommendation helps with the next: "Clicked.", "Seen it, liked it.",
"Seen it, disliked it." or "No." An episode ends after `recommendations` of them; questions beyond
`questions` are refused. NDCG and hit rate are those of Jaervelin and Kekaelaeinen 2002
(https://doi.org/10.1145/582415.582418) and of He et al. 2017, section 4.1
(https://arxiv.org/abs/1708.05031), over the recommendations in the order they were made.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from rljax.environments.movielens import LIKED, Film, Ratings, User, read_ratings
from rljax.environments.text import EnvironmentFailure, is_held_out
from rljax.tasks.sources import DataError

GREETING = "What should I watch?"
ASK_GENRES, ASK_FILM, RECOMMEND = "ask genres", "ask film", "recommend"
CLICKED, NO, LIKED_IT, DISLIKED_IT = (
    "Clicked.",
    "No.",
    "Seen it, liked it.",
    "Seen it, disliked it.",
)
NO_MORE = "I cannot think of another."
ENOUGH = "No more questions."
UNKNOWN, REPEATED, UNCLEAR = "I do not know that film.", "You said that.", "What do you mean?"
GENRES_TOLD = 2


@dataclasses.dataclass
class Recommendation:
    """Conversations with users of MovieLens-100k (package recbole, or one's own files)."""

    titles: int = 50
    """Films of the catalogue: the most rated ones."""
    recommendations: int = 5
    """Recommendations of an episode, whether or not they make sense."""
    questions: int = 3
    """Questions that are answered."""
    question_cost: float = 0.05
    """What a question costs; a click is worth 1."""
    invalid_cost: float = 0.1
    """What a turn costs that is no question and no title, repeats a title, or asks too much."""
    names: Literal["title", "code"] = "title"
    """How films are called: by their titles, or by short codes F0, F1, ... (most rated first)."""
    known_fraction: float = 0.5
    """Share of a user's ratings, the earliest ones, that she tells of."""
    min_clicks: int = 3
    """Users who would click on fewer films of the catalogue are left out."""
    held_out_fraction: float = 0.3
    """Share of the users, by a hash, that held-out episodes are with."""
    data: str | None = None
    """PREFIX of one's own PREFIX.inter and PREFIX.item in RecBole's form."""

    def __post_init__(self) -> None:
        for name, low in (("titles", 2), ("recommendations", 1), ("questions", 0)):
            if getattr(self, name) < low:
                raise EnvironmentFailure(f"{name} is {getattr(self, name)}; at least {low}")
        for name in ("question_cost", "invalid_cost"):
            if not getattr(self, name) >= 0:
                raise EnvironmentFailure(
                    f"{name} is {getattr(self, name)}; it must not be negative"
                )
        for name in ("known_fraction", "held_out_fraction"):
            if not 0 < getattr(self, name) < 1:
                raise EnvironmentFailure(f"{name} is {getattr(self, name)}; it must be in (0, 1)")
        if self.min_clicks < 1:
            raise EnvironmentFailure(f"min_clicks is {self.min_clicks}; it must be at least 1")
        if self.recommendations > self.titles:
            raise EnvironmentFailure(
                f"recommendations {self.recommendations} are more than titles {self.titles}"
            )
        self._ratings: Ratings | None = None
        self._places: dict[str, int] = {}
        self._users: dict[bool, list[User]] = {}

    @property
    def ratings(self) -> Ratings:
        """The catalogue and the users, read when they are first needed. Raises DataError."""
        if self._ratings is None:
            self._ratings = read_ratings(
                self.data,
                titles=self.titles,
                known_fraction=self.known_fraction,
                held_out_fraction=self.held_out_fraction,
            )
            names = [self.name_of(film) for film in range(self.titles)]
            self._places = {name.casefold(): place for place, name in enumerate(names)}
        return self._ratings

    def name_of(self, film: int) -> str:
        """Return what a film of the catalogue is called."""
        return f"F{film}" if self.names == "code" else self.ratings.films[film].title

    def place_of(self, name: str) -> int | None:
        """Return the film of a name; None where there is none."""
        return self._places.get(name.strip().casefold())

    def users(self, *, held_out: bool) -> list[User]:
        """Return the users of a side who would click on `min_clicks` films or more."""
        if held_out not in self._users:
            self._users[held_out] = [
                user
                for user in self.ratings.users
                if user.held_out == held_out and len(user.clicks) >= self.min_clicks
            ]
        return self._users[held_out]

    def reset(self, *, seed: int) -> tuple[str, dict[str, Any]]:
        """Meet a user: of held-out seeds one after another, else at random."""
        users = self.users(held_out=is_held_out(seed))
        if not users:
            raise DataError(f"no user of this side clicks on {self.min_clicks} films: lower it")
        rng = random.Random(f"recommendation {seed}")
        self.user = users[seed % len(users)] if is_held_out(seed) else rng.choice(users)
        self._to_tell = rng.sample(self.user.liked, len(self.user.liked))
        self._asked = self._invalid = 0
        self._turns = 0
        self._made: list[int | None] = []
        return GREETING, {"user": self.user.name}

    def step(self, text: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Answer a question or a recommendation."""
        words = text.strip()
        lower = words.casefold()
        self._turns += 1
        if lower in (ASK_GENRES, ASK_FILM):
            answer, reward = self._answer(lower)
        elif lower.startswith(RECOMMEND + " "):
            answer, reward = self._judge(words[len(RECOMMEND) + 1 :])
        else:
            answer, reward = self._refuse(UNCLEAR)
        ended = len(self._made) >= self.recommendations
        # Turns that lead nowhere must not go on for ever.
        cut_off = not ended and self._turns >= 2 * (self.recommendations + self.questions)
        return answer, reward, ended, cut_off, {"metrics": self.metrics()}

    def _answer(self, question: str) -> tuple[str, float]:
        if self._asked >= self.questions:
            return self._refuse(ENOUGH)
        self._asked += 1
        if question == ASK_FILM:
            told = f"I liked {self.name_of(self._to_tell.pop())}." if self._to_tell else NO_MORE
        else:
            genres = favourite_genres(self.user.liked, self.ratings.films)
            told = f"I like {' and '.join(genres)}." if genres else "I do not know."
        return told, 0.0 - self.question_cost

    def _judge(self, name: str) -> tuple[str, float]:
        film = self.place_of(name)
        if film is None or film in self._made:
            self._made.append(None)
            return self._refuse(UNKNOWN if film is None else REPEATED)
        self._made.append(film)
        if film in self.user.clicks:
            return CLICKED, 1.0
        if film in self.user.known:
            return (LIKED_IT if self.user.known[film] >= LIKED else DISLIKED_IT), 0.0
        return NO, 0.0

    def _refuse(self, why: str) -> tuple[str, float]:
        self._invalid += 1
        return why, 0.0 - self.invalid_cost

    def metrics(self) -> dict[str, float]:
        """Measure the recommendations made so far."""
        clicked = [film in self.user.clicks for film in self._made]
        return {
            f"ndcg@{self.recommendations}": ndcg(
                clicked, len(self.user.clicks), self.recommendations
            ),
            f"hit_rate@{self.recommendations}": float(any(clicked)),
            "clicks": float(sum(clicked)),
            "questions": float(self._asked),
            "invalid": float(self._invalid),
            "invalid_titles": float(sum(film is None for film in self._made)),
        }

    def scripted(self, noise: float) -> Mapping[str, Any]:
        """Make the baselines: random titles, popular ones, item-kNN, demonstrations."""
        from rljax.environments.recommenders import make_recommenders

        return make_recommenders(self, noise)


def favourite_genres(liked: Collection[int], films: Sequence[Film]) -> list[str]:
    """Name the genres that are most over-represented among liked films, against the catalogue.

    Ordered by (share among the liked + 1 / count) / share in the catalogue; ties by name.
    """
    if not liked:
        return []
    mine = Counter(genre for film in liked for genre in films[film].genres)
    all_of = Counter(genre for film in films for genre in film.genres)
    prior = 5.0  # so that one film of a rare genre does not make it a favourite
    lift = {
        genre: (count + prior * all_of[genre] / len(films))
        / ((len(liked) + prior) * all_of[genre] / len(films))
        for genre, count in mine.items()
    }
    return sorted(lift, key=lambda genre: (-lift[genre], genre))[:GENRES_TOLD]


def ndcg(clicked: Sequence[bool], relevant: int, k: int) -> float:
    """Return the normalised discounted cumulative gain of the first k of a list.

    sum_i clicked_i / log2(i + 1), i from 1, over its greatest value where `relevant` films would be
    clicked on.
    """
    gain = sum(1 / math.log2(i + 2) for i, hit in enumerate(clicked[:k]) if hit)
    best = sum(1 / math.log2(i + 2) for i in range(min(relevant, k)))
    return gain / best if best else 0.0
