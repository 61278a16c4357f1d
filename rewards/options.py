"""What a command line says of a reward: a name, switches behind it, and options as further words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from . import registry


def parse(spec: str, words: Sequence[str] = ()) -> tuple[str, dict[str, Any]]:
    """Name and options of a reward, checked. Raises ValueError, one line.

    >>> parse("math:lenient", ["answer_after=####"])
    ('math', {'lenient': True, 'answer_after': '####'})

    A value is JSON where it can be read as such (true, 3, 0.5), else the text itself. A switch behind a colon is an option that is
    set to true; in anything but a name of the registry (`rewards.py:grade`, a URL) a colon is part of the name.
    """
    name, _, switches = spec.partition(":")
    options: dict[str, Any] = {}
    if name in registry.known():
        options = {switch: True for switch in switches.split(":") if switch}
    else:
        name = spec
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ValueError(f"option of the reward: got {word!r}, wanted key=value")
        options[key] = _value(value)
    registry.check(name, options)
    return name, options


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
