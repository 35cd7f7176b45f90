"""Problems from reasoning-gym, few-shot prompts, and a token that ends the answer."""

import dataclasses

import pytest

from rljax.rewards.rules import exact_match
from rljax.tasks import DataError, TaskConfig, make_task, stop_token_ids
from rljax.tasks.reasoning import read_reasoning_gym

ARITHMETIC = "reasoning-gym:chain_sum?min_terms=2&max_terms=2&size=40+products?max_digits=1&size=9"


@pytest.fixture(scope="module")
def rows():
    pytest.importorskip("reasoning_gym", reason="the reasoning extra is not installed")
    return read_reasoning_gym(ARITHMETIC)


def test_problems_are_the_same_every_time(rows):
    assert rows == read_reasoning_gym(ARITHMETIC)
    assert [row.columns["task"] for row in rows] == ["chain_sum"] * 40 + ["products"] * 9
    numbers = rows[0].text.split(":")[1].rstrip("= ")
    assert str(eval(numbers)) == rows[0].columns["answer"]
    other = read_reasoning_gym("reasoning-gym:chain_sum?min_terms=2&max_terms=2&size=40&seed=1")
    assert [row.text for row in other] != [row.text for row in rows[:40]]


@pytest.mark.parametrize(
    "source, word", [("nothing", "nothing"), ("chain_sum?max_term=2", "max_term")]
)
def test_unknown_tasks_and_keys_are_named(source, word, rows):
    with pytest.raises(DataError, match=word):
        read_reasoning_gym(f"reasoning-gym:{source}")


def test_shots_are_solved_and_never_asked(rows, byte_tokenizer):
    config = TaskConfig(
        ARITHMETIC,
        prompt_tokens=None,
        few_shot=2,
        template="Q: {prompt}\nA:",
        reward="exact_match",
    )
    task = make_task(config, byte_tokenizer, max_prompt_tokens=1000)
    asked = bytes(task.train.tokens[0][1:]).decode()
    *shots, question = asked.split("\n\n")
    assert question == f"Q: {task.train.texts[0]}\nA:" and len(shots) == 2
    answers = {row.text: row.columns["answer"] for row in rows}
    for shot in shots:
        text, answer = shot.removeprefix("Q: ").split("\nA: ")
        assert answers[text] == answer
        assert text not in task.train.texts + task.held_out.texts
    right = [f" {answer}\nQ: more" for answer in task.train.columns["answer"][:3]]
    columns = {"answer": task.train.columns["answer"][:3]}
    judged = task.reward.judge([""] * 3, right, columns, None, None)
    assert judged.scores.tolist() == [1, 1, 1]
    with pytest.raises(DataError, match="few_shot 99 leaves no prompt"):
        make_task(dataclasses.replace(config, few_shot=99), byte_tokenizer, max_prompt_tokens=9999)


def test_exact_match_reads_the_first_line():
    texts = [" 7\n8", "8\n7", "", "SEVEN ", "77"]
    assert exact_match([""] * 5, texts, ["7", 7, "7", "seven", "7"]) == [1, 0, 0, 1, 0]


def test_a_stop_token_is_one_token(byte_tokenizer):
    assert stop_token_ids(TaskConfig(stop_token="\n"), byte_tokenizer) == (10,)
    assert stop_token_ids(TaskConfig(), byte_tokenizer) == ()
    with pytest.raises(DataError, match="2 tokens"):
        stop_token_ids(TaskConfig(stop_token="ab"), byte_tokenizer)
