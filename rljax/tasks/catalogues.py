"""Read pairs of English and its translation from gettext catalogues (.po files).

Django's wheel carries some 750 messages in each of 99 languages, translated by people; a folder of
one's own is read alike.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rljax.tasks.installed import import_package, package_folder
from rljax.tasks.sources import DataError

DJANGO = "django"
WHAT = "the task translation"
PLACEHOLDER = re.compile(r"%\(\w+\)[a-z]|%[sdifr]|\{\w*\}")
"""What Python's % and str.format fill in: %(name)s, %s, {name}, {}."""
_POSITIONAL = re.compile(r"%[a-z]|\{\}")


class Pair(NamedTuple):
    """A message and what people made of it in one language."""

    source: str
    context: str
    """What tells messages of one spelling apart, such as "abbrev. month"; empty for most."""
    language: str
    references: tuple[str, ...]
    """Different translations, the most frequent first."""
    where: str


def placeholders(text: str) -> tuple[frozenset[str], tuple[str, ...]]:
    """Find the placeholders of a text: the set of named ones, and the sorted list of the others.

    A translation may use a named one twice; of `%s` and `{}` there must be as many.
    """
    found = PLACEHOLDER.findall(text)
    named = frozenset(p for p in found if not _POSITIONAL.fullmatch(p))
    return named, tuple(sorted(p for p in found if p not in named))


def split_key(source: str) -> str:
    """Spell a source as the split sees it: words in lower case, without marks and placeholders.

    "Password:", "password" and "Password" are one. A source of nothing else is its own key.
    """
    words = re.findall(r"\w+", PLACEHOLDER.sub(" ", source).casefold())
    return " ".join(words) or source


def read_pairs(catalogues: str, language: str, *, max_chars: int) -> list[Pair]:
    """Read the pairs of one language, in the order of the files.

    catalogues: "django", or a folder that holds LANGUAGE/LC_MESSAGES/*.po or LANGUAGE.po at any
    depth. Left out: obsolete, fuzzy and untranslated entries, plurals (what stands in which form
    depends on the language), sources of several lines, of more than max_chars characters, or
    without a letter outside of placeholders. Equal messages are one pair with several references.
    Raises DataError for a package, folder or language that is not there, and for files that cannot
    be read.
    """
    polib = import_package("polib", what=WHAT)
    files = _find_files(catalogues, language)
    found: dict[tuple[str, str], list[str]] = {}
    places: dict[tuple[str, str], str] = {}
    for path in files:
        try:
            entries = polib.pofile(str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: not a .po file that can be read: {error}") from None
        for entry in entries:
            if entry.obsolete or entry.fuzzy or entry.msgid_plural:
                continue
            source, target = " ".join(entry.msgid.split(" ")).strip(), entry.msgstr.strip()
            if not target or not _is_wanted(source, max_chars) or "\n" in target:
                continue
            key = (source, (entry.msgctxt or "").strip())
            found.setdefault(key, []).append(target)
            places.setdefault(key, f"{path}:{entry.linenum}")
    return [
        Pair(source, context, language, _by_frequency(targets), places[source, context])
        for (source, context), targets in found.items()
    ]


def _is_wanted(source: str, max_chars: int) -> bool:
    letters = any(c.isalpha() for c in PLACEHOLDER.sub("", source))
    return letters and len(source) <= max_chars and "\n" not in source


def _by_frequency(targets: list[str]) -> tuple[str, ...]:
    """Return the different texts, the most frequent first; as they came where equally frequent."""
    return tuple(text for text, _ in Counter(targets).most_common())


def _find_files(catalogues: str, language: str) -> list[Path]:
    if catalogues == DJANGO:
        root = package_folder("django", what=WHAT, install="--no-deps Django")
    else:
        root = Path(catalogues).expanduser()
        if not root.is_dir():
            raise DataError(
                f"{WHAT}: catalogues is {catalogues!r}; it must be 'django' or a folder of .po "
                "files"
            )
    files = sorted(_named(root, language))
    if not files:
        known = sorted({p.parent.parent.name for p in root.glob("**/LC_MESSAGES/*.po")})
        known = known or sorted({p.stem for p in root.glob("**/*.po")})
        raise DataError(
            f"{WHAT}: {catalogues} has no catalogue of the language {language!r}; it has "
            f"{', '.join(known) or 'no .po file at all'}"
        )
    return files


def _named(root: Path, language: str) -> Iterator[Path]:
    yield from root.glob(f"**/{language}/LC_MESSAGES/*.po")
    yield from root.glob(f"**/{language}.po")
