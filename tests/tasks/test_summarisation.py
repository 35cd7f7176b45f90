"""Summaries of docstrings: what is read of a tree of modules, the split, the reward, the report."""

import dataclasses

import pytest

from rljax.rewards.protocol import accepted_columns
from rljax.tasks.docstrings import read_docstrings, split_docstring
from rljax.tasks.language import LANGUAGE_TASKS, load_task, read_examples, task_rows
from rljax.tasks.sources import DataError
from rljax.tasks.summarisation import ASK, Summarisation, copied_share, distinct_share, words_of

pytest.importorskip("rouge_score")

BODY = "The file is read line by line and every line is split at the first colon it holds."
MODULE = '''"""Read files of settings.

{body} Blank lines are skipped."""

raise RuntimeError("a module is parsed, not imported")


def load(path):
    """Load the settings of a file.

    The path may be absolute or relative; the file is opened in text mode and closed at the end.

    >>> load("a")
    """


class Reader:
    """Only one line, and so nothing to sum up."""

    async def read(self):
        """read(self) -> list

        {body}
        """
'''


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "settings.py").write_text(MODULE.format(body=BODY))
    for package, files in {"net": ("a", "b"), "tests": ("c",), "zoo": ("d",)}.items():
        (tmp_path / package).mkdir()
        for name in files:
            text = f"Handle the {name} of {package} here.\n\n{name} {name} {name} {BODY}\n"
            (tmp_path / package / f"{name}.py").write_text(f'"""{text}"""\n')
    return tmp_path


def make(folder, **settings) -> Summarisation:
    return Summarisation(source=str(folder), **settings)


def test_what_is_read_of_a_tree(folder):
    docs = read_docstrings(str(folder), max_chars=300)
    assert [(doc.module, doc.summary) for doc in docs] == [
        ("net", "Handle the a of net here."),
        ("net", "Handle the b of net here."),
        ("settings", "Read files of settings."),
        ("settings", "Load the settings of a file."),
        ("zoo", "Handle the d of zoo here."),
    ]
    assert docs[3].where == f"{folder / 'settings.py'}:9"
    assert docs[3].body.endswith("closed at the end.")  # the doctest is left out
    assert docs == read_docstrings(str(folder), max_chars=300)


def test_of_equal_summaries_or_texts_the_first_is_kept(folder):
    (folder / "zzz.py").write_text(f'"""Handle the A of net here!\n\n{BODY} {BODY}"""\n')
    (folder / "zzzz.py").write_text(f'"""Say it again in short.\n\nA, a; a: {BODY.upper()}"""\n')
    modules = {doc.module for doc in read_docstrings(str(folder), max_chars=300)}
    assert modules == {"net", "settings", "zoo"}


@pytest.mark.parametrize(
    "text",
    [
        "A summary of one line.",
        "A summary that goes\non in the next line.\n\n" + BODY,
        "Too short.\n\n" + BODY,
        "A good summary line.\n\nBut the text is short.",
        "get(key, default) returns a value\n\n" + BODY,
        "word " * 21 + "\n\n" + BODY,
    ],
)
def test_docstrings_of_another_form_are_left_out(text):
    assert split_docstring(text, 300) is None


def test_a_long_text_is_cut_after_a_sentence_or_a_word():
    text = f"A good summary line.\n\n{BODY} {BODY}\n----\n"
    assert split_docstring(text, 300) == ("A good summary line.", f"{BODY} {BODY}")
    assert split_docstring(text, len(BODY) + 20)[1] == BODY
    assert split_docstring(text, len(BODY) - 2)[1] == BODY.rpartition(" ")[0]


def test_a_module_is_wholly_on_one_side(folder):
    sides = {}
    for example in make(folder, held_out=0.5).examples():
        sides.setdefault(example.columns["module"], set()).add(example.split)
    assert all(len(side) == 1 for side in sides.values()) and len(sides) == 3
    assert {e.split for e in make(folder, held_out=0.0).examples()} == {"train"}
    assert {e.split for e in make(folder, held_out=1.0).examples()} == {"held_out"}


def test_prompts_end_in_the_question(folder):
    example = make(folder).examples()[2]
    assert example.prompt == f"{BODY} Blank lines are skipped.{ASK}"
    assert example.answer == " Read files of settings."


def test_the_reward_by_hand(folder):
    """Right: 5 words, here 4 of them in order: precision 1, recall 0.8, F 8/9; swapped: L is 3."""
    right = ["Read the files of settings."] * 4
    written = [
        " read files of settings\nmore",
        "files read of settings",
        "",
        "Read the files of settings.",
    ]
    in_order, swapped, empty, same = make(folder).reward([""] * 4, written, answer=right)
    assert in_order == pytest.approx(8 / 9)
    assert swapped == pytest.approx((8 / 9 + 2 / 3) / 2)
    assert empty == 0.0 and same == pytest.approx(1.0)
    whole = make(folder, rouge_l_weight=1.0).reward([""], [written[1]], answer=right[:1])
    assert whole == [pytest.approx(2 / 3)]


def test_repetition_and_length_cost(folder):
    right = ["one two three"]
    once = make(folder).reward([""], ["one two three"], answer=right)[0]
    twice = make(folder).reward([""], ["one two three one two three"], answer=right)[0]
    assert distinct_share(words_of("one two three one two three")) == 3 / 5
    assert twice == pytest.approx(once * (2 / 3) * 3 / 5)
    long = make(folder, max_words=2).reward([""], ["one two three"], answer=right)[0]
    assert long == pytest.approx(once * 2 / 3)


def test_the_report(folder):
    columns = {"answer": ["Read files of settings.", "Load it now."], "body": [BODY, BODY]}
    report = make(folder).report([" Read files of settings.", " every line line by line"], columns)
    assert report.metrics["rouge1"] == report.metrics["rougel"] == pytest.approx(50.0)
    assert report.metrics["words"] == 4.5
    assert report.metrics["length_ratio"] == pytest.approx(9 / 7)
    assert report.metrics["copied_bigrams"] == pytest.approx((0 + 3 / 4) / 2)
    assert report.metrics["repeated_bigrams"] == 0.0
    assert report.text.splitlines()[1].split()[:2] == ["rouge1", "50.00"]
    assert copied_share(["one"], ["one"]) == 0.0


def test_baselines_take_sentences_or_another_texts_summary(folder):
    pytest.importorskip("sklearn")
    task = make(folder, held_out=0.0, max_words=5)
    policies = task.baselines(task.examples())
    prompt = "Some words. A cat sat on mats. The cat sat on mats here. The dog ran off." + ASK
    assert policies["rule"].act([prompt, BODY + ASK]) == ["Some words.", "The file is read line"]
    assert policies["central"].act([prompt]) in (["A cat sat on mats."], ["The cat sat on mats"])
    asked = "A path that is relative or absolute, opened in text mode." + ASK
    assert policies["supervised"].act([asked]) == ["Load the settings of a file."]


def test_the_spec_is_that_of_a_language_task(folder):
    assert "summarisation" in LANGUAGE_TASKS
    spec = f"summarisation?source={folder}&held_out=0.5"
    assert load_task(spec) == make(folder, held_out=0.5)
    assert len(read_examples(spec)) == 5
    names = accepted_columns(load_task(spec).reward, task_rows(spec)[0].columns)
    assert "answer" in names


def test_settings_of_the_examples_change_them(folder):
    base = make(folder)
    for change in ({"max_chars": 80}, {"held_out": 1.0}):
        assert dataclasses.replace(base, **change).examples() != base.examples(), change


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("held_out=2", r"held_out is 2.0; it must be in \[0, 1\]"),
        ("rouge_l_weight=-1", "rouge_l_weight is -1.0"),
        ("max_words=0", "max_words is 0; it must be at least 1"),
        ("max_chars=5", "no docstring of a summary line"),
    ],
)
def test_bad_settings_are_named(folder, settings, message):
    with pytest.raises(DataError, match=message):
        read_examples(f"summarisation?source={folder}&{settings}")


def test_bad_sources_are_named(folder):
    with pytest.raises(DataError, match="must be 'stdlib' or a folder of Python files"):
        read_examples(f"summarisation?source={folder / 'none'}")
    (folder / "bad.py").write_text("x = 1\ndef (\n")
    with pytest.raises(DataError, match=r"bad.py:2: not Python that can be parsed"):
        read_examples(f"summarisation?source={folder}")


@pytest.mark.slow
def test_the_standard_library_holds_hundreds():
    examples = read_examples("summarisation")
    assert len(examples) > 700
    assert sum(e.split == "held_out" for e in examples) > 100
    train = {e.columns["module"] for e in examples if e.split == "train"}
    assert not train & {e.columns["module"] for e in examples if e.split == "held_out"}
