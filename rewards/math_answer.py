r"""Mathematical answers: a strict reading of what stands in the last `\boxed{...}`.

Plain integers are decided in microseconds and most other answers without leaving the process; the rest goes to one checker
process with a time and a memory limit. Running into a limit is the answer's fault and scores 0; a checker that dies is not.
"""

from __future__ import annotations

import time

from ..records import Prompt, Verdict
from . import extraction
from .comparison import compare, read_gold
from .rational import integer
from .steps import note
from .verifier import one_line, scored, verifier_failed
from .worker import AnswerLimit, Worker, WorkerFailed

_SAME_TEXT = scored(1.0, "equal as text")
_SAME_INTEGER = scored(1.0, "equal as exact numbers")
_OTHER_INTEGER = scored(0.0, "not equal")
_NO_GOLD = scored(0.0, "the ground truth is empty")


class MathAnswer:
    """The verifier `math`.

    timeout: seconds of algebra per answer. answer_after: the answer follows the last such mark on its line ("####") instead of
    standing in a box. lenient: without a box or mark the whole short response, or its last number, is the answer.
    """

    name = "math"

    def __init__(self, *, timeout: float = 5.0, answer_after: str = "", lenient: bool = False) -> None:
        self._timeout, self._mark, self._lenient = timeout, answer_after, lenient
        self._worker = Worker(timeout)

    def score(self, response: str, prompt: Prompt, *, truncated: bool = False) -> Verdict:
        """1 when the answer equals `prompt.ground_truth`, else 0 with the reason."""
        gold = prompt.ground_truth.strip()
        if not gold:
            return _NO_GOLD
        answer, reason = self._answer(response)
        if answer is None:
            return scored(0.0, reason)
        note("text", "answer {!r}, ground truth {!r}", answer, gold)
        if answer == gold:
            return _SAME_TEXT
        ours, theirs = integer(gold), integer(answer)
        note("integers", "answer {}, ground truth {} (None: not a plain integer)", theirs, ours)
        if ours is not None and theirs is not None:
            return _SAME_INTEGER if ours == theirs else _OTHER_INTEGER
        try:
            finding = compare(answer, read_gold(self._bare(gold)), _Budget(self._worker, self._timeout))
        except AnswerLimit as limit:
            return scored(0.0, f"the answer ran into the {limit}")
        except WorkerFailed as error:
            return verifier_failed(str(error))
        return scored(float(finding.equal), one_line(finding.reason))

    def close(self) -> None:
        """Ends the checker process."""
        self._worker.close()

    def _answer(self, response: str) -> extraction.Extract:
        text = extraction.after_reasoning(response)
        note("reasoning", "the answer is looked for in {} of the response's {} characters", len(text), len(response))
        found = extraction.after_mark(text, self._mark) if self._mark else extraction.boxed(text)
        note("extraction", "after the last {!r}: {!r} {}", self._mark or "\\boxed", *found)
        if found[0] is None and self._lenient:
            found = extraction.loose(text)
            note("lenient", "a short text, or the last number: {!r} {}", *found)
        return found

    def _bare(self, gold: str) -> str:
        """The ground truth's own answer when it is a whole solution."""
        if "\\boxed" in gold:
            return extraction.boxed(gold)[0] or gold
        if self._mark and self._mark in gold:
            return extraction.after_mark(gold, self._mark)[0] or gold
        return gold


class _Budget:
    """The worker within the seconds that one answer has in all."""

    def __init__(self, worker: Worker, seconds: float) -> None:
        self._worker, self._seconds = worker, seconds

    def equal(self, kind: str, gold: str, answer: str) -> bool:
        self._worker.start()
        start = time.monotonic()
        note(
            "worker",
            "checker process {} is asked: {} {!r}, ground truth {!r}",
            self._worker.started,
            kind,
            answer,
            gold,
        )
        try:
            equal = self._worker.equal(kind, gold, answer, self._seconds)
        except (AnswerLimit, WorkerFailed) as error:
            note("worker", "after {:.3f} s: {}", time.monotonic() - start, error)
            raise
        finally:
            self._seconds -= time.monotonic() - start
        note("worker", "after {:.3f} s: {}", time.monotonic() - start, "equal" if equal else "not equal")
        return equal
