"""Translation from gettext catalogues: which pairs are read, how they are split and judged."""

import dataclasses

import pytest

from rljax.rewards.protocol import accepted_columns
from rljax.tasks.catalogues import placeholders, read_pairs, split_key
from rljax.tasks.language import LANGUAGE_TASKS, load_task, read_examples, task_rows
from rljax.tasks.sources import DataError
from rljax.tasks.translation import Translation, nearest_pairs

pytest.importorskip("polib")
sacrebleu = pytest.importorskip("sacrebleu")
pytest.importorskip("sklearn")

HEADER = 'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=UTF-8\\n"\n\n'
GERMAN = [
    ("Save", "Sichern"),
    ("Save changes", "Änderungen sichern"),
    ("Save as new", "Als neu sichern"),
    ("save:", "sichern:"),
    ("Delete", "Löschen"),
    ("Delete %(name)s", "%(name)s löschen"),
    ("Delete %(name)s?", "%(name)s löschen?"),
    ("Add %s", "%s hinzufügen"),
    ("Password", "Passwort"),
    ("Change password", "Passwort ändern"),
    ("Home", "Start"),
    ("Log out", "Abmelden"),
]


def entry(source: str, target: str, before: str = "") -> str:
    return f'{before}msgid "{source}"\nmsgstr "{target}"\n\n'


@pytest.fixture
def folder(tmp_path):
    for language, pairs in {
        "de": GERMAN,
        "zh_Hans": [("Save", "保存"), ("Delete %(name)s", "删除 %(name)s"), ("Home", "首页")],
    }.items():
        path = tmp_path / "app" / "locale" / language / "LC_MESSAGES"
        path.mkdir(parents=True)
        text = HEADER + "".join(entry(*pair) for pair in pairs)
        (path / "django.po").write_text(text, encoding="utf-8")
    return tmp_path


def make(folder, **settings) -> Translation:
    return Translation(catalogues=str(folder), **settings)


def judge(task: Translation, completions, pairs) -> list[float]:
    columns = {
        "source": [source for source, _ in pairs],
        "references": [(target,) for _, target in pairs],
        "language": ["de"] * len(pairs),
    }
    return task.reward([""] * len(pairs), completions, **columns)


def test_only_sensible_entries_are_read(tmp_path):
    text = HEADER + "".join(
        [
            entry("Save", "Sichern"),
            entry("Open", "Öffnen", "#, fuzzy\n"),
            entry("Close", ""),
            entry("One\\nline", "Eine\\nZeile"),
            entry("%(a)s: %s", "%(a)s: %s"),
            entry("A text that is far too long to be read", "Ein langer Text"),
            'msgid "%d day"\nmsgid_plural "%d days"\nmsgstr[0] "%d Tag"\nmsgstr[1] "%d Tage"\n\n',
            entry("May", "Mai", 'msgctxt "abbrev. month"\n'),
            entry("May", "Mai"),
            '#~ msgid "Old"\n#~ msgstr "Alt"\n',
        ]
    )
    (tmp_path / "de.po").write_text(text, encoding="utf-8")
    pairs = read_pairs(str(tmp_path), "de", max_chars=30)
    assert [(p.source, p.context, p.references) for p in pairs] == [
        ("Save", "", ("Sichern",)),
        ("May", "abbrev. month", ("Mai",)),
        ("May", "", ("Mai",)),
    ]
    assert pairs[0].where == f"{tmp_path / 'de.po'}:5"
    assert len(read_pairs(str(tmp_path), "de", max_chars=40)) == 4


def test_translations_of_one_message_are_its_references_the_most_frequent_first(tmp_path):
    for name, target in {"a": "Sichern", "b": "Speichern", "c": "Speichern"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "de.po").write_text(HEADER + entry("Save", target), encoding="utf-8")
    (pair,) = read_pairs(str(tmp_path), "de", max_chars=80)
    assert pair.references == ("Speichern", "Sichern")
    task = make(tmp_path, held_out=0.0)
    assert task.examples()[0].answer == " Speichern"
    columns = {"source": ["Save"], "references": [pair.references], "language": ["de"]}
    assert task.reward([""], [" Sichern"], **columns) == [pytest.approx(1.0)]


def test_a_prompt_says_what_is_wanted_and_its_context(tmp_path):
    text = HEADER + entry("May", "Mai", 'msgctxt "abbrev. month"\n') + entry("Home", "Start")
    (tmp_path / "de.po").write_text(text, encoding="utf-8")
    prompts = [e.prompt for e in make(tmp_path, held_out=0.0).examples()]
    assert prompts == ["en (abbrev. month): May\nde:", "en: Home\nde:"]


def test_a_source_is_on_one_side_in_all_languages_and_spellings(folder):
    examples = make(folder, to="de,zh_Hans", held_out=0.4).examples()
    sides: dict[str, set] = {}
    for example in examples:
        sides.setdefault(split_key(example.columns["source"]), set()).add(example.split)
    assert all(len(side) == 1 for side in sides.values())
    assert {side for (side,) in sides.values()} == {"train", "held_out"}
    assert split_key("save:") == split_key("Save") == "save"
    assert split_key("Delete %(name)s?") == split_key("Delete")
    assert {e.split for e in make(folder, held_out=0.0).examples()} == {"train"}


def test_the_memory_holds_similar_pairs_of_the_training_side_only(folder):
    plain = make(folder, held_out=0.4).examples()
    examples = make(folder, held_out=0.4, memory=2).examples()
    train = {e.columns["source"] for e in examples if e.split == "train"}
    for example, bare in zip(examples, plain, strict=True):
        lines = example.prompt.split("\n")
        shown = [line.removeprefix("en: ") for line in lines[0:4:2]]
        assert len(lines) == 6 and set(shown) <= train
        assert not {split_key(s) for s in shown} & {split_key(example.columns["source"])}
        assert example.prompt.endswith(bare.prompt) and example.answer == bare.answer


def test_the_most_similar_pair_stands_last(folder):
    pairs = read_pairs(str(folder), "de", max_chars=80)
    query = next(p for p in pairs if p.source == "Change password")
    (memory,) = nearest_pairs([query], pairs, 2)
    assert memory[-1].source == "Password"


def test_the_reward_is_the_sentence_score_of_the_first_line(folder):
    pairs = [("Save changes", "Änderungen sichern")] * 3
    completions = [" Änderungen sichern\nen: more", " Änderung sichern", " "]
    for metric in ("chrf", "bleu"):
        scores = judge(make(folder, metric=metric), completions, pairs)
        assert scores[0] == pytest.approx(1.0) and scores[2] == 0.0
        assert 0 < scores[1] < 1
    chrf = sacrebleu.sentence_chrf("Änderung sichern", ["Änderungen sichern"]).score / 100
    assert judge(make(folder), completions, pairs)[1] == pytest.approx(chrf)
    assert judge(make(folder, metric="bleu"), completions, pairs)[1] != pytest.approx(chrf)


@pytest.mark.parametrize("factor", [0.5, 0.2, 1.0])
def test_wrong_placeholders_cost_a_factor(folder, factor):
    pairs = [("Delete %(name)s", "%(name)s löschen")] * 2
    completions = ["%(name)s löschen", "%(nam)s löschen"]
    right, wrong = judge(make(folder, placeholder_factor=factor), completions, pairs)
    whole = sacrebleu.sentence_chrf(completions[1], [pairs[1][1]]).score / 100
    assert right == pytest.approx(1.0) and wrong == pytest.approx(factor * whole)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("%(a)s and %(b)s", "%(b)s und %(a)s, %(a)s", True),
        ("%(a)s", "%(b)s", False),
        ("%s of %s", "%s", False),
        ("{name} {}", "{} {name}", True),
        ("Save", "100%", True),
    ],
)
def test_which_placeholders_agree(one, other, same):
    assert (placeholders(one) == placeholders(other)) is same


def test_the_report_has_a_row_and_numbers_for_each_language(folder):
    task = make(folder, to="de,zh_Hans")
    columns = {
        "source": ["Save", "Delete %(name)s", "Save"],
        "references": [("Sichern",), ("%(name)s löschen", "Lösche %(name)s"), ("保存",)],
        "language": ["de", "de", "zh_Hans"],
        "answer": ["", "", ""],
    }
    report = task.report([" Sichern", " %(name)s löschen", " 删除"], columns)
    assert report.metrics["exact_de"] == 1.0 and report.metrics["exact_zh_Hans"] == 0.0
    assert report.metrics["exact"] == 0.5
    assert report.metrics["chrf_de"] == pytest.approx(100.0)
    assert report.metrics["placeholders"] == report.metrics["placeholders_de"] == 1.0
    assert "placeholders_zh_Hans" not in report.metrics
    assert report.metrics["length_ratio_zh_Hans"] == 1.0
    rows = report.text.splitlines()
    assert [row.split()[0] for row in rows[1:3]] == ["de", "zh_Hans"]
    assert "|tok:zh|" in report.text and "|tok:13a|" in report.text


def test_baselines_copy_look_words_up_and_remember(folder):
    task = make(folder, held_out=0.0)
    train = task.examples()
    policies = task.baselines(train)
    asked = ["en: Delete %(name)s\nde:", "en: Log in\nde:"]
    assert policies["copy"].act(asked) == ["Delete %(name)s", "Log in"]
    assert policies["rule"].act(["en: Home Password: %(name)s\nde:"]) == [
        "Start Passwort: %(name)s"
    ]
    assert policies["supervised"].act(asked) == ["%(name)s löschen", "Abmelden"]


def test_the_dictionary_finds_words_of_a_language_without_spaces(folder):
    task = make(folder, to="zh_Hans", held_out=0.0)
    rule = task.baselines(task.examples())["rule"]
    assert rule.act(["en: Save %(x)s\nzh_Hans:"]) == ["保存%(x)s"]


def test_the_spec_is_that_of_a_language_task(folder):
    assert "translation" in LANGUAGE_TASKS
    spec = f"translation?to=de&catalogues={folder}&held_out=0.4"
    task = load_task(spec)
    assert task == make(folder, held_out=0.4)
    assert len(read_examples(spec)) == len(GERMAN)
    names = accepted_columns(task.reward, task_rows(spec)[0].columns)
    assert {"source", "references", "language"} <= set(names)


def test_every_setting_changes_what_it_says(folder):
    base = make(folder, held_out=0.4)
    for change in ({"to": "zh_Hans"}, {"memory": 1}, {"max_chars": 8}, {"held_out": 0.8}):
        assert dataclasses.replace(base, **change).examples() != base.examples(), change


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("to=de,de", "to is 'de,de'; it must be different languages"),
        ("to=xx", "has no catalogue of the language 'xx'; it has de, zh_Hans"),
        ("memory=-1", "memory is -1; it must be at least 0"),
        ("max_chars=0", "max_chars is 0"),
        ("max_chars=1", "no pair is left of the catalogues of de: raise max_chars"),
        ("held_out=1.5", r"held_out is 1.5; it must be in \[0, 1\]"),
        ("placeholder_factor=2", "placeholder_factor is 2"),
        ("metric=rouge", "metric is 'rouge'; it must be one of"),
    ],
)
def test_bad_settings_are_named(folder, settings, message):
    with pytest.raises(DataError, match=message):
        read_examples(f"translation?catalogues={folder}&{settings}")


def test_bad_catalogues_are_named(tmp_path):
    with pytest.raises(DataError, match="must be 'django' or a folder of .po files"):
        read_examples(f"translation?catalogues={tmp_path / 'none'}")
    (tmp_path / "de.po").write_text(HEADER + 'msgid "a"\nnonsense\n')
    with pytest.raises(DataError, match=r"de.po: not a .po file that can be read: .*line 6"):
        read_examples(f"translation?catalogues={tmp_path}")


def test_the_real_catalogues_hold_hundreds_of_pairs():
    pytest.importorskip("django")
    for language in ("de", "fr", "zh_Hans"):
        examples = read_examples(f"translation?to={language}")
        assert len(examples) > 600
        assert 80 < sum(e.split == "held_out" for e in examples) < 150
