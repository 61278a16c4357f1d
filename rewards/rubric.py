"""A weighted sum of verifiers.

The score is sum(weight * score) / sum(weight) over the parts that scored, so that it stays within 0..1 whatever the weights are. A
part that skips an answer (a function that returned None) is left out of both sums; when every part with a weight skips, the rubric
skips. One part that failed makes the whole verifier_failed, with that part's reason: a sum without it would be another reward. A part
of weight 0 is judged and recorded, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..records import Prompt, Verdict
from .asking import asked
from .verifier import Answer, BatchVerifier, Verifier, one_line, skipped, verifier_failed


@dataclass(frozen=True, slots=True)
class Part:
    """One verifier of a rubric. name: of its component score."""

    name: str
    weight: float
    verifier: Verifier


class Rubric:
    """The verifier `rubric`."""

    name = "rubric"

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = tuple(parts)

    @property
    def grouped(self) -> bool:
        """Whether a part needs all answers of a group at once."""
        return any(isinstance(p.verifier, BatchVerifier) and p.verifier.grouped for p in self._parts)

    def start(self) -> None:
        """Starts what the parts offer to start. Raises what they raise."""
        for part in self._parts:
            start = getattr(part.verifier, "start", None)
            if callable(start):
                start()

    def score(self, response: str, prompt: Prompt, *, truncated: bool = False) -> Verdict:
        """The verdict on one answer, which is a group of its own."""
        return self.score_all([Answer(prompt, response, truncated)])[0]

    def score_all(self, answers: Sequence[Answer]) -> list[Verdict]:
        """One verdict an answer, in order."""
        columns = [asked(part.verifier, part.name, answers) for part in self._parts]
        return [self._summed(verdicts) for verdicts in zip(*columns, strict=True)]

    def close(self) -> None:
        """Ends what the parts started."""
        for part in self._parts:
            part.verifier.close()

    def _summed(self, verdicts: Sequence[Verdict]) -> Verdict:
        judged = list(zip(self._parts, verdicts, strict=True))
        for part, verdict in judged:
            if verdict.status == "verifier_failed":
                return verifier_failed(f"{part.name}: {verdict.reason}")
        parts = [(part, verdict, verdict.score) for part, verdict in judged if verdict.score is not None]
        total = sum(part.weight for part, _, _ in parts)
        components = {part.name: score for part, _, score in parts}
        for part, verdict, _ in parts:
            components |= {f"{part.name}.{name}": value for name, value in verdict.components.items()}
        if not total:
            return skipped("; ".join(f"{part.name}: {verdict.reason}" for part, verdict in judged))
        score = sum(part.weight * score for part, _, score in parts) / total
        reason = "; ".join(f"{part.name} {score:g} ({verdict.reason})" for part, verdict, score in parts)
        return Verdict("scored", min(1.0, score), one_line(reason), sum(v.seconds for v in verdicts), components)
