"""Train on one language, be judged on another: sides, shots, and text without labels."""

import pytest

from rljax.tasks import crosslingual
from rljax.tasks.classification import POLARITIES, Labelled
from rljax.tasks.crosslingual import Crosslingual
from rljax.tasks.documents import DocumentConfig, read_documents
from rljax.tasks.language import read_examples
from rljax.tasks.sources import DataError


@pytest.fixture(autouse=True)
def reviews(monkeypatch, tmp_path):
    """Forty English reviews and ten Chinese ones, two of them equal after the cut."""
    english = [Labelled(f"film {i}", POLARITIES[i % 2], f"en:{i}") for i in range(40)]
    monkeypatch.setattr(crosslingual, "read_reviews", lambda source: iter(english))
    (tmp_path / "sentiment").mkdir()
    for name, word in (("pos", "好"), ("neg", "坏")):
        lines = "".join(f"第{i}本书很{word}\n" for i in range(5))
        (tmp_path / "sentiment" / f"{name}.txt").write_text(lines + f"第0本书很{word}\n\n")
    monkeypatch.setattr(crosslingual, "package_folder", lambda *_, **__: tmp_path)
    read_examples.cache_clear()


def sides(spec: str) -> dict[str, set[str]]:
    examples = read_examples(spec)
    return {side: {e.prompt for e in examples if e.split == side} for side in ("train", "held_out")}


def test_english_is_trained_on_and_chinese_is_held_out():
    found = sides("crosslingual")
    assert 25 < len(found["train"]) < 40 and all(p.startswith("film") for p in found["train"])
    assert len(found["held_out"]) == 10 and "第0本书很好\nLabel:" in found["held_out"]


def test_the_english_that_is_kept_back_is_in_neither_but_of_test_en():
    chinese, english = sides("crosslingual"), sides("crosslingual?test=en")
    assert chinese["train"] == english["train"]
    assert english["held_out"] == {f"film {i}\nLabel:" for i in range(40)} - english["train"]
    assert english["held_out"]


def test_shots_move_labelled_chinese_to_the_training_side():
    found = sides("crosslingual?shots=4")
    moved = {p for p in found["train"] if not p.startswith("film")}
    assert len(moved) == 4 and len(found["held_out"]) == 6 and not moved & found["held_out"]
    assert sum("好" in prompt for prompt in moved) == 2


def test_unlabelled_reviews_are_continued_from_their_middle_and_not_asked_for():
    spec = "crosslingual?unlabelled=3&unknown_share=0"
    examples = read_examples(spec)
    halves = [e for e in examples if e.answer not in POLARITIES]
    whole = {e.prompt + e.answer for e in halves}
    assert len(whole) == 3 and all(text.startswith("第") for text in whole)
    asked = sides(spec)["held_out"]
    assert len(asked) == 7 and not {f"{text}\nLabel:" for text in whole} & asked
    records = read_documents(DocumentConfig(source=spec))
    assert whole <= {r.fields["prompt"] + r.fields["completion"] for r in records.train}


def test_reviews_are_cut_and_what_is_then_alike_is_on_one_side():
    found = sides("crosslingual?chinese_characters=3&shots=2")
    held_out = found["held_out"]
    assert held_out == {"书很好\nLabel:", "书很坏\nLabel:"} - found["train"] == set()
    start = sides("crosslingual?chinese_characters=2&part=start&question=?")
    assert "第0\n?" in start["held_out"]


def test_the_report_says_what_chance_is():
    pytest.importorskip("sklearn")
    report = Crosslingual().report(["positive"] * 4, {"answer": ["positive"] + ["negative"] * 3})
    assert report.metrics["chance"] == 0.75 and report.metrics["accuracy"] == 0.25


def test_the_baselines_learn_from_what_has_a_label():
    pytest.importorskip("sklearn")
    pytest.importorskip("vaderSentiment")
    task = Crosslingual(shots=4, unlabelled=2)
    made = task.baselines([e for e in task.examples() if e.split == "train"])
    said = made["supervised"].act(["第9本书很好\nLabel:", "第9本书很坏\nLabel:"])
    assert set(said) <= {*POLARITIES, "unknown"}
    assert made["rule"].act(["第9本书很好\nLabel:"]) == ["unknown"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("shots=3", "it must be even"),
        ("shots=-2", "shots is -2"),
        ("shots=20", "only 5 reviews are negative"),
        ("unlabelled=11", "unlabelled is 11; there are 10"),
        ("chinese_characters=1", "chinese_characters is 1"),
        ("test=fr", "must be one of"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(DataError, match=message):
        read_examples(f"crosslingual?{settings}")
