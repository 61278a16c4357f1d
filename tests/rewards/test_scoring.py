"""The command `score` as it is typed: what it writes, what it says, and what a signal leaves."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from mimosa.__main__ import main
from mimosa.rewards.scoring import count

ADD = {"kind": "assert", "entry_point": "add", "code": "def check(candidate):\n    assert candidate(1, 2) == 3\n"}


def write(path, rows):
    path.write_bytes(b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows))
    return str(path)


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_math_rows(tmp_path, capsys):
    rows = write(
        tmp_path / "rows.jsonl",
        [
            {"id": "a", "response": "so \\boxed{4}", "ground_truth": "4"},
            {"id": "b", "response": "so \\boxed{5}", "ground_truth": 4},
            {"id": "c", "response": "so \\boxed{}", "ground_truth": ""},
            b"{broken\n",
            b"\n",
            {"id": "d", "response": "\\boxed{(x-1)(x+1)}", "ground_truth": "x^2-1"},
            {"id": "e", "response": "\ud800\0\\boxed{7}", "ground_truth": "7"},
        ],
    )
    out = tmp_path / "out.jsonl"
    assert main(["score", rows, "--reward", "math", "--out", str(out), "--workers", "2"]) == 0
    found = read(out)
    assert [(row["id"], row["score"], row["status"]) for row in found] == [
        ("a", 1.0, "scored"), ("b", 0.0, "scored"), ("c", 0.0, "scored"), (4, None, "verifier_failed"),
        (5, None, "verifier_failed"), ("d", 1.0, "scored"), ("e", 1.0, "scored"),
    ]  # fmt: skip
    assert found[2]["reason"] == "the ground truth is empty"
    assert all(row.keys() == {"id", "score", "status", "reason", "seconds"} for row in found)
    assert all(row["reason"] and 0 <= row["seconds"] < 60 for row in found)
    said = capsys.readouterr().out
    assert "judged 7 rows in" in said and "5 scored, mean 0.6000, 3 score 1; 2 verifier_failed, 0 skipped" in said
    assert "line 4: not JSON" in said


def test_lenient_and_options(tmp_path):
    rows = write(tmp_path / "rows.jsonl", [{"id": 1, "response": "The sum is 4.\n#### 4", "ground_truth": "4"}])
    out = tmp_path / "out.jsonl"
    for words, score in ((["math"], 0.0), (["math:lenient"], 1.0), (["math", "answer_after=####"], 1.0)):
        assert main(["score", rows, "--out", str(out), "--workers", "1", "--reward", *words]) == 0
        assert read(out)[0]["score"] == score


def test_code_rows(tmp_path):
    rows = [
        {"id": 1, "response": "def add(a, b): return a + b", "tests": ADD},
        {"id": 2, "response": "def add(a, b): return a - b", "tests": ADD},
        {"id": 3, "response": "def add(a, b): return 3", "tests": {"kind": "other"}},
        {"id": 4, "response": "def add(a, b): return 3"},
    ]
    out = tmp_path / "out.jsonl"
    arguments = [
        "score",
        write(tmp_path / "rows.jsonl", rows),
        "--out",
        str(out),
        "--workers",
        "2",
        "--reward",
        "code:unsafe",
    ]
    assert main(arguments) == 0
    found = read(out)
    assert [(row["score"], row["status"]) for row in found] == [
        (1.0, "scored"), (0.0, "scored"), (None, "verifier_failed"), (0.0, "scored"),
    ]  # fmt: skip
    assert "kind is 'other', wanted assert or stdin" in found[2]["reason"]
    assert found[3]["reason"] == "the row has no tests"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--reward", "maths", "--out", "o"], "nearest known: 'math'"),
        (["--reward", "math", "lenient=3", "--out", "o"], "option 'lenient'"),
        (["--reward", "math"], "--out: got nothing"),
        (["--reward", "math", "--out", "o", "--workers", "0"], "--workers: got 0"),
        (["--reward", "math", "--out", "o", "--timeout", "-1"], "--timeout: got -1.0"),
        (["--reward", "math", "--out", "o", "--timeout", "nan"], "--timeout: got nan"),
        (["--reward", "math", "--out", "rows.jsonl"], "--out: got 'rows.jsonl', which is the file of the rows"),
        (["--reward", "math", "--out", "nowhere/o"], "nowhere/o"),
        (["--reward", "math", "--explain", "--row", "z"], "--row: got 'z', wanted the id of a row"),
        (["--reward", "math", "--out", "o.jsonl", "--row", "a"], "--row: got 'a' without --explain"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(arguments, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "rows.jsonl", [{"id": "a", "response": "", "ground_truth": "4"}])
    assert main(["score", "rows.jsonl", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1
    assert main(["score", "nowhere.jsonl", "--reward", "math", "--out", "o"]) == 2


def test_torch_and_ray_stay_out(tmp_path):
    rows = write(tmp_path / "rows.jsonl", [{"id": "a", "response": "\\boxed{x+x}", "ground_truth": "2x"}])
    for statement in (
        f"from mimosa.__main__ import main; main(['score', {rows!r}, '--reward', 'math', '--out', {str(tmp_path / 'o')!r}])",
        f"from mimosa.__main__ import main; main(['score', {rows!r}, '--reward', 'math', '--explain'])",
        "import mimosa.rewards.score_worker",
    ):
        script = f"import sys; {statement}; print(sorted({{'torch', 'ray', 'transformers', 'datasets', 'sympy'}} & set(sys.modules)))"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
        assert done.stdout.strip().splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_whole_first_rows_and_no_process(number, tmp_path):
    slow = {"id": "slow", "response": "def add(a, b):\n    while True: pass", "tests": ADD}
    rows = [{"id": i, "response": "def add(a, b): return a + b", "tests": ADD} for i in range(40)]
    source, out = write(tmp_path / "rows.jsonl", [*rows, *[slow] * 20]), tmp_path / "out.jsonl"
    command = [
        sys.executable,
        "-m",
        "mimosa",
        "score",
        source,
        "--reward",
        "code:unsafe",
        "--out",
        str(out),
        "--workers",
        "2",
        "--timeout",
        "20",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for _ in range(600):
        if out.exists() and out.read_bytes().count(b"\n") >= 40:
            break
        time.sleep(0.1)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 6  # workers, their judges, zygotes
    os.kill(process.pid, number)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"stopped after 40 rows" in said
    assert out.read_bytes().endswith(b"}\n")
    assert [(row["id"], row["score"]) for row in read(out)] == [(i, 1.0) for i in range(40)]
    assert psutil.wait_procs(family, timeout=10)[1] == []


def test_workers_end_with_a_killed_command(tmp_path):
    slow = {"id": "slow", "response": "def add(a, b):\n    while True: pass", "tests": ADD}
    source, out = write(tmp_path / "rows.jsonl", [slow] * 4), tmp_path / "out.jsonl"
    command = [
        sys.executable,
        "-m",
        "mimosa",
        "score",
        source,
        "--reward",
        "code:unsafe",
        "--out",
        str(out),
        "--workers",
        "1",
        "--timeout",
        "60",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    family = []
    for _ in range(600):
        family = psutil.Process(process.pid).children(recursive=True)
        if len(family) >= 4:
            break
        time.sleep(0.1)
    process.kill()
    process.wait(timeout=10)
    assert len(family) >= 4
    assert psutil.wait_procs(family, timeout=10)[1] == []


def test_a_full_disk_ends_the_command_and_its_workers(tmp_path, capsys):
    rows = write(
        tmp_path / "rows.jsonl", [{"id": i, "response": "\\boxed{1}", "ground_truth": "1"} for i in range(3000)]
    )
    assert main(["score", rows, "--reward", "math", "--out", "/dev/full", "--workers", "2"]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not [one for one in psutil.Process().children() if "score_worker" in " ".join(one.cmdline())]


def test_rows_are_counted_for_the_bar(tmp_path):
    (tmp_path / "rows").write_bytes(b"1\n2\n3\n")
    assert count(str(tmp_path / "rows")) == 3
    assert count("/dev/null") == 0
