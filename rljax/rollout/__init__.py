"""A policy acts: compiled sampling, and scoring under the same distribution."""
