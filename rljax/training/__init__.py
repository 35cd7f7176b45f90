"""Machinery of a run that knows no algorithm: optimizer, checkpoints, metrics, flags."""
