"""config.json as the hub holds them -> TransformerConfig; what cannot be honoured is an error."""

from __future__ import annotations

import pytest

from rljax.models.config import RopeScaling
from rljax.models.config_fields import ConfigError
from rljax.models.families import read_config
from rljax.models.hf_config import ARCHITECTURES, write_config
from tests.goldens.cases import CASES
from tests.goldens.golden import load_golden

LLAMA = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "vocab_size": 128256,
}


def test_reads_the_spelling_of_transformers_4():
    config = read_config(LLAMA)
    assert config.rope_theta == 500000.0
    assert config.rope_scaling == RopeScaling("llama3", 32.0, 1.0, 4.0, 8192)
    assert config.num_kv_heads == 8


def test_both_spellings_of_rope_mean_the_same():
    new = {k: v for k, v in LLAMA.items() if k not in ("rope_scaling", "rope_theta")}
    new["rope_parameters"] = LLAMA["rope_scaling"] | {"rope_theta": 500000.0}
    assert read_config(new) == read_config(LLAMA)


def test_reads_gemma3_of_the_hub():
    text = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    config = read_config({"model_type": "gemma3", "text_config": text, "vision_config": {}})
    assert (config.vocab_size, config.num_heads, config.num_kv_heads) == (262208, 8, 4)
    assert (config.rope_theta, config.local_rope_theta) == (1e6, 1e4)
    assert config.rope_scaling == RopeScaling("linear", 8.0)
    assert config.slides[:6] == (True,) * 5 + (False,)
    assert config.embedding_scale == 2560**0.5


def test_reads_pythia_and_gpt2_of_the_hub():
    pythia = read_config(
        {
            "model_type": "gpt_neox",
            "hidden_size": 512,
            "num_attention_heads": 8,
            "num_hidden_layers": 6,
            "intermediate_size": 2048,
            "rotary_pct": 0.25,
            "rotary_emb_base": 10000,
            "vocab_size": 50304,
        }
    )
    assert (pythia.rope_fraction, pythia.rotary_dim, pythia.parallel_residual) == (0.25, 16, True)
    gpt2 = read_config({"model_type": "gpt2", "activation_function": "gelu_new", "n_ctx": 1024})
    assert (gpt2.activation, gpt2.intermediate_size, gpt2.head_dim) == ("gelu_tanh", 3072, 64)


def test_qwen2_slides_only_when_told():
    qwen = {"model_type": "qwen2", "sliding_window": 32768, "max_window_layers": 2}
    assert read_config(qwen | {"use_sliding_window": False}).sliding_window is None
    assert read_config(qwen | {"use_sliding_window": True}).slides == (False,) * 2 + (True,) * 30


def test_null_window_of_mistral_is_no_window():
    assert read_config({"model_type": "mistral", "sliding_window": None}).sliding_window is None
    assert read_config({"model_type": "mistral"}).sliding_window == 4096


@pytest.mark.parametrize("case", sorted(CASES))
def test_writing_is_the_inverse_of_reading(case):
    config = read_config(load_golden(case).config)
    assert read_config(write_config(CASES[case][0], config)) == config


def test_writing_refuses_what_a_family_cannot_express():
    config = read_config(load_golden("qwen3").config)
    with pytest.raises(ConfigError, match="llama cannot express qk_norm"):
        write_config("llama", config)
    with pytest.raises(ConfigError, match="unknown family 'bert'"):
        write_config("bert", config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bert"}, r"where.json: model_type 'bert' is not supported; known: gpt2"),
        ({"model_type": None}, "model_type None is not supported"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope type 'yarn'"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "rope type 'dynamic'"),
        ({"rope_scaling": {"rope_type": "linear"}}, r"\['factor'\] are missing"),
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "mscale": 1.0}},
            r"\['mscale'\] are not known",
        ),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}, "rope_scaling": None}, "gpt_neox"),
        ({"hidden_act": "quick_gelu"}, r"where.json: hidden_act is 'quick_gelu'; known"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is .* not supported"),
        ({"num_local_experts": 8}, "num_local_experts is 8"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder"),
        ({"num_hidden_layers": "16"}, "num_hidden_layers is '16'; a positive integer"),
        ({"num_attention_heads": 30}, "where.json: num_heads 30 is not a multiple"),
        ({"layer_types": ["sliding_attention"] * 16}, "llama has no sliding layers"),
        ({"layer_types": ["chunked_attention"] * 16}, "layer_types is"),
    ],
)
def test_errors_name_file_and_key(change, message):
    with pytest.raises(ConfigError, match=message):
        read_config(LLAMA | change, "where.json")


def test_errors_of_other_families():
    with pytest.raises(ConfigError, match="scale_attn_by_inverse_layer_idx"):
        read_config({"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True})
    with pytest.raises(ConfigError, match="use_bidirectional_attention"):
        read_config({"model_type": "gemma3_text", "use_bidirectional_attention": True})
    with pytest.raises(ConfigError, match="all layers of mistral slide"):
        kinds = ["full_attention"] * 31 + ["sliding_attention"]
        read_config({"model_type": "mistral", "layer_types": kinds})
    with pytest.raises(ConfigError, match="sliding layers need use_sliding_window"):
        read_config({"model_type": "qwen3", "layer_types": ["sliding_attention"] * 32})


def test_every_family_has_a_class_in_transformers():
    from rljax.models.families import READERS

    assert set(READERS) == set(ARCHITECTURES)
