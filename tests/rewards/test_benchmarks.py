"""Rows of public benchmarks, brought to the form of `score` by their columns."""

import json
import subprocess
import sys

import pytest
from programs import DATA

from mimosa.__main__ import main
from mimosa.rewards.benchmarks import converted

HUMAN_EVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'def helper(x):\n    return 2 * x\n\ndef four(x):\n    """Four times x."""\n',
    "entry_point": "four",
    "canonical_solution": "    return helper(helper(x))\n",
    "test": "def check(candidate):\n    assert candidate(3) == helper(helper(3))\n",
}
MBPP = {
    "task_id": 2,
    "text": "Write a function.",
    "code": "import math\ndef first(x):\n    return x\ndef second(x):\n    return first(x) + 1",
    "test_list": ["assert set([second(1)]) == {TWO}", "assert second(2) == 3 "],
    "test_setup_code": "TWO = 2",
    "challenge_test_list": [],
}


def test_human_eval():
    row = converted(HUMAN_EVAL)
    assert row["response"] == HUMAN_EVAL["prompt"] + HUMAN_EVAL["canonical_solution"]
    assert row["tests"] == {
        "kind": "assert", "entry_point": "four", "code": HUMAN_EVAL["test"], "prelude": HUMAN_EVAL["prompt"],
    }  # fmt: skip


def test_mbpp_and_its_sanitized_form():
    row = converted(MBPP)
    lines = "def check(candidate):\n    assert set([second(1)]) == {TWO}\n    assert second(2) == 3\n"
    assert row["tests"] == {"kind": "assert", "entry_point": "second", "code": lines, "prelude": "TWO = 2"}
    assert (row["id"], row["prompt"], row["response"]) == (2, "Write a function.", MBPP["code"])
    sanitized = {**MBPP, "prompt": "Write.", "test_imports": ["TWO = 2", "import os"]}
    del sanitized["text"], sanitized["test_setup_code"]
    assert converted(sanitized)["tests"]["prelude"] == "TWO = 2\nimport os"
    with pytest.raises(ValueError, match="wanted a call of a function that `code` defines"):
        converted({**MBPP, "test_list": ["assert True"]})


def test_word_problems():
    row = converted({"question": "2+2?", "answer": "2+2=<<2+2=4>>4\n#### 1,004"})
    assert (row["prompt"], row["ground_truth"]) == ("2+2?", "1,004")
    row = converted({"problem": "2+2?", "solution": "It is $\\boxed{\\frac{8}{2}}$.", "level": "Level 1"})
    assert (row["ground_truth"], row["response"]) == ("\\frac{8}{2}", "It is $\\boxed{\\frac{8}{2}}$.")


def test_other_rows_stay_as_they_are():
    for row in ({"id": 1, "response": "x", "ground_truth": "#### 4", "question": "", "answer": "#### 5"}, {"a": 1}, {}):
        assert converted(row) is row


def test_solutions_of_a_benchmark_through_the_command(tmp_path):
    (tmp_path / "benchmark.jsonl").write_text(json.dumps(HUMAN_EVAL) + "\n" + json.dumps(MBPP) + "\n")
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "mimosa.rewards.benchmarks", str(tmp_path / "benchmark.jsonl"), str(rows)]
    assert subprocess.run(command, timeout=60, check=False).returncode == 0
    assert main(["score", str(rows), "--reward", "code:unsafe", "--out", str(out), "--workers", "1"]) == 0
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["id"], row["score"]) for row in found] == [("HumanEval/0", 1.0), (2, 1.0)]


@pytest.mark.parametrize(
    ("name", "count"), [("HumanEval.jsonl.gz", 164), ("mbpp.jsonl", 974), ("gsm8k_test.jsonl", 1319)]
)
def test_whole_files(tmp_path, name, count):
    if not (DATA / name).exists():
        pytest.skip(f"{name} is not in ../shared/data")
    command = [sys.executable, "-m", "mimosa.rewards.benchmarks", str(DATA / name), str(tmp_path / "rows.jsonl")]
    subprocess.run(command, timeout=60, check=True)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == count
    assert all(row.get("ground_truth") or row["tests"]["entry_point"] in row["response"] for row in rows)
