"""Continuous batching writes what the plain sampler writes, whatever the slots and the lengths."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.models.config import gpt2_config
from rljax.models.transformer import make_model
from rljax.rollout.continuous import make_continuous_sampler
from rljax.rollout.distribution import ActionMask, SamplingConfig
from rljax.rollout.sampler import make_sampler
from rljax.types import Prompts
from tests.conftest import noisy_params, quick_jit, tiny_config

EOS, PAD = tuple(range(3, 61, 6)), 3  # about every sixth token ends a completion
KEY = jax.random.key(42)
SAMPLING = SamplingConfig(max_new_tokens=12, temperature=1.0)
ROWS, WIDTH = 11, 6

GEMMA = tiny_config(
    sliding_window=4,
    full_attention_every=2,
    post_norms=True,
    qk_norm=True,
    embedding_scale=32**0.5,
    num_layers=4,
)
GPT2 = gpt2_config(vocab_size=61, hidden_size=32, num_layers=2, num_heads=4, context_length=64)
