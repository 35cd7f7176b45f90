"""What a learned tagger has to beat: a list of known names, and a conditional random field."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from rljax.tasks.installed import import_package
from rljax.tasks.language import Example
from rljax.tasks.ner_forms import Form, Span, find_spans, span_tags

Words = Sequence[str]


class Gazetteer:
    """Tag what was an entity in training, the longest match first.

    Entities that had one type only are known; from left to right, the longest known one that begins
    at a word is taken: the baseline of the CoNLL-2003 task (Tjong Kim Sang and De Meulder 2003,
    https://aclanthology.org/W03-0419, section 3).
    """

    def __init__(self, form: Form, train: Sequence[Example]) -> None:
        self.form = form
        kinds: dict[tuple[str, ...], set[str]] = defaultdict(set)
        for example in train:
            tokens = example.columns["tokens"]
            for span in find_spans(example.columns["tags"]):
                kinds[tuple(tokens[span.start : span.end])].add(span.kind)
        self.known = {words: min(found) for words, found in kinds.items() if len(found) == 1}
        self.longest = max(map(len, self.known), default=0)

    def act(self, observations: Sequence[str]) -> list[str]:
        """Write the tags of each sentence."""
        sentences = map(self.form.tokens, observations)
        return [self.form.render(tokens, self._tag(tokens)) for tokens in sentences]

    def _tag(self, tokens: tuple[str, ...]) -> tuple[str, ...]:
        spans, start = [], 0
        while start < len(tokens):
            ends = range(min(start + self.longest, len(tokens)), start, -1)
            end = next((end for end in ends if tokens[start:end] in self.known), None)
            if end is not None:
                spans.append(Span(self.known[tokens[start:end]], start, end))
            start = end or start + 1
        return span_tags(spans, len(tokens))


class Tagger:
    """A linear-chain conditional random field over features of words (Lafferty et al. 2001).

    Features: the word, its first and last three characters, its shape, and the same but the affixes
    of its two neighbours; L1 and L2 penalties of 0.1, as in the example of sklearn-crfsuite.
    """

    ITERATIONS = 100

    def __init__(self, form: Form, train: Sequence[Example]) -> None:
        self.form = form
        package = import_package("sklearn_crfsuite", what="the supervised baseline of ner")
        self.field = package.CRF(c1=0.1, c2=0.1, max_iterations=self.ITERATIONS)
        self.field.fit(
            [sentence_features(example.columns["tokens"]) for example in train],
            [list(example.columns["tags"]) for example in train],
        )

    def act(self, observations: Sequence[str]) -> list[str]:
        """Write the most probable tags of each sentence."""
        sentences = [self.form.tokens(observation) for observation in observations]
        found = self.field.predict([sentence_features(tokens) for tokens in sentences])
        return [
            self.form.render(tokens, span_tags(find_spans(tags), len(tokens)))
            for tokens, tags in zip(sentences, found, strict=True)
        ]


def word_shape(word: str) -> str:
    """Write the kinds of a word's characters, runs as one: "McDonald's" is "XxXx'x"."""
    shape = re.sub(r"\d", "9", word)
    shape = "".join("X" if c.isupper() else "x" if c.islower() else c for c in shape)
    return re.sub(r"(.)\1+", r"\1", shape)


def sentence_features(tokens: Words) -> list[dict[str, Any]]:
    """Describe each word of a sentence by itself and its neighbours."""
    own = [{"word": token.lower(), "shape": word_shape(token)} for token in tokens]
    features = []
    for place, token in enumerate(tokens):
        described: dict[str, Any] = {"bias": 1.0}
        for offset in (-1, 0, 1):
            if 0 <= place + offset < len(tokens):
                described |= {f"{offset}:{k}": v for k, v in own[place + offset].items()}
            else:
                described[f"{offset}:none"] = True
        for size in (1, 2, 3):
            described[f"prefix{size}"] = token[:size].lower()
            described[f"suffix{size}"] = token[-size:].lower()
        features.append(described)
    return features
