"""Prompts: cutting by tokens, padding, special tokens, and the split by hash."""

import random

import numpy as np
import pytest

from rljax.tasks.prompts import (
    TEXTS_AT_ONCE,
    CutText,
    PromptSet,
    cut_texts,
    encode_chat,
    encode_texts,
    make_batch,
    pad_prompts,
    special_prefix,
    split_texts,
)
from rljax.tasks.sources import DataError


def texts(*names):
    return [CutText(name, tuple(name.encode()), {}, f"file:{i}") for i, name in enumerate(names)]


def test_cut_keeps_the_first_tokens(byte_tokenizer):
    texts = ["abcdef", "abc", "", "abcd" * 1000]
    cut = cut_texts(byte_tokenizer, texts, 4)
    assert cut == [(t, list(t.encode())) for t in ("abcd", "abc", "", "abcd")]


def test_cut_never_splits_a_character(byte_tokenizer):
    [(text, tokens)] = cut_texts(byte_tokenizer, ["aé中"], 5)  # 1 + 2 + 3 bytes
    assert (text, bytes(tokens)) == ("aé", "aé".encode())
    [(text, tokens)] = cut_texts(byte_tokenizer, ["a\ufffdbc"], 3)  # the text itself holds the mark
    assert len(tokens) == 3


def test_cut_reads_on_where_tokens_are_longer_than_expected(byte_tokenizer):
    class Words(type(byte_tokenizer)):
        def encode(self, text, *, add_special_tokens=True):
            return [len(word) for word in text.split()]

        def decode(self, token_ids):
            return " ".join("x" * n for n in token_ids)

    long, short = " ".join(["x" * 100] * 9), " ".join(["x"] * 90)
    cut = cut_texts(Words(), [short, long, "x x"], 4)
    assert [tokens for _, tokens in cut] == [[1] * 4, [100] * 4, [1, 1]]


def test_many_texts_are_encoded_some_at_a_time(byte_tokenizer):
    sizes: list[int] = []

    class Watched(type(byte_tokenizer)):
        def __call__(self, text, **options):
            sizes.append(len(text))
            return super().__call__(text, **options)

    many = [str(i) for i in range(2 * TEXTS_AT_ONCE + 3)]
    assert encode_texts(Watched(), many) == [list(text.encode()) for text in many]
    assert sizes == [TEXTS_AT_ONCE, TEXTS_AT_ONCE, 3]
    assert encode_texts(Watched(), []) == []


def test_padding_is_on_the_left_and_in_multiples():
    tokens, mask = pad_prompts([[5, 6, 7], [8]], pad_id=0, multiple=4)
    np.testing.assert_array_equal(tokens, [[0, 5, 6, 7], [0, 0, 0, 8]])
    np.testing.assert_array_equal(mask, [[0, 1, 1, 1], [0, 0, 0, 1]])
    assert tokens.dtype == np.int32
    assert mask.dtype == np.bool_
    assert pad_prompts([[1] * 4], pad_id=0, multiple=4)[0].shape == (1, 4)
    assert pad_prompts([[1] * 5], pad_id=0, multiple=4)[0].shape == (1, 8)
    assert pad_prompts([[1] * 5], pad_id=0, length=6)[0].shape == (1, 6)


def test_the_mask_does_not_look_at_ids():
    _, mask = pad_prompts([[2, 2], [2, 5]], pad_id=2, length=3)
    np.testing.assert_array_equal(mask, [[0, 1, 1], [0, 1, 1]])


@pytest.mark.parametrize(
    ("prompts", "options", "problem"),
    [
        ([], {}, "not empty"),
        ([[1], []], {}, "not empty"),
        ([[1], [1, 2]], {"length": 1}, "prompt 1"),
    ],
)
def test_bad_padding_raises(prompts, options, problem):
    with pytest.raises(ValueError, match=problem):
        pad_prompts(prompts, pad_id=0, **options)


def test_a_batch_tells_repeats_of_a_prompt_apart():
    prompts = PromptSet(("a", "b", "c"), ((1,), (2, 3), (4,)), {}, first_id=10)
    batch = make_batch(prompts, [1, 1, 0, 1], pad_id=0, multiple=2)
    np.testing.assert_array_equal(batch.ids, [11, 11, 10, 11])
    np.testing.assert_array_equal(batch.samples, [0, 1, 0, 2])
    np.testing.assert_array_equal(batch.tokens, [[2, 3], [2, 3], [0, 1], [2, 3]])


def test_special_tokens_before_a_text_are_kept_and_those_after_left_out(byte_tokenizer):
    assert special_prefix(byte_tokenizer) == [256]

    class WithEos(type(byte_tokenizer)):
        def encode(self, text, *, add_special_tokens=True):
            tail = [257] if add_special_tokens else []
            return super().encode(text, add_special_tokens=add_special_tokens) + tail

    assert special_prefix(WithEos()) == [256]


def test_split_does_not_depend_on_the_order_and_does_not_overlap():
    rows = texts(*(f"text {i // 2}" for i in range(600)))  # every text twice
    train, held_out = split_texts(rows, 0.1)
    assert len(train) + len(held_out) == 300
    assert 10 < len(held_out) < 60
    assert not {t.text for t in train} & {t.text for t in held_out}
    shuffled = random.Random(0).sample(rows, len(rows))
    again = split_texts(shuffled, 0.1)
    assert [[t.text for t in part] for part in again] == [
        [t.text for t in part] for part in (train, held_out)
    ]
    more = split_texts([*rows, *texts(*(f"new {i}" for i in range(300)))], 0.1)
    assert {t.text for t in held_out} <= {t.text for t in more[1]}
    assert {t.text for t in train} <= {t.text for t in more[0]}
    assert [t.text for t in train] != sorted(t.text for t in train)


def test_equal_texts_with_different_columns_stay_on_one_side():
    rows = [CutText(f"t{i % 20}", (1,), {"answer": i}, "f") for i in range(40)]
    train, held_out = split_texts(rows, 0.3)
    assert len(train) + len(held_out) == 40
    assert not {t.text for t in train} & {t.text for t in held_out}


def test_small_sets_have_both_sides():
    for fraction in (0.001, 0.5, 0.999):
        train, held_out = split_texts(texts("a", "b"), fraction)
        assert (len(train), len(held_out)) == (1, 1)
    assert split_texts(texts("a", "a"), 0.0) == (texts("a", "a")[:1], [])
    with pytest.raises(DataError, match="held-out-fraction 0"):
        split_texts(texts("a", "a"), 0.1)


def test_a_transformers_tokenizer_fits():
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    vocab = {"<s>": 0, "</s>": 1, "?": 2, "the": 3, "old": 4, "sea": 5, "user": 6}
    words = Tokenizer(models.WordLevel(vocab, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.decoder = decoders.WordPiece()
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="?"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"
        "{% if add_generation_prompt %}old{% endif %}"
    )
    assert special_prefix(tokenizer) == [0]
    assert cut_texts(tokenizer, ["the old sea", "sea"], 2) == [("the old", [3, 4]), ("sea", [5])]
    assert encode_chat(tokenizer, "the sea", None) == [6, 3, 5, 4]
