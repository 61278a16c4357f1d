"""Answers that must be the ground truth, character for character."""

from __future__ import annotations

from ..records import Prompt, Verdict
from . import extraction
from .verifier import scored


class Exact:
    """The verifier `exact`. boxed: the answer is the content of the last `\\boxed{...}`; else it is the last line."""

    name = "exact"

    def __init__(self, *, timeout: float = 5.0, boxed: bool = True) -> None:
        self._boxed = boxed  # nothing here can take long, so that the timeout has no use

    def score(self, response: str, prompt: Prompt, *, truncated: bool = False) -> Verdict:
        """1 when the answer is `prompt.ground_truth` but for surrounding spaces."""
        gold = prompt.ground_truth.strip()
        if not gold:
            return scored(0.0, "the ground truth is empty")
        text = extraction.after_reasoning(response)
        answer, reason = extraction.boxed(text) if self._boxed else extraction.last_line(text)
        if answer is None:
            return scored(0.0, reason)
        return scored(1.0, "equal as text") if answer == gold else scored(0.0, "not equal")

    def close(self) -> None:
        """Nothing to end."""
