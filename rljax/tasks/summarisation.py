"""Write the first line of a docstring from the rest of it.

The data are docstrings of Python's standard library (`rljax.tasks.docstrings`); the reward is ROUGE
(Lin 2004), lowered for repetition and length.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rljax.reporting.statistics import bootstrap_mean
from rljax.tasks.docstrings import STDLIB, WHAT, Docstring, read_docstrings
from rljax.tasks.installed import import_package
from rljax.tasks.language import Example, LanguageTask, Report, TextPolicy
from rljax.tasks.prompts import text_fraction
from rljax.tasks.sources import DataError

ASK = "\nSummary:"
KINDS = ("rouge1", "rouge2", "rougeL")


@dataclasses.dataclass(frozen=True)
class Summarisation(LanguageTask):
    """Sum up the text of a docstring in one line."""

    source: str = STDLIB
    """'stdlib', or a folder of Python files."""
    max_chars: int = 300
    """The text is cut to its first sentences within so many characters."""
    held_out: float = 0.15
    """Share of the top-level modules that is held out, by a hash of their names."""
    rouge_l_weight: float = 0.5
    """Share of ROUGE-L in the reward; the rest is ROUGE-1."""
    max_words: int = 20
    """A summary of more words has its reward multiplied by max_words over its words."""

    def __post_init__(self) -> None:
        for name in ("held_out", "rouge_l_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be in [0, 1]")
        for name in ("max_chars", "max_words"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        import_package("rouge_score", what=WHAT)

    def examples(self) -> list[Example]:
        """Make an example of every docstring; a module is wholly on one side."""
        found = read_docstrings(self.source, max_chars=self.max_chars)
        if not found:
            raise DataError(
                f"{WHAT}: {self.source} has no docstring of a summary line, a blank line and a "
                f"text within max_chars {self.max_chars}"
            )
        return [
            Example(
                doc.body + ASK,
                f" {doc.summary}",
                {"body": doc.body, "module": doc.module},
                doc.where,
                "held_out" if self._is_held_out(doc) else "train",
            )
            for doc in found
        ]

    def _is_held_out(self, doc: Docstring) -> bool:
        return text_fraction(doc.module) < self.held_out

    def reward(
        self,
        prompts: Sequence[str],
        completions: Sequence[str],
        *,
        answer: Sequence[str] = (),
        **columns: Sequence[Any],
    ) -> list[float]:
        """Score the first lines in [0, 1].

        ((1 - w) ROUGE-1 + w ROUGE-L) (F-measures of stems), times the share of bigrams that do not
        stand twice, times min(1, max_words / words).
        """
        del prompts, columns
        return [
            self._judge(first_line(text), right)
            for text, right in zip(completions, answer, strict=True)
        ]

    def _judge(self, line: str, right: str) -> float:
        words = words_of(line)
        if not words:
            return 0.0
        scores = rouge(line, right)
        mixed = (1 - self.rouge_l_weight) * scores[0] + self.rouge_l_weight * scores[2]
        return mixed * distinct_share(words) * min(1.0, self.max_words / len(words))

    def report(self, completions: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> Report:
        """Measure ROUGE-1, 2 and L (F, 0 to 100), words, and how much is copied or repeated."""
        lines = [first_line(text) for text in completions]
        scores = np.asarray(
            [rouge(line, right) for line, right in zip(lines, columns["answer"], strict=True)]
        )
        rows = {name: 100 * scores[:, i] for i, name in enumerate(KINDS)}
        words = [words_of(line) for line in lines]
        wanted = [words_of(text) for text in columns["answer"]]
        rows["words"] = np.asarray([len(w) for w in words], np.float64)
        rows["copied_bigrams"] = np.asarray(
            [copied_share(w, words_of(b)) for w, b in zip(words, columns["body"], strict=True)]
        )
        rows["repeated_bigrams"] = np.asarray([1 - distinct_share(w) for w in words])
        text = [f"{'':<18}mean  95% interval"]
        for name, values in rows.items():
            mean, low, high = bootstrap_mean(values, num_resamples=1000)
            text.append(f"{name:<16}{mean:>6.2f}  [{low:.2f}, {high:.2f}]")
        metrics = {name.lower(): float(values.mean()) for name, values in rows.items()}
        metrics["length_ratio"] = sum(map(len, words)) / max(1, sum(map(len, wanted)))
        return Report(metrics, "\n".join(text))

    def baselines(self, train: Sequence[Example]) -> Mapping[str, TextPolicy]:
        """The first sentence; the most central one; the summary of the most similar text."""
        from rljax.tasks.summarisation_baselines import Central, Lead, Retrieval

        return {
            "rule": Lead(self.max_words),
            "central": Central(self.max_words),
            "supervised": Retrieval(train),
        }


def first_line(completion: str) -> str:
    """Return the first line that says something."""
    return completion.strip().partition("\n")[0].strip()


def words_of(text: str) -> list[str]:
    """Split into lower-case words, as ROUGE does."""
    return re.findall(r"[a-z0-9]+", text.lower())


def _bigrams(words: Sequence[str]) -> list[tuple[str, str]]:
    return list(zip(words, words[1:], strict=False))


def distinct_share(words: Sequence[str]) -> float:
    """Compute the share of bigrams that are different; 1 for fewer than two words."""
    pairs = _bigrams(words)
    return len(set(pairs)) / len(pairs) if pairs else 1.0


def copied_share(words: Sequence[str], body: Sequence[str]) -> float:
    """Compute the share of a summary's bigrams that stand in the text; 0 for fewer than two."""
    pairs, there = _bigrams(words), set(_bigrams(body))
    return sum(pair in there for pair in pairs) / len(pairs) if pairs else 0.0


@functools.lru_cache(maxsize=1)
def _scorer() -> Any:
    module = import_package("rouge_score.rouge_scorer", what=WHAT)
    return module.RougeScorer(list(KINDS), use_stemmer=True)


def rouge(line: str, right: str) -> tuple[float, float, float]:
    """Compute the F-measures of ROUGE-1, ROUGE-2 and ROUGE-L of stems, in [0, 1]."""
    scores = _scorer().score(right, line)
    return tuple(float(scores[kind].fmeasure) for kind in KINDS)  # type: ignore[return-value]
