"""Programs judged through SandboxFusion's /run_code, by a server here that runs them as that service does."""

import subprocess
import sys

import pytest
from serving import serving

from mimosa.records import Prompt
from mimosa.rewards import registry
from mimosa.rewards.verifier import Answer

CASES = {"kind": "stdin", "cases": [{"input": "1 2\n", "output": "3\n"}, {"input": "5 6\n", "output": "11"}]}
ASSERT = {
    "kind": "assert",
    "entry_point": "add",
    "code": "def check(f):\n    assert f(1, 2) == 3\n    assert f(5, 6) == 11\n",
}
PROGRAM = "```python\nprint(sum(map(int, input().split())))\n```"
FUNCTION = "```python\ndef add(a, b):\n    return a + b\n```"


def run_code(body, handler):
    """What the service answers, from a plain subprocess."""
    assert handler.path == "/run_code" and body["language"] == "python"
    command = [sys.executable, "-I", "-S", "-c", body["code"]]
    try:
        done = subprocess.run(command, input=body["stdin"], capture_output=True, text=True, timeout=body["run_timeout"])
    except subprocess.TimeoutExpired:
        run = {"status": "TimeLimitExceeded", "return_code": None, "stdout": "", "stderr": ""}
        return {"status": "Failed", "message": "", "compile_result": None, "run_result": run}
    run = {"status": "Finished", "return_code": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
    return {
        "status": "Failed" if done.returncode else "Success",
        "message": "",
        "compile_result": None,
        "run_result": run,
    }


@pytest.fixture(scope="module")
def service():
    with serving(run_code) as address:
        yield f"{address}/run_code"


def judged(service, response, tests, timeout=20.0):
    return registry.create(service, {}, timeout).score(response, Prompt("row 7", "", "", "", fields={"tests": tests}))


@pytest.mark.parametrize(
    ("response", "tests", "score", "reason"),
    [
        (PROGRAM, CASES, 1.0, "all 2 cases passed"),
        (PROGRAM.replace("sum", "max"), CASES, 0.0, "case 1: another output"),
        (
            "```python\nraise ValueError('no')\n```",
            CASES,
            0.0,
            "case 1: the program failed (exit code 1) ValueError: no",
        ),
        (FUNCTION, ASSERT, 1.0, "all tests passed"),
        (FUNCTION.replace("+", "-"), ASSERT, 0.0, "the program failed (exit code 1) AssertionError"),
        ("```python\nimport sys\nsys.exit(0)\n```", ASSERT, 0.0, "the program ended before its tests did"),
        ("", CASES, 0.0, "no program in the response"),
    ],
)
def test_programs(service, response, tests, score, reason):
    verdict = judged(service, response, tests)
    assert (verdict.status, verdict.score, verdict.reason) == ("scored", score, reason)


def test_a_program_that_runs_into_the_limit_scores_0(service):
    verdict = judged(service, "```python\nwhile True: pass\n```", CASES, timeout=1.0)
    assert (verdict.score, verdict.reason) == (0.0, "case 1: the program ran into the time limit")


def test_several_at_once_keep_their_order(service):
    row = Prompt("r", "", "", "", fields={"tests": CASES})
    verifier = registry.create(service, {"concurrency": 4}, 20.0)
    verdicts = verifier.score_all([Answer(row, text) for text in (PROGRAM, "print(1)", PROGRAM)])
    assert [one.score for one in verdicts] == [1.0, 0.0, 1.0]


def test_a_sandbox_that_failed_is_no_verdict_on_the_program():
    with serving(lambda body, handler: {"status": "SandboxError", "message": "no slot"}) as address:
        verdict = judged(f"{address}/run_code", PROGRAM, CASES)
    assert verdict.status == "verifier_failed" and "SandboxError: no slot" in verdict.reason
    assert "on row 'row 7'" in verdict.reason


def test_tests_that_are_none_are_the_rows_fault(service):
    assert "tests: kind is 'x'" in judged(service, PROGRAM, {"kind": "x"}).reason
