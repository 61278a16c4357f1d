"""The command `reward-check`: rows from files and tasks, and what it says of rewards that do and do not fit them."""

import json

import pytest

from mimosa.__main__ import main
from mimosa.cluster.reward_data import sampled


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def sums(count, **columns):
    return [{"id": f"r{n}", "ground_truth": str(1000 + n), **columns} for n in range(count)]


@pytest.fixture
def check(tmp_path, capsys):
    def run(rows, *words):
        status = main(["reward-check", words[0], write(tmp_path / "rows.jsonl", rows), *words[1:]])
        return status, capsys.readouterr()

    return run


def wrong(said):
    """Names of the probes in which something looks wrong."""
    return [line.split("  ")[2].strip() for line in said.out.splitlines() if line.startswith("  WRONG")]


def test_rows_are_a_sample_in_their_order(tmp_path):
    path = write(tmp_path / "rows.jsonl", sums(500))
    rows = sampled(path, 20)
    numbers = [int(row.ground_truth) for row in rows]
    assert len(rows) == 20 and numbers == sorted(numbers) and numbers[-1] > 1200
    assert sampled(path, 20) == rows
    assert len(sampled(path, 0)) == 500
    with pytest.raises(ValueError, match="--rows: got -1"):
        sampled(path, -1)


def test_a_generated_task_is_judged_by_what_is_tried():
    assert {(row.verifier, row.response is None) for row in sampled("countdown", 5)} == {("", False)}
    assert main(["reward-check", "countdown", "countdown", "--rows", "20"]) == 0
    assert main(["reward-check", "exact", "countdown", "--rows", "20"]) == 1


def test_a_reward_that_fits(check):
    status, said = check(sums(30), "math")
    assert status == 0 and wrong(said) == [] and "nothing looks wrong" in said.out
    assert said.out.count("30 of 30 rows do") == 5
    assert "right responses made as '\\boxed{1000}'" in said.out


def test_word_problems_with_marks(check):
    rows = [{"question": f"{n}+1?", "answer": f"{n}+1={n + 1}\n#### {n + 1}"} for n in range(100, 120)]
    for words in (["math"], ["math", "answer_after=####"], ["math:lenient"], ["exact", "boxed=false"]):
        assert check(rows, *words)[0] == 0


def test_rows_of_other_systems(check, tmp_path):
    chat = [{"role": "user", "content": "?"}]
    verl = [
        {"data_source": "d", "prompt": chat, "reward_model": {"style": "rule", "ground_truth": str(n)}}
        for n in range(20, 30)
    ]
    shown = [
        {"messages": [*chat, {"role": "assistant", "content": f"\\boxed{{{n}}}"}], "answer": str(n)}
        for n in range(20, 30)
    ]
    for rows in (verl, shown):
        status, said = check(rows, "math")
        assert status == 0 and "10 of 10 rows do" in said.out
    row = sampled(str(tmp_path / "rows.jsonl"), 1)[0]
    assert row.response == f"\\boxed{{{row.ground_truth}}}" and row.prompt[0].content == "?"


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ("float(response == f'\\\\boxed{{{ground_truth}}}')", []),
        ("float(ground_truth in response)", ["hedged"]),
        ("1.0", ["empty", "another row's", "cut in half", "hedged"]),
        ("0.0", ["right"]),
        ("float('nan')", ["right", "empty", "another row's", "cut in half", "hedged"]),
    ],
)
def test_functions_of_ones_own(check, tmp_path, body, names):
    (tmp_path / "mine.py").write_text(f"def grade(response, ground_truth):\n    return {body}\n")
    status, said = check(sums(30), f"{tmp_path}/mine.py:grade")
    assert (status, wrong(said)) == (int(bool(names)), names), said.out


def test_ground_truths_that_nothing_equals(check):
    status, said = check([*sums(5), {"id": "long", "ground_truth": "7" * 401}], "math")
    assert (status, wrong(said)) == (1, ["right"])
    assert "must score 1: 5 of 6 rows do" in said.out and "row long, response '\\boxed{777" in said.out


def test_demonstrations_that_the_reward_does_not_take(check):
    status, said = check([{**row, "response": f"The answer is {row['ground_truth']}"} for row in sums(9)], "math")
    assert (status, wrong(said)) == (1, ["right"])
    assert "row r0, response 'The answer is 1000': 0, no \\boxed{...}" in said.out


def test_tests_that_anything_passes(check):
    tests = {"kind": "assert", "entry_point": "f", "code": "def check(candidate):\n    candidate(1)\n"}
    rows = [
        {"id": n, "response": f"def f(x):\n    return {n}", "tests": {**tests, "prelude": f"# {n}"}} for n in range(6)
    ]
    status, said = check(rows, "code:unsafe")
    assert (status, wrong(said)) == (1, ["another row's"])


def test_a_verifier_that_cannot_judge(check):
    rows = [{"id": n, "response": f"def f(x): return {n}", "tests": {"kind": "none", "n": n}} for n in range(3)]
    status, said = check(rows, "code:unsafe")
    assert status == 1
    assert (
        "3 could not be judged: row 0, response 'def f(x): return 0': no score, tests of prompt '0': kind is 'none'"
        in said.out
    )


def test_the_same_answer_in_other_writing_is_only_noted(check):
    rows = sums(180)
    rows += [{"id": f"{n}", "ground_truth": ("0.5", "\\frac12")[n % 2]} for n in range(20)]
    status, said = check(rows, "math")
    assert status == 0 and "pairs of rows take each other's answer, as the same one in other writing" in said.out


@pytest.mark.parametrize(
    ("rows", "words", "said"),
    [
        ([{"id": 1, "tests": {"kind": "assert"}}], ["code"], "row 1 has no response"),
        ([{"id": 1, "prompt": "x"}], ["math"], "row 1 has neither ground_truth nor response"),
        ([], ["math"], "data: got no rows"),
        ([{"id": 1, "ground_truth": "1"}], ["maths"], "nearest known: 'math'"),
        ([{"id": 1, "ground_truth": "1"}], ["math", "--timeout", "0"], "wanted more than 0 seconds"),
    ],
)
def test_a_mistake_is_one_line(check, rows, words, said):
    status, output = check(rows, *words)
    assert status == 2
    assert said in output.err and len(output.err.strip().splitlines()) == 1
