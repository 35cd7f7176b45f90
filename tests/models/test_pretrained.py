"""Loading and saving whole models: sources, shards, heads, names, and one clear error each."""

from __future__ import annotations

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.models import (
    TransformerConfig,
    load_pretrained,
    load_tokenizer,
    random_pretrained,
    save_pretrained,
)
from rljax.models.config_fields import ConfigError
from rljax.models.heads import init_reward_head, init_value_head
from rljax.models.random_models import RANDOM_CONFIGS
from rljax.models.safetensors_io import FileError
from rljax.models.weights import WeightsError, flatten
from tests.goldens.golden import golden_weights, load_golden, write_checkpoint, write_golden


@pytest.fixture(scope="module")
def tiny():
    return load_pretrained("random:tiny-llama")


def same_params(a, b) -> bool:
    left, right = flatten(a), flatten(b)
    return set(left) == set(right) and all(np.array_equal(left[k], right[k]) for k in left)


def edit(directory, name, **changes):
    path = directory / name
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | changes))


# Names and layouts found on the hub


@pytest.mark.parametrize(
    ("case", "rename"),
    [
        ("gpt2", lambda name: name.removeprefix("transformer.")),
        ("llama", lambda name: name.removeprefix("model.")),
        ("gpt_neox", lambda name: name.replace("embed_out", "lm_head")),
        ("gemma3_text", lambda name: "language_model." + name),
        ("gemma3_text", lambda name: name.replace("model.", "model.language_model.")),
    ],
)
def test_prefixes_of_the_hub_are_accepted(case, rename, tmp_path):
    config = load_golden(case).config
    weights = golden_weights(case)
    renamed = {rename(name): weight for name, weight in weights.items()}
    if case == "gemma3_text":
        renamed["vision_tower.layer.weight"] = np.ones((2, 2), np.float32)
        config = {"model_type": "gemma3", "text_config": config, "vision_config": {}}
    found = load_pretrained(write_checkpoint(tmp_path / "renamed", renamed, config))
    plain = load_pretrained(write_golden(case, tmp_path / "plain"))
    assert renamed.keys() != weights.keys()
    assert same_params(found.params, plain.params)
    assert found.model.config == plain.model.config


def test_harmless_buffers_are_passed_over(tmp_path):
    buffers = {
        "transformer.h.0.attn.bias": np.ones((1, 1, 8, 8), np.float32),
        "transformer.h.2.attn.masked_bias": np.ones((), np.float32),
    }
    weights = golden_weights("gpt2") | buffers
    load_pretrained(write_checkpoint(tmp_path, weights, load_golden("gpt2").config))


def test_shards_hold_the_same(tmp_path):
    sharded = write_golden("qwen3", tmp_path / "many", shard_bytes=20_000)
    assert len(list(sharded.glob("model-*.safetensors"))) > 2
    many, one = load_pretrained(sharded), load_pretrained(write_golden("qwen3", tmp_path / "one"))
    assert same_params(many.params, one.params)
    again = save_pretrained(tmp_path / "again", many, shard_bytes=20_000)
    index = json.loads((again / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in jax.tree.leaves(one.params))
    assert same_params(load_pretrained(again).params, one.params)


def test_a_copy_of_tied_embeddings_must_be_a_copy(tmp_path):
    weights, config = golden_weights("qwen2"), load_golden("qwen2").config
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].copy()
    load_pretrained(write_checkpoint(tmp_path, weights, config))
    weights["lm_head.weight"][3, 4] += 1
    write_checkpoint(tmp_path, weights, config)
    with pytest.raises(WeightsError, match=r"lm_head.weight differs from model.embed_tokens"):
        load_pretrained(tmp_path)


# Saving


def test_heads_and_generation_config_return(tiny, tmp_path):
    size = tiny.model.config.hidden_size
    heads = {"value": init_value_head(size), "reward": init_reward_head(jax.random.key(1), size)}
    changed = dataclasses.replace(
        tiny, heads=heads, eos_token_ids=(258, 10), generation_config={"temperature": 0.6}
    )
    directory = save_pretrained(tmp_path / "model", changed)
    again = load_pretrained(directory)
    assert same_params(again.heads, heads)
    assert again.eos_token_ids == (258, 10)
    assert again.generation_config["temperature"] == 0.6
    assert "value.kernel" not in (directory / "model.safetensors").read_bytes().decode("latin1")


def test_loaded_parameters_are_donated_in_their_place(tiny, tmp_path):
    """Over numpy's memory JAX would copy them: a whole model more in the first update."""
    loaded = load_pretrained(save_pretrained(tmp_path / "model", tiny))
    before = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(loaded.params)}
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    after = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(step(loaded.params))}
    assert before == after


def test_saving_replaces_a_checkpoint_and_nothing_else(tiny, tmp_path):
    directory = save_pretrained(tmp_path / "model", tiny)
    (directory / "stale.txt").write_text("of the old one")
    other = load_pretrained("random:tiny-llama:1")
    save_pretrained(directory, other)
    assert not (directory / "stale.txt").exists()
    assert same_params(load_pretrained(directory).params, other.params)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(FileExistsError, match="mine is not empty and no checkpoint"):
        save_pretrained(tmp_path / "mine", tiny)
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.json").write_text('{"model": {"source": "gpt2"}, "steps": 3}')
    with pytest.raises(FileExistsError, match="run is not empty and no checkpoint"):
        save_pretrained(run, tiny)
    assert (run / "checkpoints").is_dir()


def test_a_failed_save_leaves_the_old_one(tiny, tmp_path, monkeypatch):
    directory = save_pretrained(tmp_path / "model", tiny)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("rljax.models.pretrained._write_json", fail)
    with pytest.raises(OSError, match="disk full"):
        save_pretrained(directory, load_pretrained("random:tiny-llama:1"))
    monkeypatch.undo()
    assert same_params(load_pretrained(directory).params, tiny.params)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_saving_checks_that_the_parts_belong_together(tiny, tmp_path):
    wrong = dataclasses.replace(tiny, hf_config=tiny.hf_config | {"rms_norm_eps": 0.5})
    with pytest.raises(ConfigError, match="hf_config does not describe the model"):
        save_pretrained(tmp_path / "model", wrong)
    params = tiny.params | {"final_norm": {"scale": jnp.ones(3)}}
    with pytest.raises(WeightsError, match=r"final_norm.scale has the shape \(3,\)"):
        save_pretrained(tmp_path / "model", dataclasses.replace(tiny, params=params))
    params = {k: v for k, v in tiny.params.items() if k != "final_norm"}
    with pytest.raises(WeightsError, match="final_norm.scale"):
        save_pretrained(tmp_path / "model", dataclasses.replace(tiny, params=params))
    assert not (tmp_path / "model").exists()


# Special tokens


def test_eos_comes_from_the_first_place_that_names_it(tmp_path):
    directory = write_golden("llama", tmp_path)
    assert load_pretrained(directory).eos_token_ids == (2,)
    edit(directory, "config.json", eos_token_id=[5, 6])
    assert load_pretrained(directory).eos_token_ids == (5, 6)
    edit(directory, "generation_config.json", eos_token_id=7)
    assert load_pretrained(directory).eos_token_ids == (7,)
    edit(directory, "generation_config.json", eos_token_id=64)
    with pytest.raises(ConfigError, match="EOS token 64 is outside the 64 embeddings"):
        load_pretrained(directory)


def test_without_pad_token_the_eos_pads(tmp_path):
    directory = write_golden("llama", tmp_path)
    config = json.loads((directory / "tokenizer_config.json").read_text())
    del config["pad_token"], config["eos_token"]
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_pretrained(directory).pad_token_id == 2
    edit(directory, "config.json", eos_token_id=None)
    with pytest.raises(ConfigError, match="no eos_token_id"):
        load_pretrained(directory)


# Wrong input


def test_a_missing_an_extra_and_a_misshapen_tensor_are_named(tmp_path):
    weights, config = golden_weights("llama"), load_golden("llama").config
    name = "model.layers.1.mlp.up_proj.weight"

    def load(changed):
        return load_pretrained(write_checkpoint(tmp_path, changed, config))

    with pytest.raises(WeightsError, match=rf"model.safetensors: .* missing, the first is {name}"):
        load({k: v for k, v in weights.items() if k != name})
    with pytest.raises(WeightsError, match=r"model.safetensors: the tensor model.extra has no pl"):
        load(weights | {"model.extra": np.ones(3, np.float32)})
    with pytest.raises(WeightsError, match=rf"{name} has the shape \(32, 48\); .* \(48, 32\)"):
        load(weights | {name: np.ascontiguousarray(weights[name].T)})


def test_a_pickle_is_never_opened(tmp_path):
    directory = write_golden("llama", tmp_path)
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"pytorch_model.bin is a pickle.*save_pretrained"):
        load_pretrained(directory)
    (directory / "pytorch_model.bin").unlink()
    with pytest.raises(FileNotFoundError, match="holds neither model.safetensors nor"):
        load_pretrained(directory)


def test_a_directory_without_a_tokenizer_says_so(tmp_path):
    directory = write_golden("llama", tmp_path)
    (directory / "tokenizer.json").unlink()
    for load in (load_pretrained, load_tokenizer):
        with pytest.raises(FileNotFoundError, match=r"has no tokenizer.json.*AutoTokenizer"):
            load(directory)


def test_damaged_files_are_refused(tmp_path):
    directory = write_golden("llama", tmp_path / "one")
    path = directory / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(FileError, match=r"model.safetensors: .* ends beyond .* cut short"):
        load_pretrained(directory)
    path.write_bytes(whole[:20])
    with pytest.raises(FileError, match="not a safetensors file, or cut short"):
        load_pretrained(directory)
    many = write_golden("llama", tmp_path / "many", shard_bytes=20_000)
    shard = sorted(many.glob("model-*"))[1]
    shutil.move(shard, tmp_path / "aside")
    with pytest.raises(FileNotFoundError, match=f"{shard.name} is missing; model.safetensors.ind"):
        load_pretrained(many)
    shutil.copy(sorted(many.glob("model-*"))[0], shard)
    with pytest.raises(FileError, match=f"{shard.name}: holds .* does not place there"):
        load_pretrained(many)


def test_integers_are_no_weights(tmp_path):
    directory = write_golden("llama", tmp_path)
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b'"dtype":"F32"', b'"dtype":"I32"', 1))
    with pytest.raises(FileError, match=r"is I32; read are F64, F32, F16, BF16"):
        load_pretrained(directory)


def test_wrong_sources_and_dtypes(tmp_path, monkeypatch):
    (tmp_path / "file.txt").write_text("")
    for source, error, message in (
        (tmp_path, FileNotFoundError, "config.json is missing"),
        (tmp_path / "nowhere", FileNotFoundError, "no such directory or .gguf file"),
        ("./nowhere", FileNotFoundError, "no such directory or .gguf file"),
        ("nowhere.gguf", FileNotFoundError, "no such directory or .gguf file"),
        (tmp_path / "file.txt", ValueError, "give the directory of a checkpoint"),
        ("random:huge", ValueError, "known: random:tiny-gpt2"),
    ):
        with pytest.raises(error, match=message):
            load_pretrained(source)
    with pytest.raises(ValueError, match="dtype is 'int8'; one of float32, bfloat16, float16"):
        load_pretrained("random:tiny-gpt2", dtype="int8")

    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(ConnectionError, match=r"'some/model' .* no network.*hf download some/mod"):
        load_pretrained("some/model")


# Random models


@pytest.mark.parametrize("name", sorted(RANDOM_CONFIGS))
def test_random_models_need_no_file(name, tmp_path):
    pretrained = load_pretrained(f"random:{name}")
    text = "Émigré 世界 😀\n\t\0 end"
    ids = pretrained.tokenizer(text).input_ids
    assert ids == list(text.encode())
    assert pretrained.tokenizer.decode(ids) == text
    logits = jax.eval_shape(pretrained.model.apply, pretrained.params, jnp.asarray([ids]))
    assert logits.shape == (1, len(ids), 259)
    assert same_params(load_pretrained(f"random:{name}:0").params, pretrained.params)
    assert not same_params(load_pretrained(f"random:{name}:3").params, pretrained.params)
    again = load_pretrained(save_pretrained(tmp_path / "saved", pretrained))
    assert again.tokenizer(text).input_ids == ids
    assert (again.eos_token_ids, again.pad_token_id) == ((258,), 256)


def test_a_random_model_needs_room_for_its_bytes():
    small = TransformerConfig(61, 32, 2, 4, 2, 8, 64, 64)
    with pytest.raises(ValueError, match="vocab_size 61 is less than 259"):
        random_pretrained("llama", small)
