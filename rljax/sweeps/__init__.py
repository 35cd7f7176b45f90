"""Sweeps: arms of an experiment, their seeds, what is measured and what is claimed beforehand."""
