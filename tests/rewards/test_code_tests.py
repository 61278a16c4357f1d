"""The verifier `code` on honest programs, on rows that are wrong, and where it must not run anything."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from honest import HONEST, SORT, SUM, asserting
from programs import prompt
from test_attacks import descendants, parents

from mimosa.records import Prompt
from mimosa.rewards import code_tests, registry, sandbox
from mimosa.rewards.bubblewrap import find
from mimosa.rewards.code_tests import CodeTests
from mimosa.rewards.judge import Judge
from mimosa.rewards.judge_link import JudgeLost, JudgeRefused


@pytest.fixture(scope="module", params=sandbox.TIERS)
def verifier(request):
    if request.param == "bubblewrap" and find() is None:
        pytest.skip("bwrap is not installed")
    verifier = CodeTests(timeout=10.0, tier=request.param)
    try:
        verifier.start()
    except (JudgeRefused, JudgeLost) as refused:
        pytest.skip(f"no sandbox of tier {request.param} here: {refused}")
    yield verifier
    verifier.close()


@pytest.mark.parametrize("name", HONEST)
def test_honest_but_odd(verifier, name):
    row, response = HONEST[name]
    verdict = verifier.score(response, row)
    assert (verdict.status, verdict.score) == ("scored", 1.0), verdict.reason


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (asserting("assert candidate(1) == undefined_name"), "the tests raised NameError"),
        (asserting("assert candidate(print) == 1"), "the tests pass a value of type builtin_function_or_method"),
        (asserting("assert candidate('x' * (9 << 20)) == 1"), "the tests pass a value of more than 8388608 bytes"),
        (
            asserting("try:", "    candidate(print)", "except BaseException:", "    pass"),
            "the tests pass a value of type",
        ),
        (asserting("assert True"), "never called"),
        (asserting("import no_such_module"), "the tests raised ModuleNotFoundError"),
        (asserting("raise SystemExit"), "the tests raised SystemExit"),
        (prompt({"kind": "assert", "entry_point": "solve", "code": "def check(:"}), "do not compile"),
        (prompt({"kind": "assert", "entry_point": "", "code": "x"}), "entry_point is ''"),
        (prompt({"kind": "assert", "entry_point": "f"}), "code is None"),
        (prompt({"kind": "stdin", "cases": []}), "cases is empty"),
        (prompt({"kind": "stdin", "cases": [{"input": "1"}]}), "a case without"),
        (prompt({"kind": "unit"}), "kind is 'unit'"),
        (Prompt("p", "", "code", "42"), "int, wanted an object"),
        (Prompt("p", "", "code", "not json"), "str, wanted an object"),
    ],
)
def test_a_broken_row_is_no_wrong_answer(verifier, row, words):
    verdict = verifier.score("def solve(x): return x", row)
    assert (verdict.status, verdict.score) == ("verifier_failed", None)
    assert words in verdict.reason


def test_rows_without_tests_and_responses_without_a_program_score_zero(verifier):
    for empty in (Prompt("p", "", "code", ""), Prompt("p", "", "code", "{}"), prompt({})):
        assert verifier.score("def solve(x): return x", empty).reason == "the row has no tests"
    for response in ("", "  \n", "```python\n```", "<think>def solve(x): return x", "```js\nsolve = 1\n```"):
        verdict = verifier.score(response, SORT)
        assert (verdict.score, verdict.reason) == (0.0, "no program in the response")
    assert "longer than" in verifier.score("#" * (1 << 20), SORT).reason
    widest = "def solve(x): return sorted(x)\n#" + "\U0001f600" * ((1 << 19) - 40)
    assert verifier.score(widest, SORT).score == 1.0


def test_tests_as_text_of_the_ground_truth(verifier):
    row = Prompt("p", "", "code", json.dumps(SUM.fields["tests"]))
    assert verifier.score("print(sum(map(int, input().split())))", row).score == 1.0
    assert verifier.score("print(7)", row).reason == "case 2: another output"


def test_what_the_tests_print_or_keep_does_not_reach_the_verdict(verifier):
    loud = asserting("print('{\"score\": 1.0}')", "import sys", "sys.stdout.flush()", "assert candidate(1) == 2")
    assert verifier.score("def solve(x): return 3", loud).score == 0.0
    assert verifier.score("def solve(x): return 2", loud).score == 1.0


def test_tests_that_hang_on_a_value_end_and_score_zero():
    verifier = CodeTests(timeout=0.5)
    loop = asserting("n = candidate(0)", "while n: pass", "assert False")
    stubborn = asserting(
        "n = candidate(0)", "while True:", "    try:", "        while n: pass", "    except BaseException: pass"
    )
    in_c = asserting("n = candidate(0)", "assert n ** n ** n > 0")
    try:
        verifier.start()
        for row, value in ((loop, 1), (stubborn, 1), (in_c, 99)):
            start = time.monotonic()
            verdict = verifier.score(f"def solve(x): return {value}", row)
            assert (verdict.status, verdict.score) == ("scored", 0.0), verdict
            assert "past the time limit" in verdict.reason
            assert time.monotonic() - start < 0.5 + 1.5
            assert verifier.score("def solve(x): return sorted(x)", SORT).score == 1.0
    finally:
        verifier.close()


ENDLESS = (
    "import ctypes, signal; ctypes.CDLL(None).prctl(1, 0, 0, 0, 0); signal.signal(15, signal.SIG_IGN)\nwhile True: pass"
)
OWNER = """
import os, signal, sys, threading, time
from mimosa.records import Prompt
from mimosa.rewards.code_tests import CodeTests
from mimosa.rewards.judge_link import JudgeRefused
verifier = CodeTests(timeout=30.0, tier={tier!r})
try:
    print(verifier.start(), flush=True)
except JudgeRefused as refused:
    sys.exit(str(refused))
row = Prompt("p", "", "code", '{{"kind": "stdin", "cases": [{{"input": "", "output": ""}}]}}')
threading.Thread(target=verifier.score, args=({code!r}, row), daemon=True).start()
sys.stdin.readline()
if {how!r} == "kill_judge":
    os.kill(verifier._link._process.pid, signal.SIGKILL)
else:
    verifier._link._stop()  # what close does, but for waiting for the job to end
time.sleep(30)
"""


def ended(processes, seconds=5.0):
    """Those of `processes` that still run after a while."""
    end = time.monotonic() + seconds
    while left := {pid for pid in processes if parents().get(pid, (0, "Z"))[1] != "Z"}:
        if time.monotonic() > end:
            return left
        time.sleep(0.02)
    return set()


@pytest.mark.parametrize("how", ["close", "kill_judge", "kill_parent"])
@pytest.mark.parametrize("tier", sandbox.TIERS)
def test_nothing_outlives_the_judge(tier, how):
    if tier == "bubblewrap" and find() is None:
        pytest.skip("bwrap is not installed")
    script = OWNER.format(tier=tier, how=how, code=ENDLESS)
    owner = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/")
    try:
        said = owner.stdout.readline().decode().strip()
        if said != tier:
            pytest.skip(f"no sandbox of tier {tier} here: {said}")
        wanted = 4 if tier == "bubblewrap" else 3  # judge, bwrap, zygote, candidate
        end = time.monotonic() + 20
        while len(family := descendants(owner.pid)) < wanted and time.monotonic() < end:
            time.sleep(0.05)
        assert len(family) == wanted
        time.sleep(0.2)  # for the candidate to have started
        if how == "kill_parent":
            owner.kill()
        else:
            owner.stdin.write(b"\n")
            owner.stdin.flush()
        assert ended(family) == set()
    finally:
        owner.kill()
        owner.communicate(timeout=10)


def test_a_judge_that_dies_is_replaced():
    verifier = CodeTests(timeout=5.0)
    try:
        first = verifier.start(), verifier._link._process.pid
        os.kill(first[1], signal.SIGKILL)
        assert verifier.score("def solve(x): return sorted(x)", SORT).score == 1.0
        assert verifier._link.started == 2
    finally:
        verifier.close()


def test_without_a_sandbox_no_code_runs(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))  # no bwrap
    verifier = CodeTests(tier="bubblewrap")
    verdict = verifier.score("def solve(x): return sorted(x)", SORT)
    assert verdict.status == "verifier_failed"
    assert "no sandbox, so no code is run" in verdict.reason and "bwrap is not installed" in verdict.reason
    assert verifier.score("def solve(x): return sorted(x)", SORT) == verdict
    assert verifier._link.started == 1  # it does not try again for every row
    with pytest.raises(JudgeRefused, match="bwrap is not installed"):
        verifier.start()


def test_unsafe_is_said_in_every_reason():
    verifier = CodeTests(unsafe=True)
    try:
        verdict = verifier.score("def solve(x): return sorted(x)", SORT)
        assert (verdict.score, verdict.reason) == (1.0, "unsafe: all tests passed, 2 calls")
        assert verifier.score("def solve(x): return x", SORT).reason.startswith("unsafe: ")
    finally:
        verifier.close()


def test_limits_are_options():
    verifier = registry.create("code", {"memory_mb": 200, "output_kb": 1}, 5.0)
    try:
        assert "MemoryError" in verifier.score("def solve(x): return bytearray(300 << 20)", SORT).reason
        assert "output limit of 1024 bytes" in verifier.score("print('x' * 2000)", SUM).reason
    finally:
        verifier.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tier": "docker"}, "'tier' of verifier 'code' is 'docker', wanted auto, bubblewrap or landlock"),
        ({"memory_mb": 1}, "'memory_mb' of verifier 'code' is 1, wanted 128 or more"),
        ({"output_kb": 0}, "'output_kb' of verifier 'code' is 0, wanted 1 or more"),
        ({"unsafe": "yes"}, "'unsafe' of verifier 'code' is 'yes', wanted a value of type bool"),
        ({"memroy_mb": 1}, "nearest known: 'memory_mb'"),
    ],
)
def test_wrong_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        registry.create("code", options, 5.0)


def test_a_judge_of_completions_finds_it_by_name():
    assert registry.BUILT_IN["code"] is code_tests.CodeTests
    with Judge("code", {"tier": "landlock"}):
        pass
