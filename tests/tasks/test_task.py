"""Whole tasks: from a file and a config to prompts that fit and a reward that judges."""

import dataclasses
import json

import numpy as np
import pytest

from rljax.rewards import RewardError
from rljax.tasks import DataError, TaskConfig, make_batch, make_task
from rljax.tasks.evaluation import evaluate
from rljax.types import Completions


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
    batch = make_batch(task.train, [3, 0], pad_id=0)
    scores = task.judge(task.train, [3, 0], batch, completions(2), ["", ""]).scores
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


def completions(count, length=3):
    mask = np.ones((count, length), bool)
    zeros = np.zeros((count, length), np.float32)
    return Completions(np.arange(count * length).reshape(count, length), mask, zeros, zeros)


def test_several_rewards_are_weighted_and_failures_are_counted(files, byte_tokenizer, tmp_path):
    rules = tmp_path / "rules.py"
    rules.write_text(
        "from rljax.rewards import TokenReward\n"
        "def strict(prompts, completions):\n"
        "    return [10 / len(c) for c in completions]\n"
        "first = TokenReward(lambda prompts, made: made.tokens[:, 0] / 3)\n"
    )
    specs = (files.reward, f"{rules}:strict", f"{rules}:first")
    config = dataclasses.replace(
        files, reward=specs, reward_weights=(1.0, 0.5, 100.0), max_reward_failures=0.25
    )
    task = make_task(config, byte_tokenizer, max_prompt_tokens=64)
    indices = [0, 1, 2, 3]
    batch = make_batch(task.train, [*indices, 0], pad_id=0)  # an evaluation's batch is filled up
    texts = ["ab", "", "abcd", "abcde"]
    judged = task.judge(task.train, indices, batch, completions(5), texts)
    answers = np.float32([task.train.columns["answer"][i] for i in indices])
    assert judged.scores.dtype == np.float32
    np.testing.assert_array_equal(judged.components["reward.by_answer"], answers)
    np.testing.assert_array_equal(judged.components["rules.strict"], [5, np.nan, 2.5, 2])
    np.testing.assert_array_equal(judged.components["rules.first"], indices)
    expected = answers + 0.5 * judged.components["rules.strict"] + 100 * np.arange(4)
    np.testing.assert_allclose(judged.scores, expected, rtol=1e-6)
    assert [row for row, _ in judged.failures] == [1]
    assert judged.failures[0].reason.startswith("rules.strict: ZeroDivisionError")
    assert judged.metrics()["rewards/rules.strict"] == pytest.approx(9.5 / 3)
    with pytest.raises(RewardError) as caught:
        task.judge(task.train, indices, batch, completions(5), ["", "a", "", "c"])
    message = str(caught.value)
    assert "failed on 2 of 4 completions, more than --task.max-reward-failures 0.25" in message
    assert repr(task.train.texts[0]) in message and "ZeroDivisionError" in message


def test_workers_judge_as_this_process_does(files, byte_tokenizer):
    workers = dataclasses.replace(files, reward_workers=1, reward_timeout_s=30.0)
    scores = []
    for config in (files, workers):
        task = make_task(config, byte_tokenizer, max_prompt_tokens=64)
        batch = make_batch(task.train, [3, 0], pad_id=0)
        judged = task.judge(task.train, [3, 0], batch, completions(2), ["", ""])
        scores.append(
            (judged.scores.tolist(), {k: v.tolist() for k, v in judged.components.items()})
        )
        task.reward.close()
    assert scores[0] == scores[1]


def test_the_time_out_of_a_worker_is_read(files, byte_tokenizer, tmp_path):
    path = tmp_path / "slow.py"
    path.write_text(
        "import time\n"
        "def score(prompts, completions):\n"
        "    time.sleep(2 * (completions[0] == 'slow'))\n"
        "    return [1.0]\n"
    )
    for timeout, failed in ((0.3, 1), (30.0, 0)):
        config = dataclasses.replace(
            files, reward=f"{path}:score", reward_workers=1, max_reward_failures=0.5,
            reward_timeout_s=timeout,
        )  # fmt: skip
        task = make_task(config, byte_tokenizer, max_prompt_tokens=64)
        batch = make_batch(task.train, [3, 0], pad_id=0)
        judged = task.judge(task.train, [3, 0], batch, completions(2), ["slow", "fast"])
        assert [failure.row for failure in judged.failures] == [0] * failed
        task.reward.close()


def test_a_token_reward_has_no_use_for_workers(files, byte_tokenizer, tmp_path):
    path = tmp_path / "tokens.py"
    path.write_text(
        "from rljax.rewards import TokenReward\n"
        "length = TokenReward(lambda prompts, made: made.mask.sum(axis=1))\n"
        "wrong = TokenReward(lambda prompts, made: made.mask.sum())\n"
    )
    config = dataclasses.replace(files, reward=f"{path}:length", reward_workers=2)
    with pytest.raises(RewardError, match="--task.reward-workers"):
        make_task(config, byte_tokenizer, max_prompt_tokens=64)
    config = dataclasses.replace(files, reward=f"{path}:wrong")
    task = make_task(config, byte_tokenizer, max_prompt_tokens=64)
    batch = make_batch(task.train, [0, 1], pad_id=0)
    with pytest.raises(RewardError, match=r"tokens.wrong returned scores of shape \(\)"):
        task.judge(task.train, [0, 1], batch, completions(2), ["", ""])


def test_evaluation_counts_what_it_leaves_out(files, byte_tokenizer, tmp_path):
    path = tmp_path / "rare.py"
    path.write_text(
        "def score(prompts, completions, answer):\n"
        "    return [float('nan') if int(a) % 7 == 0 else 1.0 for a in answer]\n"
    )
    config = dataclasses.replace(files, reward=f"{path}:score", max_reward_failures=1.0)
    task = make_task(config, byte_tokenizer, max_prompt_tokens=64)
    byte_tokenizer.decode = lambda row, skip_special_tokens: "text"
    indices = np.arange(len(task.train))
    result = evaluate(
        lambda batch: completions(4),
        lambda batch, made: made.log_probs,
        task, task.train, indices,
        tokenizer=byte_tokenizer, pad_id=0, batch_size=4, multiple=16,
    )  # fmt: skip
    bad = [int(a) % 7 == 0 for a in task.train.columns["answer"]]
    assert result.failures == sum(bad) > 0
    np.testing.assert_array_equal(np.isnan(result.scores), bad)
    np.testing.assert_array_equal(result.components["rare.score"], result.scores)


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
        {"reward": ()},
        {"reward": ("a", "a")},
        {"reward": ("a", "b"), "reward_weights": (1.0,)},
        {"reward_weights": (0.0,)},
        {"reward_weights": (float("nan"),)},
        {"reward_workers": -1},
        {"reward_timeout_s": 3.0},
        {"reward_workers": 1, "reward_timeout_s": 0.0},
        {"max_reward_failures": 1.5},
    ],
)
def test_bad_configs_raise_and_name_the_field(bad):
    with pytest.raises(ValueError, match=list(bad)[-1]):
        TaskConfig(**bad)
