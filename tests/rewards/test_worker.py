"""The checker process: limits, deaths and replacement."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from mimosa.records import Prompt
from mimosa.rewards.math_answer import MathAnswer
from mimosa.rewards.worker import AnswerLimit, Worker, WorkerFailed

ENDLESS = "\\pi^{\\pi^{\\pi^{\\pi^{\\pi}}}}"  # guards.py would refuse it
VAST = "x^{x^{x^{x^{x^{x}}}}}"  # wants a number of 10^10 bits


@pytest.fixture
def worker():
    worker = Worker(limit=30.0)
    yield worker
    worker.close()


def pid(worker):
    return worker._process.pid


def gone(process):
    """Whether the process ends within some seconds; a zombie has ended."""
    for _ in range(100):
        try:
            with open(f"/proc/{process}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.1)
    return False


def test_it_starts_at_the_first_question_and_decides(worker):
    assert worker.started == 0
    assert worker.equal("value", "2x+2", "2(x+1)") is True
    assert worker.equal("value", "2x+2", "2x+1") is False
    assert worker.started == 1


def test_a_question_beyond_its_limit_is_killed_and_the_next_one_served(worker):
    worker.start()
    first, start = pid(worker), time.perf_counter()
    with pytest.raises(AnswerLimit, match="time limit"):
        worker.equal("value", "42", ENDLESS, limit=0.5)
    assert 0.4 < time.perf_counter() - start < 2.0
    assert gone(first)
    assert worker.equal("value", "x+1", "1+x") is True


def test_a_question_that_wants_too_much_memory_is_the_answers_fault(worker):
    with pytest.raises(AnswerLimit, match="memory limit"):
        worker.equal("value", "42", VAST)
    assert worker.equal("value", "x+1", "1+x") is True


def test_its_address_space_is_limited(worker):
    worker.start()
    with open(f"/proc/{pid(worker)}/limits") as limits:
        line = next(line for line in limits if line.startswith("Max address space"))
    assert line.split()[3] == str(3 << 30)


def test_it_is_replaced_after_its_share_of_questions():
    worker = Worker(limit=30.0, tasks=2)
    assert [worker.equal("value", "x", "x+0") for _ in range(5)] == [True] * 5
    assert worker.started == 3
    worker.close()


def test_a_death_between_questions_goes_unnoticed(worker):
    worker.start()
    os.kill(pid(worker), signal.SIGKILL)
    assert gone(pid(worker))
    assert worker.equal("value", "x+1", "1+x") is True


def test_a_death_in_a_question_is_no_verdict_on_the_answer(worker):
    worker.start()
    threading.Timer(0.3, os.kill, (pid(worker), signal.SIGKILL)).start()
    with pytest.raises(WorkerFailed, match="died"):
        worker.equal("value", "42", ENDLESS)
    assert worker.equal("value", "x+1", "1+x") is True


def test_the_verifier_tells_both_apart(monkeypatch):
    verifier = MathAnswer(timeout=0.5)
    prompt = Prompt(id="p", prompt="", verifier="math", ground_truth="x^2")

    def raising(error):
        def equal(*_):
            raise error

        return equal

    monkeypatch.setattr(verifier._worker, "start", lambda: None)
    monkeypatch.setattr(verifier._worker, "equal", raising(AnswerLimit("time limit of 0.5 s")))
    verdict = verifier.score("\\boxed{x\\cdot x}", prompt)
    assert (verdict.status, verdict.score, verdict.reason) == (
        "scored",
        0.0,
        "the answer ran into the time limit of 0.5 s",
    )
    monkeypatch.setattr(verifier._worker, "equal", raising(WorkerFailed("checker process died")))
    verdict = verifier.score("\\boxed{x\\cdot x}", prompt)
    assert (verdict.status, verdict.score, verdict.reason) == ("verifier_failed", None, "checker process died")


def test_a_process_that_cannot_start_is_a_failure_with_its_last_words(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(WorkerFailed, match="did not start"):
        Worker(limit=1.0).start()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(WorkerFailed, match="died"):
        Worker(limit=1.0).start()


@pytest.mark.parametrize("busy", [False, True])
def test_it_does_not_outlive_a_killed_parent(busy):
    script = (
        "import threading, time; from mimosa.rewards.worker import Worker\n"
        "worker = Worker(limit=1.0); worker.start(); print(worker._process.pid, flush=True)\n"
        + (f"worker.equal('value', '42', {ENDLESS!r}, limit=3.0)\n" if busy else "")
        + "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    child = int(parent.stdout.readline())
    time.sleep(0.3)
    parent.kill()
    parent.wait(timeout=10)
    parent.stdout.close()
    assert gone(child)


def test_threads_share_it(worker):
    found = []
    threads = [
        threading.Thread(
            target=lambda n=n: found.append((n % 2 == 0) == worker.equal("value", "x+1", f"x+{1 + n % 2}"))
        )
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert found == [True] * 8
    assert worker.started == 1
