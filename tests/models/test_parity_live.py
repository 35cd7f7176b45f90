"""The goldens derived anew from torch, and what rljax writes loaded by transformers."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the parity extra is not installed")

from rljax.models import load_pretrained, save_pretrained  # noqa: E402
from rljax.models.families import READERS, read_config  # noqa: E402
from rljax.models.heads import init_value_head  # noqa: E402
from tests.goldens.cases import CASES, rows  # noqa: E402
from tests.goldens.golden import load_golden, write_golden  # noqa: E402
from tests.goldens.record import derive, torch_logits, torch_model  # noqa: E402

pytestmark = pytest.mark.parity


def read_back(directory, dtype="float32"):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        directory, dtype=getattr(torch, dtype), attn_implementation="eager"
    ).eval()


@pytest.mark.parametrize("case", sorted(CASES))
def test_goldens_are_still_what_transformers_gives(case):
    golden, fresh = load_golden(case), derive(case)
    np.testing.assert_array_equal(fresh["tokens"], golden.tokens)
    np.testing.assert_allclose(fresh["logits"][golden.mask], golden.logits[golden.mask], atol=2e-5)
    np.testing.assert_array_equal(fresh["greedy"], golden.greedy)


@pytest.mark.parametrize("case", sorted(CASES))
def test_transformers_loads_what_is_saved(case, tmp_path):
    golden = load_golden(case)
    pretrained = load_pretrained(write_golden(case, tmp_path / "source"))
    head = {"value": init_value_head(pretrained.model.config.hidden_size)}
    pretrained = dataclasses.replace(pretrained, heads=head)
    directory = save_pretrained(tmp_path / "saved", pretrained, shard_bytes=20_000)
    model = read_back(directory)
    found = torch_logits(model, golden.tokens, golden.mask)
    assert np.abs(found - golden.logits)[golden.mask].max() <= 1e-5
    assert model.generation_config.eos_token_id == [2]


@pytest.mark.parametrize("case", ["gpt2", "gpt_neox", "gemma3_text"])
def test_bfloat16_round_trip_through_transformers(case, tmp_path):
    half = load_pretrained(write_golden(case, tmp_path / "source"), dtype="bfloat16")
    model = read_back(save_pretrained(tmp_path / "saved", half), "bfloat16")
    assert next(model.parameters()).dtype == torch.bfloat16
    model.save_pretrained(tmp_path / "torch")
    half.tokenizer.save_pretrained(str(tmp_path / "torch"))
    again = load_pretrained(tmp_path / "torch", dtype="bfloat16")
    for left, right in zip(
        jax.tree.leaves(half.params), jax.tree.leaves(again.params), strict=True
    ):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("name", ["tiny-gpt2", "tiny-llama"])
def test_random_models_are_transformers_models(name, tmp_path):
    from transformers import AutoTokenizer

    pretrained = load_pretrained(f"random:{name}")
    directory = save_pretrained(tmp_path / "saved", pretrained)
    tokens, mask = rows()
    ours = jax.jit(pretrained.model.apply)(pretrained.params, tokens, mask)
    theirs = torch_logits(read_back(directory), tokens, mask)
    assert np.abs(np.asarray(ours) - theirs)[mask].max() <= 1e-4
    text = "Émigré 世界 <|eos|> 12"
    assert AutoTokenizer.from_pretrained(directory)(text).input_ids == (
        pretrained.tokenizer(text).input_ids
    )


@pytest.mark.parametrize("family", sorted(READERS))
def test_defaults_are_those_of_transformers(family):
    """A config.json may leave out what equals its class's default."""
    from transformers import AutoConfig

    written = AutoConfig.for_model(family).to_dict()
    assert read_config({"model_type": family}) == read_config(written)


def test_the_text_part_of_gemma3(tmp_path):
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = dict(CASES["gemma3_text"][1])
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    torch.manual_seed(0)
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    model = Gemma3ForConditionalGeneration(config).eval()
    directory = write_golden("gemma3_text", tmp_path / "gemma3")
    (directory / "model.safetensors").unlink()
    model.save_pretrained(directory)
    pretrained = load_pretrained(directory)
    tokens, mask = rows()
    ours = jax.jit(pretrained.model.apply)(pretrained.params, tokens, mask)
    assert np.abs(np.asarray(ours) - torch_logits(model, tokens, mask))[mask].max() <= 1e-4
    again = read_back(save_pretrained(tmp_path / "text", pretrained))
    assert type(again).__name__ == "Gemma3ForCausalLM"
    assert np.abs(torch_logits(again, tokens, mask) - np.asarray(ours))[mask].max() <= 1e-4


def test_every_case_is_loaded_by_its_own_class():
    for case, (family, _) in CASES.items():
        assert torch_model(case).config.model_type == family
