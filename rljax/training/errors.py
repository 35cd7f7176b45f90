"""Errors of the training machinery that a user can put right."""

from __future__ import annotations

from rljax.errors import UserError as UserError


class ConfigError(UserError, ValueError):
    """A config or a flag is impossible; the message names the field."""


class ConfigMismatch(ConfigError):
    """A run directory holds a run of another config; the message lists the fields that differ."""


class RunInUse(UserError):
    """Another process is writing to the run directory."""


class CheckpointError(UserError):
    """A checkpoint cannot be written or read."""


class CheckpointMismatch(CheckpointError):
    """A sound checkpoint holds another state than the one asked for."""
