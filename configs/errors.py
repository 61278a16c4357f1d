"""The error of a setting that cannot be used."""

from __future__ import annotations


class ConfigError(ValueError):
    """One line: the key or file, what came and what was wanted."""
