"""Programs that run in a SandboxFusion service (its `/run_code`), judged by the tests of the row, as the verifier `code` takes them.

Input/output cases are compared here, one request each. Assertions run over there, in the candidate's own process, and count as passed
when a number drawn for this run is printed last: a program that reads its own source can print it too, so this is weaker than the
verifier `code`, whose tests never meet the candidate.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..records import Prompt, Verdict
from .code_extraction import program
from .code_tests import malformed, tests_of
from .endpoint import Channel
from .http_post import NoAnswer
from .program_tests import lines
from .spec import Spec
from .verifier import Answer, one_line, scored, verifier_failed

_MARGIN = 5.0  # seconds for the way there and back, and for the queue before the program


class _Fault(Exception):
    """What the program did wrong."""


class SandboxFusion:
    """The verifier of an address that ends in /run_code.

    timeout: seconds of each run. language: as the service names it. memory_mb: of a run, 0: the service's own limit. token_env,
    headers, attempts, concurrency: as for Endpoint.
    """

    grouped = False

    def __init__(
        self,
        spec: Spec,
        *,
        timeout: float = 5.0,
        language: str = "python",
        memory_mb: int = 0,
        token_env: str = "",
        headers: Mapping[str, str] | None = None,
        attempts: int = 3,
        concurrency: int = 16,
    ) -> None:
        self.name = spec.label
        self._timeout, self._language, self._memory_mb = timeout, language, memory_mb
        self._channel = Channel(spec, timeout + _MARGIN, token_env, headers or {}, attempts, concurrency)

    def score(self, response: str, prompt: Prompt, *, truncated: bool = False) -> Verdict:
        """1 when the program passes every test of the row, else 0 with the reason; no answer from the service is no verdict."""
        tests = tests_of(prompt)
        if not tests:
            return scored(0.0, "the row has no tests")
        wrong = malformed(tests)
        if wrong:
            return verifier_failed(f"{self.name} on row {prompt.id!r}: tests: {wrong}")
        code = program(response, str(tests.get("entry_point", "")))
        if not code.strip():
            return scored(0.0, "no program in the response")
        try:
            passed = self._cases(code, tests) if tests["kind"] == "stdin" else self._assertions(code, tests)
        except _Fault as fault:
            return scored(0.0, one_line(str(fault)))
        except NoAnswer as why:
            return verifier_failed(f"{self.name} on row {prompt.id!r}: {why}")
        return scored(1.0, passed)

    def score_all(self, answers: Sequence[Answer]) -> list[Verdict]:
        """One verdict an answer, in order."""
        return self._channel.map(lambda one: self.score(one.text, one.prompt, truncated=one.truncated), answers)

    def close(self) -> None:
        """Nothing to end."""

    def _cases(self, code: str, tests: Mapping[str, Any]) -> str:
        for number, case in enumerate(tests["cases"], 1):
            try:
                output = self._run(code, case["input"])
            except _Fault as fault:
                raise _Fault(f"case {number}: {fault}") from fault
            if lines(_bytes(output)) != lines(_bytes(case["output"])):
                raise _Fault(f"case {number}: another output")
        return f"all {len(tests['cases'])} cases passed"

    def _assertions(self, code: str, tests: Mapping[str, Any]) -> str:
        mark = secrets.token_hex(16)
        parts = (
            tests.get("prelude") or "",
            code,
            tests["code"],
            f"check({tests['entry_point']})",
            f"print('\\n{mark}')",
        )
        printed = self._run("\n\n".join(parts), "").rstrip().rpartition("\n")[2]
        if printed != mark:
            raise _Fault("the program ended before its tests did")
        return "all tests passed"

    def _run(self, code: str, stdin: str) -> str:
        """What the program printed. Raises _Fault, NoAnswer."""
        body: dict[str, Any] = {
            "code": code, "stdin": stdin, "language": self._language, "run_timeout": self._timeout,
            "compile_timeout": self._timeout,
        }  # fmt: skip
        if self._memory_mb:
            body["memory_limit_MB"] = self._memory_mb
        start = time.monotonic()
        reply = self._channel.ask(body)
        if not isinstance(reply, Mapping) or reply.get("status") not in ("Success", "Failed"):
            said = f"{reply.get('status')}: {reply.get('message')}" if isinstance(reply, Mapping) else repr(reply)
            raise NoAnswer(f"the sandbox failed after {time.monotonic() - start:.1f} s: {said:.120}")
        for step in ("compile_result", "run_result"):
            _check(step, reply.get(step))
        run = reply.get("run_result")
        if not isinstance(run, Mapping):
            raise NoAnswer("the sandbox says nothing of the run")
        return str(run.get("stdout") or "")


def _check(step: str, result: Any) -> None:
    """Raises _Fault unless the step ended well."""
    if not isinstance(result, Mapping):
        return
    status, code = result.get("status"), result.get("return_code")
    if status == "TimeLimitExceeded":
        raise _Fault("the program ran into the time limit")
    if status != "Finished" or code not in (0, None):
        last = str(result.get("stderr") or "").strip().rpartition("\n")[2]
        raise _Fault(f"{'compiling' if step == 'compile_result' else 'the program'} failed (exit code {code}) {last}")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
