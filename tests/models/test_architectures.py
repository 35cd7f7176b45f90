"""Architectures by name."""

from __future__ import annotations

import json
import math

import pytest

from rljax.errors import UserError
from rljax.models.architectures import SHAPES, find_architecture, known_names
from rljax.models.hf_config import write_config
from rljax.models.loading import parameter_shapes

# What the hub says of each repository's safetensors, tied matrices once.
COUNTS = {
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-70B": 70_553_706_496,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "Qwen/Qwen2.5-0.5B": 494_032_768,
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-32B": 32_763_876_352,
    "google/gemma-2-2b": 2_614_341_888,
    "google/gemma-2-9b": 9_241_705_984,
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "HuggingFaceTB/SmolLM2-1.7B": 1_711_376_384,
    "openai-community/gpt2": 124_439_808,
    "openai-community/gpt2-medium": 354_823_168,
    "openai-community/gpt2-large": 774_030_080,
    "openai-community/gpt2-xl": 1_557_611_200,
    "distilbert/distilgpt2": 81_912_576,
}


def test_known_models_have_the_parameters_that_they_are_known_for():
    assert set(COUNTS) == set(known_names())
    for name, count in COUNTS.items():
        shapes = parameter_shapes(find_architecture(name)).values()
        assert sum(map(math.prod, shapes)) == count, name


def test_names_go_without_owner_and_case_and_tuning():
    base = find_architecture("meta-llama/Llama-3.2-1B")
    for name in ("llama-3.2-1b", "meta-llama/Llama-3.2-1B-Instruct", "LLAMA-3.2-1B"):
        assert find_architecture(name) == base
    assert find_architecture("smollm2-135m-instruct") == find_architecture("SmolLM2-135M")
    assert find_architecture("shape:gpt2") == find_architecture("gpt2")
    assert find_architecture("shape:smollm2-135m") == SHAPES["smollm2-135m"]
    assert find_architecture("random:tiny-llama").num_layers == 2


def test_a_config_file_or_its_directory_is_read(tmp_path):
    config = find_architecture("HuggingFaceTB/SmolLM2-360M")
    (tmp_path / "config.json").write_text(json.dumps(write_config("llama", config)))
    assert find_architecture(str(tmp_path)) == config
    assert find_architecture(str(tmp_path / "config.json")) == config


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("owner/nobody-knows-it", "give its config.json"),
        ("shape:huge", "there is no shape 'huge'; known: smollm2-135m"),
        ("random:huge", "random:huge is not known"),
        ("no/such/config.json", "cannot be read"),
    ],
)
def test_unknown_names_are_errors_that_say_what_to_give(name, message):
    with pytest.raises(UserError, match=message):
        find_architecture(name)


def test_a_file_that_is_no_config_is_an_error(tmp_path):
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(UserError, match="no JSON object"):
        find_architecture(str(tmp_path))
