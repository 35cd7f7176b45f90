"""Reinforcement learning for language models in JAX: policy, value, reward and loss as pure functions."""

__version__ = "0.1.0"
