"""The two tables of named entity recognition: by entities (seqeval), by words (scikit-learn)."""

from __future__ import annotations

from collections.abc import Sequence

from rljax.tasks.conll import OUTSIDE
from rljax.tasks.installed import import_package
from rljax.tasks.language import Report
from rljax.tasks.ner_forms import Parsed, find_spans

DIGITS = 3
AVERAGES = ("micro", "macro", "weighted")


def make_report(parsed: Sequence[Parsed], right: Sequence[Sequence[str]]) -> Report:
    """Compare what was written about sentences with their right tags (IOB2).

    metrics: precision, recall and F1 of the entities over all types (micro_f1), as the mean of the
    types (macro_f1), and as their mean by support (weighted_f1); token_accuracy, the share of words
    with the right tag; malformed, the share of completions that could not be understood entirely.
    Entities that are not in the sentence are false positives of their type. Where there is nothing
    to find and nothing was found, the F1s are 0, as seqeval has it.
    """
    sequence = import_package("seqeval.metrics", what="the report of entities")
    classes = import_package("sklearn.metrics", what="the report of tags")
    # Entities that stand nowhere get places of their own behind the sentence.
    wanted = [[*t, *[OUTSIDE] * len(p.unplaced)] for p, t in zip(parsed, right, strict=True)]
    found = [[*p.tags, *(f"B-{kind}" for kind in p.unplaced)] for p in parsed]
    if any(find_spans(tags) for tags in (*wanted, *found)):
        options = {"digits": DIGITS, "zero_division": 0}
        table = sequence.classification_report(wanted, found, **options)
        numbers = sequence.classification_report(wanted, found, **options, output_dict=True)
    else:
        table = "nothing to find, and nothing was found\n"
        numbers = {f"{name} avg": dict.fromkeys(("precision", "recall", "f1-score"), 0.0)
                   for name in AVERAGES}  # fmt: skip
    flat_right = [tag for tags in right for tag in tags]
    flat_found = [tag for p in parsed for tag in p.tags]
    words = classes.classification_report(flat_right, flat_found, digits=DIGITS, zero_division=0)
    metrics = {
        "precision": float(numbers["micro avg"]["precision"]),
        "recall": float(numbers["micro avg"]["recall"]),
        **{f"{name}_f1": float(numbers[f"{name} avg"]["f1-score"]) for name in AVERAGES},
        "token_accuracy": float(classes.accuracy_score(flat_right, flat_found)),
        "malformed": sum(p.malformed for p in parsed) / len(parsed),
    }
    return Report(metrics, f"entities\n\n{table}\ntags of single words\n\n{words}")
