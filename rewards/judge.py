"""From a completion to its verdict: the rule for truncated ones, the prompt's verifier, retries, and checks of what it says."""

from __future__ import annotations

import time
from collections.abc import Mapping
from numbers import Real
from typing import Any

from ..records import Completion, Prompt, Verdict
from . import registry
from .verifier import Verifier, one_line, scored, skipped, verifier_failed

TRUNCATED = ("zero", "score", "mask")


class Judge:
    """Holds the verifiers that its prompts name; not for use by several threads at once.

    verifier, options, truncated: the `reward` section; options belong to that verifier, others run with their defaults.
    timeout, retries: of the `verifier` section. Raises ValueError for settings that do not exist.
    """

    def __init__(
        self,
        verifier: str = "math",
        options: Mapping[str, Any] | None = None,
        truncated: str = "zero",
        timeout: float = 5.0,
        retries: int = 2,
    ) -> None:
        if truncated not in TRUNCATED:
            raise ValueError(f"reward.truncated is {truncated!r}, wanted one of {', '.join(TRUNCATED)}")
        if retries < 0:
            raise ValueError(f"verifier.retries is {retries}, wanted 0 or more")
        registry.check(verifier, options or {})
        self._default, self._options = verifier, dict(options or {})
        self._truncated, self._timeout, self._retries = truncated, timeout, retries
        self._verifiers: dict[str, Verifier] = {}

    def judge(self, prompt: Prompt, completion: Completion) -> Verdict:
        """The verdict, with the seconds it took. Raises ValueError only when the prompt names a verifier that does not exist."""
        start = time.perf_counter()
        verdict = self._judged(prompt, completion)
        seconds = time.perf_counter() - start
        return Verdict(verdict.status, verdict.score, verdict.reason, seconds, verdict.components)

    def close(self) -> None:
        """Ends what the verifiers started."""
        for verifier in self._verifiers.values():
            verifier.close()
        self._verifiers.clear()

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _judged(self, prompt: Prompt, completion: Completion) -> Verdict:
        truncated = completion.finish_reason != "stop"  # by length or by its deadline
        if truncated and self._truncated == "zero":
            return scored(0.0, "truncated")
        if truncated and self._truncated == "mask":
            return skipped("truncated")
        verdict = self._attempt(prompt, completion.text, truncated)
        for _ in range(self._retries):
            if verdict.status != "verifier_failed":
                break
            verdict = self._attempt(prompt, completion.text, truncated)
        return verdict

    def _attempt(self, prompt: Prompt, text: str, truncated: bool) -> Verdict:
        name = prompt.verifier or self._default
        if name not in self._verifiers and name not in registry.known():
            raise ValueError(f"prompt {prompt.id!r}: {registry.unknown(name)}")
        try:
            verifier = self._verifiers.get(name) or self._created(name)
            return _checked(verifier.score(text, prompt, truncated=truncated), name, prompt.id)
        except Exception as error:  # noqa: BLE001 - the border to foreign code: whatever it raises must not end the run
            return verifier_failed(
                f"verifier {name!r} raised {type(error).__name__} on prompt {prompt.id!r}: {_said(error)}"
            )

    def _created(self, name: str) -> Verifier:
        options = self._options if name == self._default else {}
        self._verifiers[name] = registry.create(name, options, self._timeout)
        return self._verifiers[name]


def _said(error: Exception) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - the border to foreign code: an exception's own text may raise too
        return "(no message)"


def _checked(verdict: Any, name: str, prompt: str) -> Verdict:
    """`verdict` when it is a sound one, its score a float and its reason one line; else the verifier's failure."""
    wrong = _wrong(verdict)
    if wrong:
        return verifier_failed(f"verifier {name!r} on prompt {prompt!r} returned {wrong}")
    score = float(verdict.score) if verdict.status == "scored" else None
    reason = one_line(str(verdict.reason))
    if type(verdict.score) is type(score) and reason is verdict.reason:
        return verdict
    return Verdict(verdict.status, score, reason, 0.0, verdict.components)


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
    if is_number and 0.0 <= score <= 1.0:  # false for nan
        return ""
    return f"score {score!r}, wanted a finite number from 0 to 1"
