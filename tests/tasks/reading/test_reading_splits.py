"""Splits: by a hash of the words, stable under anything else, the same for prompts and texts."""

import json
import random
import unicodedata

import pytest

from rljax.tasks import TaskConfig, make_task
from rljax.tasks.documents import DocumentConfig, read_documents
from rljax.tasks.preference_forms import split_records
from rljax.tasks.preferences import read_source
from rljax.tasks.prompts import side_fraction, split_key

WORDS = ["café", "naïve", "Zürich", "北京", "plain", "one"]


def records(count, seed=0):
    """Records whose prompts are each written in four ways."""
    rng = random.Random(seed)
    for i in range(count):
        text = f"{rng.choice(WORDS)} {seed} {i} {rng.choice(WORDS)}"
        spaced = text.replace(" ", "\u00a0\t ")
        for j, written in enumerate(
            (text, f"  {text}\n", spaced, unicodedata.normalize("NFD", text))
        ):
            yield {"prompt": written, "completion": f"c{j}", "answer": "x"}


def save(tmp_path, rows, name="a.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def sides_of_prompts(source, tokenizer, **changes):
    changes = {"prompt_tokens": None, "held_out_fraction": 0.2} | changes
    config = TaskConfig(prompts=source, reward="exact_match", **changes)
    task = make_task(config, tokenizer, max_prompt_tokens=1000)
    return [{split_key(text) for text in side.texts} for side in (task.train, task.held_out)]


def sides_of_documents(source, tokenizer=None, **changes):
    config = DocumentConfig(source, held_out_fraction=0.2, **changes)
    found = read_documents(config, tokenizer)
    return [{split_key(r.key) for r in side} for side in (found.train, found.held_out)]


def test_what_a_key_is():
    assert split_key(" a\u00a0b\n\tcafe\u0301 ") == "a b café"
    assert side_fraction("a  b") == side_fraction("a b ") != side_fraction("A b")


def test_sides_do_not_overlap_and_are_the_same_everywhere(tmp_path, byte_tokenizer):
    rows = list(records(150))
    source = save(tmp_path, rows)
    train, held_out = sides_of_prompts(source, byte_tokenizer)
    assert not train & held_out and len(train | held_out) == 150 and len(held_out) > 10
    assert sides_of_documents(source) == [train, held_out]
    judged = read_source(save(tmp_path, [r | {"score": 1.0} for r in rows], "scores.jsonl"))
    split = split_records(judged.records, 0.2)
    assert [{split_key(r.prompt) for r in side} for side in split] == [train, held_out]


def test_sides_are_stable_under_order_and_more_records(tmp_path, byte_tokenizer):
    rows = list(records(100))
    shuffled = [*rows, *records(100, seed=1)]
    random.Random(0).shuffle(shuffled)
    for sides in (lambda s: sides_of_prompts(s, byte_tokenizer), sides_of_documents):
        few, more = sides(save(tmp_path, rows)), sides(save(tmp_path, shuffled, "b.jsonl"))
        assert all(a < b for a, b in zip(few, more, strict=True)) and not more[0] & more[1]


def test_cut_prompts_and_pairs_split_alike(tmp_path, byte_tokenizer):
    """A task whose prompts are cut holds out what documents hold out that hash as many tokens."""
    rows = [r | {"prompt": f"{i // 7} and more {i}"} for i, r in enumerate(records(50))]
    source = save(tmp_path, rows)
    prompts = sides_of_prompts(source, byte_tokenizer, prompt_tokens=4)
    assert sides_of_documents(source, byte_tokenizer, split_tokens=4) == prompts
    assert prompts[0] and prompts[1] and not prompts[0] & prompts[1]


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.99])
def test_small_files_do_not_tear_spellings_apart(tmp_path, byte_tokenizer, fraction):
    source = save(tmp_path, records(2))
    train, held_out = sides_of_prompts(source, byte_tokenizer, held_out_fraction=fraction)
    assert len(train) == len(held_out) == 1 and not train & held_out
