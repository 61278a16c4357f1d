"""Python programs, judged by what they return or print.

Two processes: the judge holds tests and expected values; the candidate's process gets the code and the arguments of each call, and
hands back values. No foreign code runs in this process or in the judge.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..records import Prompt, Verdict
from .code_extraction import program
from .judge_link import JudgeLate, JudgeLink, JudgeLost, JudgeRefused
from .limits import MIB, Limits
from .sandbox import TIERS
from .steps import heard, note
from .verifier import one_line, scored, verifier_failed

_MOST = 1 << 19  # characters of a program; escaped, at most 12 bytes each, they still fit a frame


class CodeTests:
    """The verifier `code`.

    timeout: seconds of all calls or all cases of one program. memory_mb, output_kb: of one process. tier: auto, bubblewrap or
    landlock. unsafe: run foreign code under limits alone, with this user's rights; every reason says so.
    """

    name = "code"

    def __init__(
        self,
        *,
        timeout: float = 5.0,
        memory_mb: int = 1024,
        output_kb: int = 4096,
        tier: str = "auto",
        unsafe: bool = False,
    ) -> None:
        if tier not in ("auto", *TIERS):
            raise ValueError(f"option 'tier' of verifier 'code' is {tier!r}, wanted auto, {' or '.join(TIERS)}")
        if not isinstance(memory_mb, int) or memory_mb < 128:
            raise ValueError(f"option 'memory_mb' of verifier 'code' is {memory_mb!r}, wanted 128 or more")
        if not isinstance(output_kb, int) or output_kb < 1:
            raise ValueError(f"option 'output_kb' of verifier 'code' is {output_kb!r}, wanted 1 or more")
        self._limits = Limits(wall=timeout, memory=memory_mb * MIB, output=output_kb << 10)
        self._unsafe = unsafe
        self._link = JudgeLink("unsafe" if unsafe else tier)
        self._refusal = ""

    def start(self) -> str:
        """Starts judge and sandbox, and names the tier. Raises JudgeRefused where no sandbox holds, JudgeLost."""
        self._link.start()
        return str(self._link.about["tier"])

    def score(self, response: str, prompt: Prompt, *, truncated: bool = False) -> Verdict:
        """1 when the program passes every test of the row, else 0 with the reason."""
        tests = tests_of(prompt)
        if not tests:
            return scored(0.0, "the row has no tests")
        wrong = malformed(tests)
        if wrong:
            return verifier_failed(f"tests of prompt {prompt.id!r}: {wrong}")
        code = program(response, str(tests.get("entry_point", "")))
        note("extraction", "a program of {} characters in a response of {}:\n{}", len(code), len(response), code)
        if not code.strip():
            return scored(0.0, "no program in the response")
        if len(code) > _MOST:
            return scored(0.0, f"the program is longer than {_MOST} characters")
        return self._judged(code, dict(tests))

    def close(self) -> None:
        """Ends the judge, and with it sandbox and candidate."""
        self._link.close()

    def _judged(self, code: str, tests: dict[str, Any]) -> Verdict:
        if self._refusal:
            return verifier_failed(self._refusal)
        job = {"code": code, "tests": tests, "limits": self._limits.to_dict(), "explain": heard()}
        note("limits", "{}", self._limits)
        try:
            outcome = self._link.ask(job, self._limits.wall)
        except JudgeLate as late:
            return scored(0.0, self._noted(str(late)))
        except JudgeLost as lost:
            return verifier_failed(self._noted(str(lost)))
        except JudgeRefused as refused:
            self._refusal = f"no sandbox, so no code is run (option unsafe=true would): {refused}"
            return verifier_failed(self._refusal)
        note("sandbox", "{}", self._link.about)
        for stage, found in outcome.get("steps", ()):
            note(stage, "{}", found)
        reason = self._noted(str(outcome["reason"]))
        return verifier_failed(reason) if outcome["score"] is None else scored(float(outcome["score"]), reason)

    def _noted(self, reason: str) -> str:
        return one_line(f"unsafe: {reason}" if self._unsafe else reason)


def tests_of(prompt: Prompt) -> Any:
    """The row's tests: the field of that name, or JSON in the ground truth; a text that is no JSON stays what it is."""
    tests = prompt.fields.get("tests") or prompt.ground_truth
    if isinstance(tests, str):
        try:
            return json.loads(tests) if tests.strip() else None
        except ValueError:
            return tests
    return tests


def malformed(tests: Any) -> str:
    """What is wrong with the row's tests; empty when nothing is."""
    if not isinstance(tests, Mapping):
        return f"{type(tests).__name__}, wanted an object with kind, and code or cases"
    if tests.get("kind") == "assert":
        for key in ("entry_point", "code"):
            if not isinstance(tests.get(key), str) or not tests[key].strip():
                return f"{key} is {tests.get(key)!r}, wanted a text"
        return "" if isinstance(tests.get("prelude") or "", str) else "prelude is no text"
    if tests.get("kind") != "stdin":
        return f"kind is {tests.get('kind')!r}, wanted assert or stdin"
    cases = tests.get("cases")
    if not isinstance(cases, (list, tuple)) or not cases:
        return "cases is empty or no list"
    for case in cases:
        if not isinstance(case, Mapping) or not all(isinstance(case.get(key), str) for key in ("input", "output")):
            return "a case without the texts input and output"
    return ""
