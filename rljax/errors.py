"""The root of errors that a user can put right: scripts print them without a traceback."""

from __future__ import annotations


class UserError(Exception):
    """Something outside the code is wrong; the message says where, why, and what to do."""
