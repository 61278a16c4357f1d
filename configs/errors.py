"""The error of a setting that cannot be used."""

from __future__ import annotations


class ConfigError(ValueError):
    """One line: the key or file, what came and what was wanted."""


class RunError(RuntimeError):
    """A run that cannot go on, through no fault of the code: the message, one line, is for the person who started it."""
