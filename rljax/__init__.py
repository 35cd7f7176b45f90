"""Reinforcement learning for language models in JAX: policy, value and reward as pure functions."""

__version__ = "0.1.0"
