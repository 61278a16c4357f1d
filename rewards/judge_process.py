"""The trusted process that holds tests and expected values, and asks candidates for values. One job at a time, a line each.

It says {"ready"} or {"refused"} once; for a job {"begin"} when the clock starts and then the verdict. Values of the candidate's choice
enter the tests here, so the tests themselves have a limit: an alarm in this process, and a kill by the parent behind it.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import threading
import time
from typing import Any

from . import program_tests
from .assert_tests import AssertTests, CandidateGone, Outcome
from .limits import Limits
from .sandbox import TIERS, SandboxFailed, Slot
from .self_test import breaches
from .steps import listening

MEMORY_BYTES = 4 << 30  # of the judge itself
_GRACE = 0.2  # seconds for the tests to end after the candidate's limit
_CPU_GRACE = 3.0  # and for the judge, when nobody is left to kill it


class Alarm:
    """Interrupts tests that run on after the limit, again and again in case they catch it."""

    def __init__(self) -> None:
        self.rang = False
        self._active = False
        signal.signal(signal.SIGALRM, self._ring)

    def set(self, seconds: float) -> None:
        self.rang, self._active = False, True
        signal.setitimer(signal.ITIMER_REAL, seconds, 0.1)
        signal.setitimer(signal.ITIMER_PROF, seconds + _CPU_GRACE)  # not handled: ends a judge that hangs in C code

    def clear(self) -> None:
        self._active = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)

    def _ring(self, *_: object) -> None:
        if self._active:
            self.rang = True
            raise CandidateGone


def main() -> None:
    """argv: a JSON object with tier (auto, one of the tiers, or unsafe)."""
    replies = os.dup(1)
    jobs = os.dup(0)
    _silence()
    threading.Thread(target=_end_with_parent, args=(jobs,), daemon=True).start()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    slot, said = choose(json.loads(sys.argv[1])["tier"])
    _reply(replies, said)
    if slot is None:
        return
    alarm = Alarm()
    with open(jobs, "rb", closefd=False) as lines:
        for line in lines:
            job = json.loads(line)
            judge = _explained if job.get("explain") else _judge
            _reply(replies, judge(job, slot, alarm, replies))
    slot.close()


def choose(wanted: str) -> tuple[Slot | None, dict[str, Any]]:
    """The first tier that stands up to the self-test, and what to say of it; no slot when there is none."""
    refused = []
    for tier in TIERS if wanted == "auto" else (wanted,):
        slot = Slot(tier, os.getpid())
        try:
            slot.ensure()
            won = [] if tier == "unsafe" else breaches(slot)
        except (SandboxFailed, TimeoutError) as error:
            slot.close()
            refused.append(str(error))
            continue
        if not won:
            return slot, {"ready": True, "tier": tier, "refused": refused}
        slot.close()
        refused.append(f"{tier}: the self-test broke out by {', '.join(won)}")
    return None, {"refused": refused}


def _explained(job: dict[str, Any], slot: Slot, alarm: Alarm, replies: int) -> dict[str, Any]:
    with listening() as steps:
        outcome = _judge(job, slot, alarm, replies)
    return {**outcome, "steps": [(step.stage, step.found) for step in steps]}


def _judge(job: dict[str, Any], slot: Slot, alarm: Alarm, replies: int) -> dict[str, Any]:
    limits, tests = Limits(**job["limits"]), job["tests"]
    try:
        slot.ensure()
        _reply(replies, {"begin": True})
        deadline = time.monotonic() + limits.wall
        if tests["kind"] == "stdin":
            score, reason = program_tests.run(tests, job["code"], slot, limits, deadline)
        else:
            score, reason = _assert_tests(job, slot, limits, deadline, alarm)
    except SandboxFailed as error:
        score, reason = None, str(error)
    return {"score": score, "reason": reason}


def _assert_tests(job: dict[str, Any], slot: Slot, limits: Limits, deadline: float, alarm: Alarm) -> Outcome:
    """The outcome of tests that end in time, or that they did not."""
    outcome: Outcome = (0.0, "")
    with slot.session(limits) as session:
        tests = AssertTests(job["tests"], session, deadline)
        try:
            try:
                alarm.set(limits.wall + _GRACE)
                outcome = tests.run(job["code"])
            finally:
                alarm.clear()
        except CandidateGone:  # rung between two lines of this function
            alarm.clear()
    if alarm.rang:
        return 0.0, tests.fault or f"the tests ran past the time limit of {limits.wall:g} s on the candidate's values"
    return outcome


def _silence() -> None:
    """Tests may print and read as they like: not to and from the parent."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    os.close(nothing)


def _end_with_parent(jobs: int) -> None:
    """Ends the process, and by the kernel's hand the zygote's and the candidate's, when the parent is gone."""
    poll = select.poll()
    poll.register(jobs, 0)  # hangups are always told
    poll.poll()
    os._exit(0)


def _reply(replies: int, message: dict[str, Any]) -> None:
    data = memoryview(json.dumps(message).encode() + b"\n")
    while data:
        data = data[os.write(replies, data) :]


if __name__ == "__main__":
    main()
