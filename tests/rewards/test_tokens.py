"""Token rewards: what they score, that the text reward agrees, and how a user's own is made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.models.tokenizer import byte_tokenizer
from rljax.rewards import RewardError, TokenTexts, load_reward, rules, token_reward
from rljax.rewards.combined import WeightedRewards, require_token_rewards
from rljax.rewards.tokens import exact_match, first_line, make_vocabulary, partial_match
from rljax.tasks import TaskConfig, make_task
from rljax.tasks.evaluation import decode_completions
from rljax.tasks.prompts import make_batch, pad_texts
from rljax.types import Completions

TOKENIZER = byte_tokenizer()
PAD, BOS, EOS = 256, 257, 258
VOCABULARY = make_vocabulary(TOKENIZER)
HARD = [b"19", b" 19", b"1 9", b"19\n3", b"\n 19 \nx", b"19 \t", b"\r\n19", b"019", b"1", b"",
        b"19\x0b", b"\x1c19\x1d7", b"\n\n", b"19\xff", b"aB c", b"AB C", b"ab  c"]  # fmt: skip


def made(rows, slots=9) -> Completions:
    tokens = np.full((len(rows), slots), PAD, np.int32)
    mask = np.zeros(tokens.shape, bool)
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)], mask[row, : len(ids)] = list(ids), True
    zeros = np.zeros(tokens.shape, np.float32)
    return Completions(tokens, mask, zeros, zeros)


def scores(reward, completions, answers) -> np.ndarray:
    answer = pad_texts(TOKENIZER, answers)
    return np.asarray(
        jax.jit(reward.score)(None, completions, answer=answer, vocabulary=VOCABULARY)
    )


def test_exact_match_is_the_text_reward_on_bytes():
    """Every hard case against every answer, and random bytes with special tokens among them."""
    rng = np.random.default_rng(0)
    letters = np.array([*b"19aA \n\x0b", PAD, BOS, EOS])
    rows = [list(text) + [EOS] for text in HARD] + [list(text) for text in HARD]
    rows += [rng.choice(letters, rng.integers(0, 7)).tolist() for _ in range(400)]
    for answer in ("19", " 19 ", "9", "", "Ab C", "1 9", "1\n9", "a"):
        completions = made(rows)
        texts = decode_completions(TOKENIZER, completions)
        expected = rules.exact_match([""] * len(rows), texts, [answer] * len(rows))
        found = scores(exact_match, completions, [answer] * len(rows))
        assert found.dtype == np.float32 and 0 < sum(expected) < len(rows) or answer == "1\n9"
        np.testing.assert_array_equal(found, expected)
        partial = scores(partial_match, completions, [answer] * len(rows))
        np.testing.assert_array_equal(partial == 1, np.asarray(expected) == 1)


def test_partial_match_by_hand():
    rows = [list(b"1234"), list(b"12"), list(b"1934"), list(b"12345"), list(b"x"), []]
    found = scores(partial_match, made(rows), ["1234"] * len(rows))
    np.testing.assert_allclose(found, [1, 0.5, 0.75, 0.8, 0, 0], rtol=1e-6)
    # an answer that is longer than the completion can be
    np.testing.assert_allclose(scores(partial_match, made(rows[:1], 4), ["12345678"]), [0.5])


def test_the_tables_of_a_tokenizer():
    vocabulary = VOCABULARY
    assert vocabulary.silent.tolist() == [False] * 256 + [True] * 3
    assert set(np.flatnonzero(vocabulary.line_end)) == {10, 11, 12, 13, 28, 29, 30}
    assert set(np.flatnonzero(vocabulary.blank)) == {9, 10, 11, 12, 13, 28, 29, 30, 31, 32}
    assert vocabulary.folded[ord("a")] == vocabulary.folded[ord("A")] == ord("A")
    assert vocabulary.folded[0xC3] == 0xC3  # half a character is nothing but itself
    line = first_line(jnp.array([[32, 300, 97, 10, 97]]), jnp.ones((1, 5), bool), vocabulary)
    assert line.mask.sum() == 1  # the model may have more tokens than the tokenizer


def test_a_function_of_ones_own(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from rljax.rewards import token_reward\n"
        "@token_reward\n"
        "def tenths(prompts, completions, level, answer):\n"
        "    first = level.tokens[:, 0] - 48\n"
        "    return first + completions.mask.sum(axis=1) / 10 + 100 * answer.mask.sum(axis=1)\n"
    )
    reward = load_reward(f"{path}:tenths")
    assert reward.columns == ("level", "answer") and not reward.reads_vocabulary
    assert exact_match.columns == ("answer",) and exact_match.reads_vocabulary
    rows = [f'{{"prompt": "{i}", "level": {i}, "answer": "{"x" * i}"}}\n' for i in range(1, 7)]
    (tmp_path / "rows.jsonl").write_text("".join(rows))
    config = TaskConfig(
        prompts=str(tmp_path / "rows.jsonl"), prompt_tokens=None, held_out_fraction=0.5,
        reward=(f"{path}:tenths", "exact_match_tokens"), reward_weights=(1.0, 0.5),
    )  # fmt: skip
    task = make_task(config, TOKENIZER, max_prompt_tokens=8)
    for prompts in (task.train, task.held_out):
        indices = np.arange(len(prompts))
        batch = make_batch(prompts, [*indices, 0], pad_id=PAD)  # one row fills the batch up
        completions = made([b"x"] * len(batch.ids))
        levels = np.array([int(text) for text in prompts.texts])
        expected = levels + 0.1 + 100 * levels + 0.5 * (levels == 1)
        judged = task.judge(prompts, indices, batch, completions, ["x"] * len(indices))
        np.testing.assert_allclose(judged.scores, expected, rtol=1e-6)
        columns = {
            name: TokenTexts(*(part[np.r_[indices, 0]] for part in column))
            for name, column in prompts.token_columns.items()
        }
        total, parts = jax.jit(task.reward.judge_tokens)(batch, completions, columns)
        np.testing.assert_allclose(total[:-1], expected, rtol=1e-6)
        np.testing.assert_array_equal(
            parts["exact_match_tokens"][:-1], judged.components["exact_match_tokens"]
        )


def test_what_is_no_number_is_nan_in_compiled_code(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text(
        "from rljax.rewards import token_reward\n"
        "@token_reward\n"
        "def inverse(prompts, completions):\n"
        "    return 1 / completions.mask.sum(axis=1)\n"
    )
    rewards = WeightedRewards([f"{path}:inverse"])
    total, parts = jax.jit(rewards.judge_tokens)(None, made([b"ab", b""]), {})
    for found in (total, parts["bad.inverse"]):
        np.testing.assert_array_equal(found, np.float32([0.5, np.nan]))


def test_what_cannot_be_a_token_reward_is_said(tmp_path):
    with pytest.raises(RewardError, match="each by its name"):
        token_reward(lambda prompts: prompts)
    with pytest.raises(RewardError, match="each by its name"):
        token_reward(lambda prompts, completions, **columns: prompts)
    with pytest.raises(RewardError, match=r"takes the column 'answer'; the prompts have \['x'\]"):
        WeightedRewards(["exact_match_tokens"], columns=["x"], tokenizer=TOKENIZER)
    with pytest.raises(RewardError, match="exact_match judges texts on the host.*--fused-steps"):
        require_token_rewards(["exact_match_tokens", "exact_match"])
