"""Worker processes of the command `score`: order, bounds, deaths, ends."""

import json
import os
import signal
import time
from collections import Counter

import pytest

from mimosa.configs.errors import RunError
from mimosa.rewards import score_pool
from mimosa.rewards.score_pool import ScorePool

MATH = {"spec": "math", "options": {}, "timeout": 5.0}
LOOP = {"kind": "stdin", "cases": [{"input": "", "output": ""}]}


def sums(count):
    for number in range(count):
        wrong = number % 3 == 0
        yield json.dumps({"id": number, "response": f"\\boxed{{{number + wrong}}}", "ground_truth": number}).encode()


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_every_row_has_its_answer_in_order_and_the_workers_end():
    pool, pids = ScorePool(MATH, 3), set()

    def look():
        pids.update(worker.process.pid for worker in pool._workers)
        return False

    answers = [json.loads(answer.line) for answer in pool.answers(sums(5000), look)]
    assert [answer["id"] for answer in answers] == list(range(5000))
    assert [answer["score"] for answer in answers] == [float(number % 3 != 0) for number in range(5000)]
    assert len(pids) == 3 and not any(map(alive, pids))


def test_few_rows_start_few_workers():
    pool, most = ScorePool(MATH, 8), []

    def look():
        most.append(len(pool._workers))
        return False

    assert len(list(pool.answers(sums(2), look))) == 2
    assert max(most) == 2
    assert list(ScorePool(MATH, 2).answers(iter(()))) == []


def test_rows_are_read_no_further_ahead_than_the_window():
    read, behind = Counter(), 0
    pool = ScorePool(MATH, 1)

    def counted():
        for line in sums(40_000):
            read["rows"] += 1
            yield line

    for done, _ in enumerate(pool.answers(counted()), 1):
        behind = max(behind, read["rows"] - done)
        if done == 25_000:
            break
    pool.close()
    assert 0 < behind <= score_pool.WINDOW


def test_large_rows_are_held_up_to_a_bound(monkeypatch):
    monkeypatch.setattr(score_pool, "HELD", 1 << 20)
    pool, most = ScorePool(MATH, 2), 0
    rows = [
        json.dumps({"id": i, "response": "x" * 700_000 + f"\\boxed{{{i}}}", "ground_truth": i}).encode()
        for i in range(9)
    ]
    for answer in pool.answers(iter(rows)):
        most = max(most, pool._bytes)
        assert answer.score == 1.0
    assert most < 3 << 20


def test_a_killed_worker_is_replaced_and_its_rows_are_judged_again():
    pool, killed = ScorePool(MATH, 2), []

    def kill():
        if pool._written > 500 * (len(killed) + 1) and len(killed) < 4:
            victim = next((worker for worker in pool._workers if worker.given), None)
            if victim is not None:
                os.kill(victim.process.pid, signal.SIGKILL)
                killed.append(victim.process.pid)
        return False

    answers = [json.loads(answer.line) for answer in pool.answers(sums(6000), kill)]
    assert len(killed) == 4
    assert [(answer["id"], answer["score"]) for answer in answers] == [(i, float(i % 3 != 0)) for i in range(6000)]


def test_a_row_that_its_worker_dies_of_again_and_again_gets_a_verdict():
    pool, killed = ScorePool({"spec": "code", "options": {"unsafe": True}, "timeout": 30.0}, 2), []
    loop = json.dumps({"id": "loop", "response": "while True: pass", "tests": LOOP}).encode()
    fine = [json.dumps({"id": i, "response": "pass", "tests": LOOP}).encode() for i in range(6)]

    def kill():
        for worker in pool._workers:
            if worker.given and worker.given[0] == 4 and time.monotonic() - worker.since > 0.2:
                os.kill(worker.process.pid, signal.SIGKILL)
                killed.append(worker.process.pid)
        return False

    answers = [json.loads(answer.line) for answer in pool.answers(iter([*fine[:3], loop, *fine[3:]]), kill)]
    assert [answer["score"] for answer in answers] == [1.0, 1.0, 1.0, None, 1.0, 1.0, 1.0]
    assert answers[3]["id"] == "loop" and answers[3]["status"] == "verifier_failed"
    assert answers[3]["reason"].startswith("line 4: the worker process ended 3 times at this row: died, exit code -9")
    assert len(set(killed)) == 3


def test_a_worker_that_does_not_come_back_is_killed(monkeypatch):
    monkeypatch.setattr(score_pool, "ROW_SECONDS", 0.5)
    pool = ScorePool({"spec": "code", "options": {"unsafe": True}, "timeout": 60.0}, 1)
    loop = json.dumps({"id": "loop", "response": "while True: pass", "tests": LOOP}).encode()
    (answer,) = pool.answers(iter([loop]))
    assert json.loads(answer.line)["reason"].startswith(
        "line 1: the worker process ended 3 times at this row: no verdict after 0.5 s"
    )


def test_workers_that_do_not_start_end_the_command(monkeypatch):
    monkeypatch.setattr(score_pool.sys, "executable", "/bin/false")
    with pytest.raises(RunError, match="worker processes do not start: died, exit code 1"):
        list(ScorePool(MATH, 2).answers(sums(3)))


def test_a_reward_that_refuses_to_start_says_why(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    settings = {"spec": "code", "options": {"tier": "bubblewrap"}, "timeout": 1.0}
    with pytest.raises(RunError, match=r"the reward refuses to start: bubblewrap: .*bwrap is not installed"):
        list(ScorePool(settings, 1).answers(sums(1)))
