"""A saved reward model scores texts as it scored tokens, whatever the batch."""

import dataclasses
import json

import numpy as np
import pytest

from rljax.models import load_pretrained, save_pretrained
from rljax.models.heads import score_sequences
from rljax.rewards import RewardError, load_reward
from rljax.rewards.learned import RewardSettings, save_reward_model
from rljax.rewards.protocol import judge_texts
from tests.conftest import quick_jit

SETTINGS = RewardSettings(chat=False, append_eos=False, loss="pairwise", logit_scale=0.5)
PROMPTS = [f"prompt {i}" for i in range(19)]
TEXTS = ["x" * (1 + 5 * (i % 7)) + " end" for i in range(19)]


@pytest.fixture(scope="module")
def trunk():
    return load_pretrained("random:tiny-llama")


@pytest.fixture(scope="module")
def head(trunk):
    kernel = np.random.default_rng(0).normal(size=(1, trunk.model.config.hidden_size))
    return {"kernel": kernel.astype(np.float32), "bias": np.float32([0.5])}


@pytest.fixture(scope="module")
def alone(trunk, head):
    """Return a function that scores one sequence without padding."""
    hidden = quick_jit(trunk.model.hidden)

    def score(tokens: list[int]) -> float:
        row = np.zeros((1, 96), np.int32)
        row[0, : len(tokens)] = tokens
        mask = np.arange(96)[None] < len(tokens)
        return float(score_sequences(head, hidden(trunk.params, row, mask), mask)[0])

    return score


def saved(path, trunk, head, **changes):
    settings = dataclasses.replace(SETTINGS, **changes)
    return f"model:{save_reward_model(path, trunk, head, settings)}"


def test_texts_are_scored_as_their_tokens(tmp_path, trunk, head, alone):
    reward = load_reward(saved(tmp_path / "rm", trunk, head))
    found = judge_texts(reward, PROMPTS, TEXTS, {"label": ["a"] * 19}).scores
    encode = trunk.tokenizer.encode
    expected = [
        alone(encode(p, add_special_tokens=False) + encode(c, add_special_tokens=False))
        for p, c in zip(PROMPTS, TEXTS, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    shuffled = judge_texts(reward, PROMPTS[::-1], TEXTS[::-1]).scores
    np.testing.assert_allclose(shuffled[::-1], found, rtol=1e-4, atol=1e-5)
    assert judge_texts(reward, [], []).scores.shape == (0,)


def test_template_and_eos_are_those_of_training(tmp_path, trunk, head, alone):
    reward = load_reward(saved(tmp_path / "rm", trunk, head, chat=True, append_eos=True))
    found = judge_texts(reward, ["ask"], ["answer"]).scores
    tokens = list(b"user: ask\nassistant: answer") + [258]
    np.testing.assert_allclose(found, [alone(tokens)], rtol=1e-4)


def test_the_directory_is_a_language_model_as_well(tmp_path, trunk, head):
    saved(tmp_path / "rm", trunk, head)
    loaded = load_pretrained(tmp_path / "rm")
    np.testing.assert_array_equal(loaded.heads["reward"]["kernel"], head["kernel"])
    config = json.loads((tmp_path / "rm" / "config.json").read_text())
    assert config["rljax_reward_model"] == dataclasses.asdict(SETTINGS)


def test_what_is_no_reward_model(tmp_path, trunk, head):
    with pytest.raises(RewardError, match="there is no directory"):
        load_reward(f"model:{tmp_path}/none")
    with pytest.raises(RewardError, match="config.json is missing"):
        load_reward(f"model:{tmp_path}")
    save_pretrained(tmp_path / "lm", trunk)
    with pytest.raises(RewardError, match="is a language model, not a reward model"):
        load_reward(f"model:{tmp_path}/lm")
    reward = load_reward(saved(tmp_path / "rm", trunk, head))
    limit = trunk.model.config.context_length
    made = judge_texts(reward, ["p", "p"], ["x" * (limit + 1), "short"])
    assert np.isnan(made.scores).tolist() == [True, False]
    assert f"whose context has {limit}" in made.failures[0].reason
