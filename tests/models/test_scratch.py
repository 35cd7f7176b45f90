"""Models from scratch: sizes, tokenizers, and what a run keeps of them."""

import dataclasses

import jax
import numpy as np
import pytest

from rljax.models import load_description, load_pretrained, random_pretrained, save_description
from rljax.models.config_fields import ConfigError
from rljax.models.scratch import (
    ArchitectureConfig,
    make_architecture,
    make_tokenizer,
    parse_tokenizer,
    read_architecture,
)
from rljax.models.tokenizer import SMALLEST_VOCABULARY, byte_tokenizer, train_bpe

TEXTS = ["the film was good", "the film was bad", "what a film, the film of films"] * 5
SMALL = ArchitectureConfig(hidden_size=32, num_layers=1, num_heads=2, context_length=64)


@pytest.fixture(scope="module")
def bpe():
    return train_bpe(TEXTS, 300)


def test_a_trained_bpe_keeps_every_text_and_is_shorter(bpe):
    for text in (*TEXTS[:3], "Zwölf Boxkämpfer \n\t 日本 \x00"):
        assert bpe.decode(bpe.encode(text)) == text
    count = len(bpe.encode("the film was good"))
    assert count < len("the film was good") / 2
    assert SMALLEST_VOCABULARY < len(bpe) <= 300
    ids = {bpe.pad_token_id, bpe.bos_token_id, bpe.eos_token_id}
    assert len(ids) == 3 and max(ids) < len(bpe)
    assert not set(bpe.encode("the film")) & ids
    assert bpe.get_vocab() == train_bpe(TEXTS, 300).get_vocab()
    assert (
        bpe.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False) == "user: a\n"
    )


def test_tokenizers_by_name(bpe):
    assert make_tokenizer("bytes", []).get_vocab() == byte_tokenizer().get_vocab()
    assert make_tokenizer("random:tiny-llama", []).get_vocab() == byte_tokenizer().get_vocab()
    assert make_tokenizer("bpe:300", TEXTS).get_vocab() == bpe.get_vocab()
    assert parse_tokenizer("bpe:300") == 300 and parse_tokenizer("some/model") is None
    for text in ("bpe", "bpe:", "bpe:12", "bpe:many"):
        with pytest.raises(ValueError, match="needs its vocabulary, as in bpe:4096"):
            parse_tokenizer(text)
    with pytest.raises(ValueError, match="does not hold the bytes"):
        train_bpe(TEXTS, 100)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"family": "gpt2"},
        {"num_kv_heads": 1, "intermediate_size": 48, "tie_embeddings": False},
    ],
)
def test_a_description_gives_the_model_back(tmp_path, bpe, change):
    config = dataclasses.replace(SMALL, **change)
    config.validate()
    sizes = make_architecture(config, len(bpe))
    made = random_pretrained(config.family, sizes, seed=3, tokenizer=bpe)
    save_description(tmp_path / "model", made)
    assert not list((tmp_path / "model").glob("*.safetensors"))
    found = load_description(tmp_path / "model")
    assert found.model.config == made.model.config == sizes
    assert found.hf_config["model_type"] == config.family
    assert (found.eos_token_ids, found.pad_token_id) == (made.eos_token_ids, made.pad_token_id)
    assert found.eos_token_ids == (bpe.eos_token_id,)
    assert found.tokenizer.get_vocab() == bpe.get_vocab()
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), made.params)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), found.params) == shapes
    assert read_architecture(tmp_path / "model") == (config.family, sizes)
    assert read_architecture(tmp_path / "model" / "config.json") == (config.family, sizes)
    again = random_pretrained(config.family, sizes, seed=4, tokenizer=bpe)
    assert np.any(again.params["embed"]["embedding"] != made.params["embed"]["embedding"])
    with pytest.raises(FileNotFoundError, match="safetensors"):
        load_pretrained(tmp_path / "model")  # it has no weights


def test_every_size_is_used():
    base = make_architecture(SMALL, 300)
    for change, field in (
        ({"hidden_size": 64}, "hidden_size"),
        ({"num_layers": 2}, "num_layers"),
        ({"num_heads": 4}, "num_heads"),
        ({"num_kv_heads": 1}, "num_kv_heads"),
        ({"intermediate_size": 100}, "intermediate_size"),
        ({"context_length": 32}, "context_length"),
        ({"tie_embeddings": False}, "tie_embeddings"),
        ({"family": "gpt2"}, "positions"),
    ):
        changed = make_architecture(dataclasses.replace(SMALL, **change), 300)
        assert getattr(changed, field) != getattr(base, field)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"num_layers": 0}, "num_layers is 0"),
        ({"hidden_size": 34}, "hidden_size 34 is not a multiple of 2 x num_heads 2"),
        ({"num_kv_heads": 3}, "num_heads 2 is not a multiple of num_kv_heads 3"),
        ({"intermediate_size": 0}, "intermediate_size is 0"),
        ({"family": "gpt2", "num_kv_heads": 1}, "num_kv_heads is 1, but family gpt2"),
        ({"family": "gpt2", "intermediate_size": 64}, "intermediate_size is 64, but family gpt2"),
    ],
)
def test_sizes_that_do_not_go_together(change, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(SMALL, **change).validate()


def test_a_config_json_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"config.json cannot be read"):
        read_architecture(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match="a JSON object is needed"):
        read_architecture(tmp_path)
