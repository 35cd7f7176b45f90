"""Tables of tokens: texts that join to the whole, numbers as they were computed."""

import math

import numpy as np
import pytest

from rljax.models.tokenizer import byte_tokenizer
from rljax.tasks.token_tables import is_due, make_tables, rounded, token_texts
from rljax.types import Completions


class Pieces:
    """A tokenizer of word pieces that drops the space before a text, as sentencepiece does."""

    pieces = ("▁a", "▁b", "c", "</s>")

    def decode(self, ids, skip_special_tokens):
        assert not skip_special_tokens
        return "".join(self.pieces[i] for i in ids).replace("▁", " ").removeprefix(" ")


def test_a_token_keeps_the_space_before_it():
    assert token_texts(Pieces(), [0, 1, 2, 1, 3]) == ["a", " b", "c", " b", "</s>"]


def test_a_character_of_several_tokens_stands_at_the_last():
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode("aé€\U0001f600b", add_special_tokens=False)
    texts = token_texts(tokenizer, ids)
    assert texts == ["a", "", "é", "", "", "€", "", "", "", "\U0001f600", "b"]
    assert token_texts(tokenizer, ids[:-2])[-1] == "\ufffd"  # cut off within the character


@pytest.fixture
def made():
    """Two completions: one of 3 tokens, and a conversation whose second token is not its own."""
    tokens = np.array([[0, 1, 3, 9], [0, 2, 1, 9]])
    mask = np.array([[1, 1, 1, 0], [1, 0, 1, 0]], bool)
    seen = np.array([[1, 1, 1, 0], [1, 1, 1, 0]], bool)
    log_probs = np.array([[-1.0, -2.0, -0.5, 0], [-3.0, 0, -1.23456, 0]], np.float32)
    values = np.array([[0.25, 0.5, np.nan, 0], [1.0, 0, 2.0, 0]], np.float32)
    return Completions(tokens, mask, log_probs, values, seen=seen)


def test_tables_hold_what_was_computed(made):
    reference = np.array([[-1.5, -2.0, -0.25, 0], [-3.0, 0, -2.23456, 0]], np.float32)
    given = {"reward": np.array([[0.0, 0.0, 123456.0, 7.0], [0.1, 7.0, 0.3, 7.0]], np.float32)}
    first, second = make_tables(Pieces(), made, reference, 5, critic=True, numbers=given)
    assert first["text"] == ["a", " b", "</s>"] and second["text"] == ["a", "c", " b"]
    assert first["log_prob"] == [-1.0, -2.0, -0.5]
    assert first["log_ratio"] == [0.5, 0.0, -0.25]
    assert first["kl"] == pytest.approx(
        [math.exp(-0.5) - 1 + 0.5, 0.0, math.exp(0.25) - 1 - 0.25], abs=1e-4
    )
    assert first["value"] == [0.25, 0.5, None]  # NaN has no place in JSON
    assert first["reward"] == [0.0, 0.0, 123500.0]
    assert second["log_prob"] == [-3.0, None, -1.235]
    assert second["log_ratio"] == [0.0, None, 1.0]
    assert second["reward"] == [0.1, None, 0.3]
    assert "value" not in make_tables(Pieces(), made, reference, 1)[0]


def test_the_policy_and_the_mixture_are_told_apart(made):
    mixed = made._replace(policy_log_probs=made.log_probs - 1)
    (table,) = make_tables(Pieces(), mixed, made.log_probs, 1)
    assert table["log_prob"] == [-2.0, -3.0, -1.5]
    assert table["mixed_log_prob"] == [-1.0, -2.0, -0.5]
    assert table["log_ratio"] == [-1.0, -1.0, -1.0]


def test_numbers_are_short():
    assert [rounded(x) for x in (0.123456, -1234567.0, 1e-9, math.inf)] == [
        0.1235, -1235000.0, 1e-9, None
    ]  # fmt: skip


@pytest.mark.parametrize(("steps", "count"), [(1, 1), (30, 30), (100, 51), (10_000, 51)])
def test_few_steps_of_long_runs_have_tables(steps, count):
    due = [step for step in range(1, steps + 1) if is_due(step, steps)]
    assert len(due) == count and due[0] == 1 and due[-1] == steps
