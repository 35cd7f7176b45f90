"""What loading costs: memory, and what gets imported. Each is measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from rljax.models.config import TransformerConfig
from rljax.models.hf_config import write_config
from rljax.models.loading import parameter_shapes
from rljax.models.safetensors_io import PlannedTensor, write_tensors
from rljax.models.weights import source_shape, weight_rows
from tests.goldens.golden import word_tokenizer

PEAK = """
import resource, sys
import jax, numpy as np
from rljax.models import load_pretrained, load_tokenizer
load_pretrained("random:tiny-llama")  # libraries, backend and compiler are in memory before
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pretrained = load_pretrained(sys.argv[1], sys.argv[2])
jax.block_until_ready(pretrained.params)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
size = sum(leaf.nbytes for leaf in jax.tree.leaves(pretrained.params))
print((peak - before) * 1024 / size, size)
"""
IMPORTS = """
import sys
import rljax
light = set(sys.modules)
from rljax.models import load_pretrained
load_pretrained("random:tiny-gpt2")
heavy = {"torch", "tensorflow", "keras"}
print(sorted(heavy & set(sys.modules)), sorted({"jax", "transformers"} & light))
"""


def run(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip().splitlines()[-1]


def write_large(directory):
    """A checkpoint of 200 MB in bfloat16, in shards."""
    config = TransformerConfig(20_000, 1024, 5, 16, 4, 64, 3072, 256, tie_embeddings=False)
    shapes = parameter_shapes(config)
    kind = np.dtype(ml_dtypes.bfloat16)

    def planned(row):
        shape = source_shape(row, [shapes[target] for target in row.targets])
        return PlannedTensor(row.name, kind, shape, lambda: np.full(shape, 0.5, kind))

    rows = [planned(row) for row in weight_rows("llama", config)]
    write_tensors(directory, rows, 60_000_000)
    eos = {"eos_token_id": 2}
    (directory / "config.json").write_text(json.dumps(write_config("llama", config) | eos))
    word_tokenizer().save_pretrained(str(directory))
    return directory


@pytest.mark.parametrize(
    ("dtype", "megabytes"),
    [("float32", 400), ("bfloat16", 200)],
)
@pytest.mark.slow
def test_peak_memory_stays_near_the_loaded_parameters(dtype, megabytes, tmp_path):
    ratio, size = map(float, run(PEAK, str(write_large(tmp_path)), dtype).split())
    print(f"{dtype}: {size / 1e6:.0f} MB, peak {ratio:.2f} x the loaded parameters")
    assert size > megabytes * 1e6
    assert ratio < 1.5


def test_importing_is_cheap_and_never_imports_torch():
    assert run(IMPORTS) == "[] []"
