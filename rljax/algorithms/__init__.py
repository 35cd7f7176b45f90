"""Rollouts to new parameters: one file an algorithm, every file of one shape."""
