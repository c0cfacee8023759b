"""Errors that a person reads: each says what was expected, what was found, where, and what to do."""

from __future__ import annotations


class TrialbenchError(Exception):
    """Base of all errors that end a command with a plain message instead of a traceback.

    Attributes:
        exit_code: what the command exits with.
    """

    exit_code = 1


class UsageError(TrialbenchError):
    """Wrong arguments, a wrong workload or session file, a folder that is not there."""

    exit_code = 2


class ServerError(TrialbenchError):
    """The server, hub or registry cannot be reached, or answers what cannot be used."""

    exit_code = 4
