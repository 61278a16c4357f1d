"""What a verifier is, and the three things it can say.

A verdict is scored, verifier_failed or skipped, and never one dressed up as another: an answer that is wrong, malformed or
runs into a limit scores 0; a verifier that breaks says so and carries no score; a completion that policy leaves out is skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from ..records import Prompt, Verdict

REASON_CHARS = 300  # a reason is a line for people, not a transcript


@runtime_checkable
class Verifier(Protocol):
    """Scores one response to one prompt. It may hold worker processes; `close` gives them back."""

    name: str

    def score(self, response: str, prompt: Prompt, *, truncated: bool = False) -> Verdict:
        """A verdict on `response`, any text at all, against `prompt.ground_truth`; `truncated`: its end was cut off."""
        ...

    def close(self) -> None:
        """Ends what the verifier started. Closing twice is fine; scoring afterwards may start it again."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """One response to be judged among others, with what is known of it besides its text."""

    prompt: Prompt
    text: str
    truncated: bool = False
    group: str = ""  # answers to one prompt that belong together share it: the request's uid
    number: int = 0  # within its group
    token_ids: Sequence[int] | np.ndarray = ()  # int [tokens] of the response; empty when they are not known
    prompt_ids: Sequence[int] | np.ndarray = ()  # of the prompt; the same


@runtime_checkable
class BatchVerifier(Verifier, Protocol):
    """A verifier that may be asked about several answers at once: because one call serves them all, or side by side."""

    grouped: (
        bool  # whether an answer's score depends on the others of its group, so that they must be asked for together
    )

    def score_all(self, answers: Sequence[Answer]) -> list[Verdict]:
        """One verdict an answer, in order."""
        ...


def scored(score: float, reason: str) -> Verdict:
    """The verdict on an answer that was judged: 0..1."""
    return Verdict("scored", score, reason)


def verifier_failed(reason: str) -> Verdict:
    """The verdict of a verifier that could not judge; says nothing of the answer."""
    return Verdict("verifier_failed", None, one_line(reason))


def skipped(reason: str) -> Verdict:
    """The verdict on a completion that is left out by rule."""
    return Verdict("skipped", None, one_line(reason))


def one_line(text: str) -> str:
    """`text` as printable ASCII on one line of at most REASON_CHARS characters, whatever it held."""
    if len(text) <= REASON_CHARS and text.isascii() and text.isprintable():
        return text
    flat = " ".join(text[: 4 * REASON_CHARS].split())
    flat = flat.encode("ascii", "backslashreplace").decode()
    flat = "".join(char if char.isprintable() else repr(char)[1:-1] for char in flat)
    return flat if len(flat) <= REASON_CHARS else flat[: REASON_CHARS - 3] + "..."
