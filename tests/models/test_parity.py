"""The same logits and greedy tokens as transformers: recorded goldens, no torch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.models import load_pretrained, save_pretrained
from rljax.models.safetensors_io import find_tensors, read_tensor
from rljax.models.weights import flatten
from rljax.rollout.distribution import SamplingConfig
from rljax.rollout.sampler import make_sampler
from rljax.types import Prompts
from tests.goldens.cases import CASES, EOS, GENERATED, LENGTH
from tests.goldens.golden import golden_weights, load_golden, write_golden

TOLERANCE = 1e-4
PROMPT = 5
ROOM = PROMPT + GENERATED  # one shape, so one compilation a case


@pytest.fixture(scope="module", params=sorted(CASES))
def loaded(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoint")
    pretrained = load_pretrained(write_golden(request.param, directory))
    return request.param, pretrained, jax.jit(pretrained.model.apply)


def test_logits_equal_the_recorded_ones(loaded):
    case, pretrained, apply = loaded
    golden = load_golden(case)
    room = ((0, 0), (0, ROOM - LENGTH))
    logits = apply(pretrained.params, np.pad(golden.tokens, room), np.pad(golden.mask, room))
    assert logits.dtype == jnp.float32
    difference = np.abs(np.asarray(logits)[:, :LENGTH] - golden.logits)[golden.mask]
    print(f"{case}: max |logit difference| {difference.max():.2e}")
    assert difference.max() <= TOLERANCE
    assert np.abs(golden.logits).max() > 1.0  # large enough to show an error


def test_greedy_tokens_equal_generate(loaded):
    case, pretrained, apply = loaded
    golden = load_golden(case)
    tokens, mask = np.zeros((3, ROOM), np.int32), np.zeros((3, ROOM), bool)
    tokens[0, :PROMPT], mask[0, :PROMPT] = golden.tokens[0, :PROMPT], True
    for i in range(PROMPT, ROOM):
        logits = np.array(apply(pretrained.params, tokens, mask)[0, i - 1])
        logits[EOS] = -np.inf  # recorded with it forbidden, to reach the full length
        tokens[0, i], mask[0, i] = logits.argmax(), True
    np.testing.assert_array_equal(tokens[:1, PROMPT:], golden.greedy)


QUICK = ("gemma3_text", "gpt_neox")


@pytest.mark.parametrize(
    "case",
    [case if case in QUICK else pytest.param(case, marks=pytest.mark.slow) for case in CASES],
)
def test_the_sampler_equals_generate(case, tmp_path):
    """Prefill and cached decoding of left-padded prompts, with every family's options."""
    golden = load_golden(case)
    pretrained = load_pretrained(write_golden(case, tmp_path))
    sampling = SamplingConfig(max_new_tokens=GENERATED, min_new_tokens=GENERATED, temperature=0.0)
    sample = make_sampler(pretrained.model, sampling, pretrained.eos_token_ids, 0)
    tokens = np.array(golden.tokens[:2, : PROMPT + 4])
    tokens[0, 4:] = golden.tokens[0, :PROMPT]
    mask = np.ones(tokens.shape, bool)
    mask[0, :4] = False
    prompts = Prompts(tokens, mask, np.arange(2), np.zeros(2, np.int32))
    made = jax.jit(sample)(pretrained.params, None, prompts, jax.random.key(0))
    np.testing.assert_array_equal(made.tokens[:1], golden.greedy)


def test_a_save_holds_the_tensors_that_transformers_wrote(loaded, tmp_path):
    case, pretrained, _ = loaded
    stored = find_tensors(save_pretrained(tmp_path / "saved", pretrained))
    expected = golden_weights(case)
    assert set(stored) == set(expected)
    for name, weight in expected.items():
        found = read_tensor(stored[name], np.dtype(np.float32))
        np.testing.assert_array_equal(found, weight, err_msg=name)


def test_no_mask_means_no_padding(tmp_path):
    golden = load_golden("llama")
    pretrained = load_pretrained(write_golden("llama", tmp_path))
    logits = pretrained.model.apply(pretrained.params, jnp.asarray(golden.tokens[:1]))
    assert np.abs(np.asarray(logits) - golden.logits[:1]).max() <= TOLERANCE


@pytest.mark.parametrize("case", ["gpt2", "gpt_neox", "gemma2"])
def test_bfloat16_survives_saving(case, tmp_path):
    half = load_pretrained(write_golden(case, tmp_path / "source"), dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(half.params)} == {jnp.dtype(jnp.bfloat16)}
    directory = save_pretrained(tmp_path / "saved", half)
    again, full = load_pretrained(directory, "bfloat16"), load_pretrained(tmp_path / "source")
    for path, leaf in flatten(half.params).items():
        np.testing.assert_array_equal(leaf, flatten(again.params)[path], err_msg=path)
        rounded = np.asarray(flatten(full.params)[path]).astype(leaf.dtype)
        np.testing.assert_array_equal(leaf, rounded, err_msg=path)
