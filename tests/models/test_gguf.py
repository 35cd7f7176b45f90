"""GGUF files: tensor types, names and row orders undone, tokenizer built, errors named."""

from __future__ import annotations

import gguf
import jax
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from rljax.models import load_pretrained, load_tokenizer
from rljax.models.config import RopeScaling
from rljax.models.families import read_config
from rljax.models.gguf_file import TENSOR_TYPES, read_gguf, read_gguf_tensor
from rljax.models.gguf_model import gguf_config, gguf_rows
from rljax.models.gguf_tokenizer import PRE_TOKENIZERS
from rljax.models.safetensors_io import FileError
from rljax.models.weights import WeightsError, flatten, pack
from tests.goldens.golden import load_golden, write_golden

WORDS = [f"w{i}" for i in range(60)] + ["<s>", "</s>", "<pad>", "<unk>"]
BYTES = ["!", "a", "b", "ab", "Ġ", "Ġa", "1", "2"]


def add_tokenizer(writer, pre="gpt-2", model="gpt2", begin=None):
    if begin is not None:
        writer.add_add_bos_token(begin)
    words = BYTES + WORDS[len(BYTES) :]
    writer.add_tokenizer_model(model)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(words)
    writer.add_token_types([3 if word.startswith("<") else 1 for word in words])
    writer.add_token_merges(["a b", "Ġ a"])
    writer.add_bos_token_id(60)
    writer.add_eos_token_id(61)
    writer.add_pad_token_id(62)
    writer.add_unk_token_id(63)
    writer.add_chat_template("{{ messages[0]['content'] }}")


def interleave(array: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's converter does to Llama's query and key rows."""
    split = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
    return split.swapaxes(1, 2).reshape(array.shape)


def write_model(path, case, tmp_path, change=None, architecture=None, **tokenizer):
    """Write a golden's checkpoint as llama.cpp's converter would; `change` edits the tensors."""
    source = load_pretrained(write_golden(case, tmp_path / f"hf-{case}"))
    family, config = source.hf_config["model_type"], source.model.config
    writer = gguf.GGUFWriter(path, architecture or family)
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    if config.norm == "layer":
        writer.add_layer_norm_eps(config.norm_eps)
    else:
        writer.add_layer_norm_rms_eps(config.norm_eps)
        writer.add_rope_freq_base(config.rope_theta)
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    add_tokenizer(writer, **tokenizer)
    flat = flatten(source.params)
    tensors = {}
    for row in gguf_rows(family, config):
        arrays = [np.asarray(flat[target]) for target in row.targets]
        if row.layout == "pairs":
            key = "attn_k" in row.name
            tensors[row.name] = interleave(
                arrays[0], config.num_kv_heads if key else config.num_heads
            )
        else:
            tensors[row.name] = pack(row, arrays, config)
    if change is not None:
        change(tensors)
    for name, tensor in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("case", ["gpt2", "llama", "qwen2", "qwen3"])
def test_a_gguf_file_gives_the_recorded_logits(case, tmp_path):
    golden = load_golden(case)
    pretrained = load_pretrained(write_model(tmp_path / "model.gguf", case, tmp_path))
    assert pretrained.model.config == read_config(golden.config)
    apply = jax.jit(pretrained.model.apply)
    logits = apply(pretrained.params, golden.tokens, golden.mask)
    assert np.abs(np.asarray(logits) - golden.logits)[golden.mask].max() <= 1e-4
    assert (pretrained.eos_token_ids, pretrained.pad_token_id) == ((61,), 62)
    assert read_config(pretrained.hf_config) == pretrained.model.config


@pytest.mark.parametrize("name", TENSOR_TYPES)
def test_tensor_types_are_dequantised(name, tmp_path, monkeypatch):
    kind = GGMLQuantizationType[name]
    block, block_bytes = GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(0)
    shape = (6, 4 * 256)
    if name in ("Q4_K", "Q5_K", "Q6_K"):  # the package reads these, but does not write them
        count = 6 * 4 * 256 // block
        raw = rng.integers(0, 256, (count, block_bytes), np.uint8)
        scales = np.full((count, 2), 0.01, np.float16).view(np.uint8)
        raw[:, -4:] = scales if name == "Q6_K" else raw[:, -4:]
        raw[:, :4] = scales if name != "Q6_K" else raw[:, :4]
        raw = raw.reshape(6, -1)
    else:
        values = rng.standard_normal(shape).astype(np.float32)
        raw = gguf.quants.quantize(values, kind)
    writer = gguf.GGUFWriter(tmp_path / "t.gguf", "llama")
    writer.add_tensor("before", np.ones(3, np.float32))
    writer.add_tensor("t", raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    monkeypatch.setattr("rljax.models.gguf_file.PIECE_VALUES", 512)  # more than one piece
    tensor = read_gguf(tmp_path / "t.gguf").tensors["t"]
    assert tensor.shape == shape
    found = read_gguf_tensor(tensor, np.dtype(np.float32))
    np.testing.assert_array_equal(found, gguf.quants.dequantize(raw, kind))
    if name not in ("Q4_K", "Q5_K", "Q6_K"):
        assert np.abs(found - values).max() < 0.4


def test_llama3_scaling_is_read_from_its_divisors(tmp_path):
    # Llama 3.1's published rule, written out for head_dim 8.
    frequencies = 500000.0 ** -(np.arange(0, 8, 2) / 8)
    smooth = np.clip((8192 * frequencies / (2 * np.pi) - 1) / 3, 0, 1)
    divisors = (1 / ((1 - smooth) / 32 + smooth)).astype(np.float32)
    assert divisors[0] == 1
    assert divisors[-1] == 32

    def add(tensors):
        tensors["rope_freqs.weight"] = divisors

    def add_another(tensors):
        tensors["rope_freqs.weight"] = np.array([1, 2, 3, 8], np.float32)

    good = read_gguf(write_model(tmp_path / "good.gguf", "llama", tmp_path, add))
    good.metadata["llama.rope.freq_base"] = 500000.0
    assert gguf_config(good)[1].rope_scaling == RopeScaling("llama3", 32.0)
    bad = read_gguf(write_model(tmp_path / "bad.gguf", "llama", tmp_path, add_another))
    with pytest.raises(FileError, match=r"bad.gguf: rope_freqs.weight is not Llama 3's scaling"):
        gguf_config(bad)


def test_the_tokenizer_is_built(tmp_path):
    tokenizer = load_tokenizer(write_model(tmp_path / "m.gguf", "llama", tmp_path))
    ids = tokenizer("ab a</s>12").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["ab", "Ġa", "</s>", "1", "2"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "ab a12"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (60, 61, 63)
    chat = [{"role": "user", "content": "ab"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "ab"


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("gpt-2", ["a", "Ġ12345", "!?", "ĊĠ", "Ġb", "'t"]),
        ("smollm", ["a", "Ġ", "1", "2", "3", "4", "5", "!?", "ĊĠ", "Ġb", "'t"]),
        ("llama-bpe", ["a", "Ġ", "123", "45", "!?Ċ", "Ġ", "Ġb", "'t"]),
        ("qwen2", ["a", "Ġ", "1", "2", "3", "4", "5", "!?Ċ", "Ġ", "Ġb", "'t"]),
    ],
)
def test_each_rule_splits_text_its_own_way(pre, pieces):
    split = PRE_TOKENIZERS[pre]().pre_tokenize_str("a 12345!?\n  b't")
    assert [piece for piece, _ in split] == pieces


@pytest.mark.parametrize(
    ("options", "begins"),
    [
        ({"pre": "gpt-2"}, False),
        ({"pre": "gpt-2", "begin": True}, True),
        ({"pre": "llama-bpe"}, True),
        ({"pre": "llama-bpe", "begin": False}, False),
    ],
)
def test_bos_is_added_where_llama_cpp_adds_it(options, begins, tmp_path):
    tokenizer = load_tokenizer(write_model(tmp_path / "m.gguf", "llama", tmp_path, **options))
    ids = tokenizer("ab").input_ids
    assert ids == ([60] if begins else []) + [BYTES.index("ab")]


def test_errors_name_file_and_key(tmp_path):
    path = tmp_path / "m.gguf"
    cases = [
        ({"change": lambda t: t.pop("blk.1.attn_q.weight")}, "attn_q.weight is missing"),
        ({"change": lambda t: t.update(strange=np.ones(2, "f4"))}, "strange has no place"),
        (
            {"change": lambda t: t.update({"output_norm.weight": np.ones(5, "f4")})},
            r"output_norm.weight has the shape \(5,\); .* \(32,\)",
        ),
        ({"architecture": "mamba"}, "general.architecture is 'mamba'; known: gpt2"),
        ({"pre": "deepseek"}, "tokenizer.ggml.pre is 'deepseek'; known"),
        ({"model": "llama"}, "tokenizer.ggml.model is 'llama'; known"),
    ]
    for options, message in cases:
        write_model(path, "llama", tmp_path, **options)
        with pytest.raises((FileError, WeightsError), match=f"m.gguf: .*{message}"):
            load_pretrained(path)


def test_damaged_files_are_refused(tmp_path):
    whole = write_model(tmp_path / "m.gguf", "llama", tmp_path).read_bytes()
    for name, content, message in (
        ("not.gguf", b"hello there, this is text", "not a GGUF file"),
        ("header.gguf", whole[:300], "cut short"),
        ("cut.gguf", whole[:-200], "ends beyond the end of the file"),
        ("old.gguf", whole[:4] + b"\x01\0\0\0" + whole[8:], "GGUF version 1"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FileError, match=f"{name}: .*{message}"):
            load_pretrained(tmp_path / name)


def test_unsupported_tensor_types_are_named(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "t.gguf", "llama")
    writer.add_tensor("odd", np.zeros((4, 8), np.int32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(FileError, match="t.gguf: odd is of type I32; read are F32"):
        read_gguf(tmp_path / "t.gguf")
