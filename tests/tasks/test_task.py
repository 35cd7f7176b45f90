"""Whole tasks: from a file and a config to prompts that fit and a reward that judges."""

import dataclasses
import json

import numpy as np
import pytest

from rljax.rewards import RewardError, TokenReward
from rljax.tasks import DataError, Task, TaskConfig, make_task
from rljax.tasks.prompts import PromptSet


@pytest.fixture
def files(tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    records = [{"prompt": f"prompt {i:02d} {'x' * i}", "answer": str(i)} for i in range(30)]
    prompts.write_text("".join(json.dumps(r) + "\n" for r in records))
    reward = tmp_path / "reward.py"
    reward.write_text(
        "def by_answer(prompts, completions, answer):\n"
        "    return [float(a) for a in answer]\n"
        "def needs_label(prompts, completions, label):\n"
        "    return [0.0 for c in completions]\n"
    )
    return TaskConfig(str(prompts), prompt_tokens=None, reward=f"{reward}:by_answer")


def test_prompts_and_columns_stay_together(files, byte_tokenizer):
    task = make_task(files, byte_tokenizer, max_prompt_tokens=64)
    assert len(task.train) + len(task.held_out) == 30
    assert len(task.held_out) >= 1
    assert task.held_out.first_id == 0
    assert task.train.first_id == len(task.held_out)
    for prompts in (task.train, task.held_out):
        for text, tokens, answer in zip(
            prompts.texts, prompts.tokens, prompts.columns["answer"], strict=True
        ):
            assert int(text.split()[1]) == int(answer)
            assert tokens == (256, *text.encode())
    scores = task.score(task.train, [3, 0], ["", ""])
    assert scores.dtype == np.float32
    assert list(scores) == [float(task.train.columns["answer"][i]) for i in (3, 0)]
    assert "30 texts, 0 dropped as shorter than 1 tokens, 0 as duplicates; " in task.summary
    assert f"{len(task.train)} to train on, {len(task.held_out)} held out" in task.summary


def test_cutting_dropping_and_duplicates_are_counted(files, byte_tokenizer):
    config = dataclasses.replace(files, prompt_tokens=9, min_prompt_tokens=9)
    task = make_task(config, byte_tokenizer, max_prompt_tokens=64)
    assert all(len(tokens) == 10 for tokens in task.train.tokens)
    assert "30 cut to 9 tokens" in task.summary
    config = dataclasses.replace(files, min_prompt_tokens=20)
    task = make_task(config, byte_tokenizer, max_prompt_tokens=64)
    assert "10 dropped as shorter than 20" in task.summary
    with pytest.raises(DataError, match=r"no prompt left of the 30.*min-prompt-tokens"):
        make_task(
            dataclasses.replace(files, min_prompt_tokens=99), byte_tokenizer, max_prompt_tokens=64
        )


def test_a_prompt_longer_than_the_context_names_its_line(files, byte_tokenizer):
    with pytest.raises(DataError, match=r"prompts.jsonl:\d+: the prompt has \d+ tokens.*for 30"):
        make_task(files, byte_tokenizer, max_prompt_tokens=30)


def test_template_and_chat(files, byte_tokenizer, chat_tokenizer):
    config = dataclasses.replace(files, template="Q: {prompt} A:")
    task = make_task(config, byte_tokenizer, max_prompt_tokens=64)
    assert bytes(task.train.tokens[0][1:]).decode() == f"Q: {task.train.texts[0]} A:"
    config = dataclasses.replace(files, chat=True, system_prompt="Be kind.")
    task = make_task(config, chat_tokenizer, max_prompt_tokens=99)
    shown = bytes(task.train.tokens[0]).decode()
    assert shown == f"<system>Be kind.<user>{task.train.texts[0]}<assistant>"
    with pytest.raises(DataError, match="chat template"):
        make_task(config, byte_tokenizer, max_prompt_tokens=99)


def test_a_reward_is_checked_against_the_columns_before_anything_runs(files, byte_tokenizer):
    config = dataclasses.replace(files, reward=files.reward.replace("by_answer", "needs_label"))
    with pytest.raises(RewardError, match=r"label[\s\S]*\['answer'\]"):
        make_task(config, byte_tokenizer, max_prompt_tokens=64)


def test_token_rewards_do_not_score_texts():
    prompts = PromptSet(("a",), ((1,),), {})
    task = Task(prompts, prompts, TokenReward(lambda p, c: c.mask.sum(axis=1)), "")
    with pytest.raises(TypeError, match="TokenReward"):
        task.score(prompts, [0], ["b"])


@pytest.mark.parametrize(
    "bad",
    [
        {"prompt_tokens": 0},
        {"min_prompt_tokens": 0},
        {"prompt_tokens": 4, "min_prompt_tokens": 5},
        {"template": "no place"},
        {"template": "{prompt}{prompt}"},
        {"system_prompt": "x"},
        {"held_out_fraction": 1.0},
    ],
)
def test_bad_configs_raise_and_name_the_field(bad):
    with pytest.raises(ValueError, match=list(bad)[-1]):
        TaskConfig(**bad)
