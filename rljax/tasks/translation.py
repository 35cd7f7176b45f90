"""Translate the messages of a program from English, as people have translated them.

The data are gettext catalogues (`rljax.tasks.catalogues`); the reward is a sentence score of
sacrebleu, lowered where a placeholder such as %(name)s is lost or made up.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rljax.tasks.catalogues import DJANGO, WHAT, Pair, placeholders, read_pairs, split_key
from rljax.tasks.installed import import_package
from rljax.tasks.language import Example, LanguageTask, Report, TextPolicy
from rljax.tasks.prompts import text_fraction
from rljax.tasks.sources import DataError

TOKENIZERS = {"zh": "zh", "ja": "char", "ko": "char", "th": "char", "km": "char", "my": "char"}
"""How BLEU cuts texts of languages that need something else than 13a."""
RESAMPLES = 300
"""Of sacrebleu's bootstrap, for the intervals of the table."""


@dataclasses.dataclass(frozen=True)
class Translation(LanguageTask):
    """Messages of a program from English into one or several languages."""

    to: str = "de"
    """Languages as the catalogues' folders name them, such as de,fr,zh_Hans; several are pooled,
    and each prompt says which is wanted."""
    metric: Literal["chrf", "bleu"] = "chrf"
    """The sentence score that is the reward: chrF2 (Popovic 2015), or BLEU of effective order with
    exponential smoothing (Chen and Cherry 2014, method 3)."""
    placeholder_factor: float = 0.5
    """What the reward of a translation is multiplied with whose placeholders are not the
    source's."""
    memory: int = 0
    """So many of the most similar pairs of the training side stand in front of a prompt, the most
    similar last (Bulte and Tezcan 2019)."""
    max_chars: int = 80
    """Sources with more characters are left out."""
    held_out: float = 0.15
    """Share of the sources that is held out, in every language, by a hash of their words."""
    catalogues: str = DJANGO
    """'django', or a folder that holds LANGUAGE/LC_MESSAGES/*.po or LANGUAGE.po."""

    def __post_init__(self) -> None:
        languages = self.languages
        if not all(languages) or len(set(languages)) < len(languages):
            raise ValueError(f"to is {self.to!r}; it must be different languages, as in de,fr")
        for name, low, high in (("placeholder_factor", 0, 1), ("held_out", 0, 1)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be in [{low}, {high}]")
        if self.memory < 0:
            raise ValueError(f"memory is {self.memory}; it must be at least 0")
        if self.max_chars < 1:
            raise ValueError(f"max_chars is {self.max_chars}; it must be at least 1")
        for package in ("polib", "sacrebleu"):
            import_package(package, what=WHAT)

    @property
    def languages(self) -> tuple[str, ...]:
        """The target languages."""
        return tuple(name.strip() for name in self.to.split(","))

    def examples(self) -> list[Example]:
        """Make an example of every pair; a source is on one side in all languages."""
        made = []
        for language in self.languages:
            pairs = read_pairs(self.catalogues, language, max_chars=self.max_chars)
            if not pairs:
                raise DataError(
                    f"{WHAT}: no pair is left of the catalogues of {language}: raise max_chars"
                )
            made += self._examples_of(pairs)
        return made

    def _examples_of(self, pairs: Sequence[Pair]) -> list[Example]:
        train = [pair for pair in pairs if not self._is_held_out(pair)]
        similar = nearest_pairs(pairs, train, self.memory)
        return [
            Example(
                "".join(f"{ask(near)} {near.references[0]}\n" for near in memory) + ask(pair),
                f" {pair.references[0]}",
                {
                    "source": pair.source,
                    "references": pair.references,
                    "language": pair.language,
                },
                pair.where,
                "held_out" if self._is_held_out(pair) else "train",
            )
            for pair, memory in zip(pairs, similar, strict=True)
        ]

    def _is_held_out(self, pair: Pair) -> bool:
        return text_fraction(split_key(pair.source)) < self.held_out

    def reward(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        *,
        source: Sequence[str] = (),
        references: Sequence[Sequence[str]] = (),
        language: Sequence[str] = (),
        **columns: Sequence[Any],
    ) -> list[float]:
        """Score the first lines in [0, 1]; times `placeholder_factor` for wrong placeholders."""
        del prompts, columns
        return [
            sentence_score(self.metric, line, wanted, name)
            * (1.0 if placeholders(line) == placeholders(asked) else self.placeholder_factor)
            for line, asked, wanted, name in zip(
                map(first_line, completions), source, references, language, strict=True
            )
        ]

    def report(self, completions: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> Report:
        """Measure each language: corpus BLEU and chrF, exact matches, placeholders, length.

        Of several languages the plain names are their means, and NAME_LANGUAGE is each one's own.
        """
        lines = [first_line(text) for text in completions]
        table: dict[str, dict[str, float]] = {}
        text = [
            f"{'':<10}{'pairs':>6}  {'BLEU':<14}{'chrF':<14}{'exact':>6}{'placeh.':>8}{'len':>6}"
        ]
        signatures: dict[str, str] = {}
        for name in sorted(set(columns["language"])):
            rows = [i for i, other in enumerate(columns["language"]) if other == name]
            numbers, shown, signature = _measure(
                name,
                [lines[i] for i in rows],
                [columns["references"][i] for i in rows],
                [columns["source"][i] for i in rows],
            )
            table[name] = numbers
            text.append(shown)
            signatures |= signature
        metrics = {
            key: sum(numbers[key] for numbers in having) / len(having)
            for key in ("bleu", "chrf", "exact", "placeholders", "length_ratio")
            if (having := [numbers for numbers in table.values() if key in numbers])
        }
        if len(table) > 1:
            metrics |= {f"{k}_{name}": v for name, row in table.items() for k, v in row.items()}
        text += [f"{name}: {signature}" for name, signature in signatures.items()]
        return Report(metrics, "\n".join(text))

    def baselines(self, train: Sequence[Example]) -> Mapping[str, TextPolicy]:
        """Copy the source; word by word from a dictionary; the most similar pair's translation."""
        from rljax.tasks.translation_baselines import Copy, Dictionary, TranslationMemory

        return {
            "copy": Copy(),
            "rule": Dictionary(train),
            "supervised": TranslationMemory(train),
        }


def ask(pair: Pair) -> str:
    """Write what is asked: "en: Save" and "de:", two lines; the message's context in brackets."""
    note = f" ({pair.context})" if pair.context else ""
    return f"en{note}: {pair.source}\n{pair.language}:"


def asked(prompt: str) -> tuple[str, str]:
    """Read a prompt back: the message, its context included, and the language."""
    *_, source, last = prompt.split("\n")
    return source.removeprefix("en").removeprefix(":").strip(), last.removesuffix(":")


def first_line(completion: str) -> str:
    """Return the first line that says something."""
    return completion.strip().partition("\n")[0].strip()


def nearest_pairs(
    pairs: Sequence[Pair], train: Sequence[Pair], count: int
) -> list[tuple[Pair, ...]]:
    """Find the training pairs most similar to each pair: up to `count`, the most similar last.

    The similarity is the cosine of TF-IDF weights of the sources' character 2- to 4-grams. Pairs
    of the same words (`split_key`) are passed over: a held-out pair never has one.
    """
    if not count or not train:
        return [() for _ in pairs]
    text = import_package("sklearn.feature_extraction.text", what=WHAT)
    vectorizer = text.TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
    known = vectorizer.fit_transform([pair.source for pair in train])
    scores = (vectorizer.transform([pair.source for pair in pairs]) @ known.T).toarray()
    keys = [split_key(pair.source) for pair in train]
    found = []
    for pair, row in zip(pairs, scores, strict=True):
        own = split_key(pair.source)
        order = [j for j in (-row).argsort(kind="stable") if keys[j] != own][:count]
        found.append(tuple(train[j] for j in reversed(order)))
    return found


def _tokenizer(language: str) -> str:
    return TOKENIZERS.get(language.partition("_")[0], "13a")


@functools.lru_cache(maxsize=16)
def _scorer(metric: str, tokenizer: str, sentences: bool) -> Any:
    metrics = import_package("sacrebleu.metrics", what=WHAT)
    if metric == "chrf":
        return metrics.CHRF()
    return metrics.BLEU(tokenize=tokenizer, effective_order=sentences)


def sentence_score(metric: str, line: str, references: Sequence[str], language: str) -> float:
    """Score one translation in [0, 1] by its best reference, with sacrebleu's sentence score."""
    if not line:
        return 0.0
    tokenizer = _tokenizer(language) if metric == "bleu" else ""
    return _scorer(metric, tokenizer, True).sentence_score(line, list(references)).score / 100


def _measure(
    language: str,
    lines: Sequence[str],
    references: Sequence[Sequence[str]],
    sources: Sequence[str],
) -> tuple[dict[str, float], str, dict[str, str]]:
    """Measure one language: numbers by name, a line of the table, sacrebleu's signatures."""
    count = max(map(len, references))
    streams = [[r[k] if k < len(r) else None for r in references] for k in range(count)]
    numbers: dict[str, float] = {}
    cells, signatures = "", {}
    for metric in ("bleu", "chrf"):
        tokenizer = _tokenizer(language) if metric == "bleu" else ""
        scorer = _scorer(metric, tokenizer, False)
        result = scorer.corpus_score(list(lines), streams, n_bootstrap=RESAMPLES)
        numbers[metric] = result.score
        cells += f"{f'{result.score:.1f} +- {result._ci:.1f}':<14}"
        signatures[f"{metric} {tokenizer}".strip()] = str(scorer.get_signature())
    right = [line in wanted for line, wanted in zip(lines, references, strict=True)]
    numbers["exact"] = sum(right) / len(right)
    kept = [
        placeholders(line) == placeholders(source)
        for line, source in zip(lines, sources, strict=True)
        if placeholders(source) != placeholders("")
    ]
    if kept:
        numbers["placeholders"] = sum(kept) / len(kept)
    numbers["length_ratio"] = sum(map(len, lines)) / sum(len(r[0]) for r in references)
    held = f"{numbers['placeholders']:.2f}" if kept else "none"
    shown = (
        f"{language:<10}{len(lines):>6}  {cells}{numbers['exact']:>6.2f}{held:>8}"
        f"{numbers['length_ratio']:>6.2f}"
    )
    return numbers, shown, signatures
