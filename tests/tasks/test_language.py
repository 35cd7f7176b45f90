"""A language task written by a user: one file gives prompts, answers, reward and report."""

import pytest

from rljax.tasks import TaskConfig, make_task
from rljax.tasks.documents import DocumentConfig, read_documents
from rljax.tasks.language import is_language_task, load_task, read_examples
from rljax.tasks.sources import DataError
from rljax.tasks.task import Task

SOURCE = '''
import dataclasses
from rljax.tasks.language import Example, LanguageTask, Report

@dataclasses.dataclass(frozen=True)
class Vowels(LanguageTask):
    """Say how many vowels a word has."""
    count: int = 30
    strict: bool = False

    def examples(self):
        return [
            Example(f"word{i} {'a' * (i % 4)}b ->", str(1 + i % 4), {"parity": i % 2},
                    split="held_out" if i == 7 else None)
            for i in range(self.count)
        ]

    def reward(self, prompts, completions, answer, **columns):
        return [float(text.strip() == right) for text, right in zip(completions, answer)]

    def report(self, completions, columns):
        right = [t.strip() == a for t, a in zip(completions, columns["answer"])]
        return Report({"accuracy": sum(right) / len(right)}, "a table")

class Broken(Vowels):
    def examples(self):
        return [Example("one", " ")]

class Torn(Vowels):
    def examples(self):
        return [Example("one", "1", split="train"), Example("one", "2", split="held_out")]
'''


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "vowels.py"
    path.write_text(SOURCE)
    return f"{path}:Vowels"


def build(spec: str, tokenizer, **fields) -> Task:
    config = TaskConfig(prompts=spec, prompt_tokens=None, **fields)
    return make_task(config, tokenizer, max_prompt_tokens=100)


def test_prompts_reward_and_report_come_from_one_class(spec, byte_tokenizer):
    task = build(spec, byte_tokenizer, reward="task")
    assert len(task.train) + len(task.held_out) == 30
    indices = [0, 1]
    answers = [task.train.columns["answer"][i] for i in indices]
    written = [answers[0], "wrong"]
    assert task.judge_texts(task.train, indices, written).scores.tolist() == [1.0, 0.0]
    report = task.report(task.train, indices, written)
    assert report.metrics == {"accuracy": 0.5} and report.text == "a table"


def test_settings_follow_the_name(spec):
    assert load_task(f"{spec}?count=5&strict=true").strict is True
    assert len(read_examples(f"{spec}?count=5")) == 5


def test_supervised_learning_and_rl_split_alike(spec, byte_tokenizer):
    task = build(spec, byte_tokenizer, reward="task")
    records = read_documents(DocumentConfig(source=spec))
    assert {r.fields["prompt"] for r in records.held_out} == set(task.held_out.texts)
    assert {r.fields["prompt"] for r in records.train} == set(task.train.texts)
    assert all(r.fields["completion"].isdigit() for r in records.train)


def test_what_a_task_says_of_its_split_holds(spec, byte_tokenizer):
    task = build(spec, byte_tokenizer, reward="task", held_out_fraction=0.0)
    assert [text.split()[0] for text in task.held_out.texts] == ["word7"]


@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        ("Vowels?cuont=5", "there is no setting .cuont. .did you mean .count."),
        ("Vowels?count=many", "count is .many.; it must be int"),
        ("Vowels?strict=1", "strict is .1.; it must be bool"),
        ("Vowels?count", "expected key=value"),
        ("Vowls", "has no class 'Vowls' of the kind LanguageTask; it has .*'Vowels'"),
        ("Vowels?count=0", "has no example at all"),
        ("Broken", "its answer is no text, or empty: ' '"),
    ],
)
def test_what_is_wrong_is_named(spec, suffix, message):
    with pytest.raises(DataError, match=message):
        read_examples(spec.replace("Vowels", suffix))


def test_a_prompt_on_both_sides_is_an_error(spec, byte_tokenizer):
    with pytest.raises(DataError, match="both to train on and held out"):
        build(spec.replace("Vowels", "Torn"), byte_tokenizer, reward="task")


def test_the_reward_task_needs_a_language_task(byte_tokenizer, tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("one\ntwo\n")
    with pytest.raises(ValueError, match="--task.prompts .* is none"):
        build(str(path), byte_tokenizer, reward="task")


@pytest.mark.parametrize(
    ("source", "is_task"),
    [
        ("mine.py:Task", True),
        ("package.module:Task?x=1", True),
        ("imdb", False),
        ("sorting:6", False),
        ("sorting:x", False),
        ("arithmetic:x", False),
        ("reasoning-gym:chain_sum?min_terms=2", False),
        ("hf:imdb?split=train", False),
        ("data.jsonl", False),
    ],
)
def test_which_sources_are_language_tasks(source, is_task):
    assert is_language_task(source) is is_task
