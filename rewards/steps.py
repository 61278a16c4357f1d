"""What a judgement does, step by step, for a person who asks why. While nobody listens a step costs one look.

The code that decides notes its own steps; nothing here decides or repeats anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

MOST = 10_000  # steps; later ones are not kept
_heard: ContextVar[list[Step] | None] = ContextVar("steps", default=None)


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its stage in a word or two, and what was found there."""

    stage: str
    found: str


@contextmanager
def listening() -> Iterator[list[Step]]:
    """Collects the steps that are noted inside the block, in order, by this thread."""
    steps: list[Step] = []
    token = _heard.set(steps)
    try:
        yield steps
    finally:
        _heard.reset(token)


def note(stage: str, form: str, *values: Any) -> None:
    """Notes a step: `form` with the values for its braces. Formatting waits for a listener."""
    steps = _heard.get()
    if steps is not None and len(steps) < MOST:
        steps.append(Step(stage, form.format(*values)))


def heard() -> bool:
    """Whether anybody listens: for steps that cost something to find out."""
    return _heard.get() is not None
