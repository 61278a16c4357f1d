"""Asking a verifier, whoever wrote it: what it raises or returns in place of a sound verdict is the verifier's failure."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from ..records import Verdict
from .verifier import Answer, Verifier, one_line, verifier_failed


def asked(verifier: Verifier, name: str, answers: Sequence[Answer]) -> list[Verdict]:
    """One sound verdict an answer, in order; asked for together where the verifier can. name: for messages."""
    if not hasattr(
        verifier, "score_all"
    ):  # a BatchVerifier; asking for the protocol itself costs more than an integer's judging
        return [_one(verifier, name, answer) for answer in answers]
    start = time.perf_counter()
    try:
        verdicts = list(verifier.score_all(answers))
    except Exception as error:  # noqa: BLE001 - the border to foreign code: whatever it raises must not end the run
        return [raised(error, name, answer) for answer in answers]
    if len(verdicts) != len(answers):
        why = f"verifier {name!r} returned {len(verdicts)} verdicts for {len(answers)} answers"
        return [verifier_failed(why)] * len(answers)
    share = (time.perf_counter() - start) / len(answers)
    return [checked(verdict, name, answer.prompt.id, share) for verdict, answer in zip(verdicts, answers, strict=True)]


def raised(error: Exception, name: str, answer: Answer) -> Verdict:
    """The verdict on an answer at which a verifier raised."""
    return verifier_failed(
        f"verifier {name!r} raised {type(error).__name__} on prompt {answer.prompt.id!r}: {_said(error)}"
    )


def checked(verdict: Any, name: str, prompt: str, seconds: float = 0.0) -> Verdict:
    """`verdict` when it is a sound one, its score a float and its reason one line; else the verifier's failure. seconds: that it took,
    where it does not say so itself."""
    wrong = _wrong(verdict)
    if wrong:
        return verifier_failed(f"verifier {name!r} on prompt {prompt!r} returned {wrong}")
    score = float(verdict.score) if verdict.status == "scored" else None
    reason = one_line(str(verdict.reason))
    components = {one_line(key): float(value) for key, value in verdict.components.items()}
    return Verdict(verdict.status, score, reason, verdict.seconds or seconds, components)


def _one(verifier: Verifier, name: str, answer: Answer) -> Verdict:
    start = time.perf_counter()
    try:
        said = verifier.score(answer.text, answer.prompt, truncated=answer.truncated)
        return checked(said, name, answer.prompt.id, time.perf_counter() - start)
    except Exception as error:  # noqa: BLE001 - the border to foreign code: whatever it raises must not end the run
        return raised(error, name, answer)


def _said(error: Exception) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - the border to foreign code: an exception's own text may raise too
        return "(no message)"


def _wrong(verdict: Any) -> str:
    """What a verifier returned in place of a sound verdict, and what was wanted; empty when it is one."""
    if not isinstance(verdict, Verdict):
        return f"{type(verdict).__name__}, wanted a Verdict"
    if verdict.status in ("verifier_failed", "skipped"):
        return ""
    if verdict.status != "scored":
        return f"status {verdict.status!r}, wanted scored, verifier_failed or skipped"
    score: Any = verdict.score
    is_number = type(score) is float or isinstance(score, Real)
    if not (is_number and 0.0 <= score <= 1.0):  # true for nan
        return f"score {score!r}, wanted a finite number from 0 to 1"
    return (
        ""
        if not verdict.components or _are_components(verdict.components)
        else "components that are no finite numbers by name"
    )


def _are_components(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(key, str) and isinstance(one, Real) and math.isfinite(one) for key, one in value.items()
    )
