"""Loading rewards by name: the forms that work, and clear errors for those that do not."""

import pytest

from rljax.rewards import RewardError, TokenReward, judge_texts, load_reward


@pytest.fixture
def reward_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from dataclasses import dataclass\n"
        "from rljax.rewards.protocol import TokenReward\n"
        "from rljax.rewards.rules import keyword_reward\n"
        "@dataclass\nclass Settings:\n    weight: float = 2.0\n"
        "def count(prompts, completions):\n"
        "    return [Settings().weight * len(c) for c in completions]\n"
        "sunny = keyword_reward(['sun'])\n"
        "on_tokens = TokenReward(lambda prompts, completions: completions.mask.sum(axis=1))\n"
        "constant = 3\n"
    )
    return path


def test_a_function_in_a_file_and_in_a_module(reward_file, monkeypatch):
    def scores(spec, completion):
        return list(judge_texts(load_reward(spec), ["p"], [completion]).scores)

    assert scores(f"{reward_file}:count", "abc") == [6.0]
    assert scores(f"{reward_file}:sunny", "the sun") == [1.0]
    assert isinstance(load_reward(f"{reward_file}:on_tokens"), TokenReward)
    monkeypatch.syspath_prepend(reward_file.parent)
    assert scores("mine:count", "ab") == [4.0]
    monkeypatch.chdir(reward_file.parent)
    assert callable(load_reward("./mine.py:count"))


def test_sentiment_is_built_in():
    reward = load_reward("sentiment")
    assert reward.__name__ == "vader_compound"


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("sentimental", "unknown reward 'sentimental'.*sentiment"),
        ("mine.py", "unknown reward"),
        ("no.such.module:f", "cannot import 'no.such.module'"),
        ("FILE:missing", "has no 'missing'; it has.*count"),
        ("FILE:constant", "must be a function, it is a int"),
        ("FILE:Settings", "must be a function, it is a class"),
        ("nowhere/mine.py:count", "there is no file.*nowhere/mine.py"),
    ],
)
def test_what_cannot_be_loaded(spec, problem, reward_file):
    with pytest.raises(RewardError, match=problem):
        load_reward(spec.replace("FILE", str(reward_file)))


def test_a_file_that_fails_names_its_error(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("def reward(:\n")
    with pytest.raises(RewardError, match=r"running .*broken.py failed: SyntaxError"):
        load_reward(f"{path}:reward")
    path.write_text("import a_package_that_is_not_there\n")
    with pytest.raises(RewardError, match="a_package_that_is_not_there"):
        load_reward(f"{path}:reward")
