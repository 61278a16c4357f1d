"""Every step of one judgement, as the code that takes the steps notes them."""

import json

import pytest

from mimosa.records import Prompt
from mimosa.rewards.explain import explain
from mimosa.rewards.math_answer import MathAnswer
from mimosa.rewards.steps import MOST, listening, note

CHECK = "def check(candidate):\n    for x in (1, 2):\n        assert candidate(x) == 2 * x\n    assert candidate(3, twice=True) == 12\n"
DOUBLE = {"kind": "assert", "entry_point": "double", "code": CHECK}
ECHO = {"kind": "stdin", "cases": [{"input": "3\n", "output": "6\n"}, {"input": "4\n", "output": "9\n"}]}


def steps(tmp_path, spec="math", row="", options=None, **columns):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        json.dumps({"id": "first", "response": "", "ground_truth": "0"})
        + "\n"
        + json.dumps({"id": "q", **columns})
        + "\n"
    )
    return explain(str(path), spec, options or {}, 20.0, row or "q")


def stages(text):
    return [line[:16].strip() for line in text.splitlines() if line[:1].strip()]


WHOLE = [
    "text",
    "integers",
    "canonical text",
    "hedges",
    "shape",
    "quantity",
    "exact numbers",
    "words",
    "guards",
    "worker",
    "worker",
]


@pytest.mark.parametrize(
    ("response", "truth", "passed", "verdict"),
    [
        ("no box", "43", 0, "scored, score 0: no \\boxed{...}"),
        ("<think>\\boxed{3}</think>\\boxed{42}", "42", 1, "scored, score 1: equal as text"),
        ("\\boxed{42}", "43", 2, "scored, score 0: not equal"),
        ("\\boxed{42\\pm 1}", "43", 4, "score 0: hedge: a plus-minus sign"),
        ("\\boxed{\\frac12}", "0.5", 7, "score 1: equal as exact numbers"),
        ("\\boxed{9^{9^{9}}x}", "x", 9, "score 0: compared as text only: a power tower"),
        ("\\boxed{2(x+1)}", "2x+2", 11, "score 1: equal by algebra"),
    ],
)
def test_the_path_of_a_mathematical_answer(tmp_path, response, truth, passed, verdict):
    text = steps(tmp_path, response=response, ground_truth=truth)
    assert stages(text) == ["row", "reward", "ground truth", "reasoning", "extraction", *WHOLE[:passed], "verdict"]
    assert verdict in text.splitlines()[-1]


def test_what_the_steps_of_an_answer_hold(tmp_path):
    text = steps(tmp_path, response="<think>so</think>\\boxed{2(x+1)}", ground_truth="2x+2")
    for said in ("line 2, id 'q'", "in 14 of the response's 31 characters", "'2(x+1)'", "checker process 1 is asked: value '2(x+1)'",
                 "nothing speaks against algebra", ": equal\n"):  # fmt: skip
        assert said in text
    lenient = steps(tmp_path, response="The sum is 42.", ground_truth="42", options={"lenient": True})
    assert "a short text, or the last number: '42'" in lenient


def test_every_test_of_a_program(tmp_path):
    right = "def double(x, twice=False):\n    print('noise')\n    return x * 4 if twice else x * 2\n"
    text = steps(tmp_path, "code", options={"unsafe": True}, response=f"```python\n{right}```", tests=DOUBLE)
    assert "'tier': 'unsafe'" in text
    assert stages(text)[-7:] == ["load", "call 1", "call 2", "passed", "call 3", "passed", "verdict"]
    assert "call 2          line 3 of the tests, 'assert candidate(x) == 2 * x': double(2) returned 4" in text
    assert (
        "call 3          line 4 of the tests, 'assert candidate(3, twice=True) == 12': double(3, twice=True) returned 12"
        in text
    )
    assert "score 1: unsafe: all tests passed, 3 calls" in text


@pytest.mark.parametrize(
    ("body", "said", "ending"),
    [
        ("x + 1", "double(2) returned 3", ["call 1", "call 2", "failed", "verdict"]),
        ("1 / 0", "double(1) raised ZeroDivisionError: division by zero", ["call 1", "failed", "verdict"]),
        (
            "__import__('os')._exit(0)",
            "double(1): the candidate ended its process (exit code 0)",
            ["call 1", "failed", "verdict"],
        ),
        ("10 ** 5000", "returned a value of type int that is too long to show", ["call 1", "failed", "verdict"]),
    ],
)
def test_a_failing_test_of_a_program(tmp_path, body, said, ending):
    text = steps(
        tmp_path, "code", options={"unsafe": True}, response=f"def double(x, twice=False): return {body}", tests=DOUBLE
    )
    assert said in text
    assert stages(text)[-len(ending) :] == ending
    assert "failed          line 3 of the tests, 'assert candidate(x) == 2 * x'" in text
    assert "score 0" in text.splitlines()[-1]


def test_every_case_of_a_program(tmp_path):
    text = steps(tmp_path, "code", options={"unsafe": True}, response="print(2 * int(input()))", tests=ECHO)
    assert "case 1          passed: input '3\\n', output b'6\\n', wanted '6\\n'" in text
    assert "case 2          failed: input '4\\n', output b'8\\n', wanted '9\\n'" in text
    assert "case 1          failed: input '3\\n': the program raised ZeroDivisionError" in steps(
        tmp_path, "code", options={"unsafe": True}, response="1 / 0", tests=ECHO
    )


def test_the_verdict_is_the_same_whether_anybody_listens(tmp_path):
    verifier = MathAnswer()
    prompt = Prompt("p", "", "math", "\\frac{1}{2}")
    for answer in ("0.5", "0.50 or 1", "50\\%", "x", "\\sqrt{\\frac14}"):
        plain = verifier.score(f"\\boxed{{{answer}}}", prompt)
        with listening():
            assert verifier.score(f"\\boxed{{{answer}}}", prompt) == plain
    verifier.close()


def test_a_function_of_ones_own(tmp_path):
    (tmp_path / "mine.py").write_text(
        "def f(data_source, solution_str, ground_truth): return {'score': 0.25, 'length': 3}\n"
    )
    text = steps(tmp_path, f"{tmp_path}/mine.py:f", response="abc", ground_truth="4")
    assert "'interface': 'verl'" in text and "part            length: 3" in text
    assert "verdict         scored, score 0.25" in text


def test_rows_that_cannot_be_judged_are_explained_too(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"id": "\\ud800\\u001b[2J", "response": "\\u001b[31m\\ud800", "ground_truth": "4"}\nnot JSON\n')
    text = explain(str(path), "math", {}, 5.0)
    assert "\x1b" not in text and text.encode()
    assert "verifier_failed, no score: line 2: not JSON" in explain(str(path), "math", {}, 5.0, "2")
    path.write_bytes(b"\n")
    with pytest.raises(ValueError, match="has none"):
        explain(str(path), "math", {}, 5.0)


def test_steps_are_bounded_and_nobody_hears_them_outside():
    note("outside", "{}", 1)
    with listening() as heard:
        for number in range(MOST + 5):
            note("inside", "{}", number)
    assert len(heard) == MOST
    assert (heard[3].stage, heard[3].found) == ("inside", "3")
