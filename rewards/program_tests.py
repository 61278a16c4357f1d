"""Tests as pairs of input and output: every case runs the whole program in a process of its own."""

from __future__ import annotations

import os
import select
import time
from typing import Any

from .assert_tests import Outcome
from .limits import Limits
from .sandbox import Session, Slot, fault_of
from .steps import note
from .wire import BadFrame


class _Fault(Exception):
    """What the program did wrong, beside a wrong output."""


def run(tests: dict[str, Any], code: str, slot: Slot, limits: Limits, deadline: float) -> Outcome:
    """1 when every case's stdout is the wanted one, trailing blanks of lines and trailing empty lines aside."""
    cases = tests["cases"]
    for number, case in enumerate(cases, 1):
        with slot.session(limits, case["input"].encode("utf-8", "surrogatepass")) as session:
            try:
                output = _output(session, code, limits.output, deadline)
            except _Fault as fault:
                note(f"case {number}", "failed: input {!r}: the program {}", case["input"], fault)
                return 0.0, f"case {number}: the program {fault}"
        same = lines(output) == lines(case["output"].encode("utf-8", "surrogatepass"))
        outcome = "passed" if same else "failed"
        note(
            f"case {number}", "{}: input {!r}, output {!r}, wanted {!r}", outcome, case["input"], output, case["output"]
        )
        if not same:
            return 0.0, f"case {number}: another output"
    return 1.0, f"all {len(cases)} cases passed"


def _output(session: Session, code: str, most: int, deadline: float) -> bytes:
    try:
        session.channel.send({"do": "program", "code": code}, deadline)
    except (TimeoutError, OSError, BadFrame) as error:
        raise _Fault("took no code") from error
    assert session.stdout is not None
    output = _read(session.stdout, most, deadline)
    if not session.ended_by(deadline):
        raise _Fault("ran into the time limit")
    said = _raised(session)
    status = session.end()
    if status:
        raise _Fault(said or fault_of(status))
    return output


def _read(descriptor: int, most: int, deadline: float) -> bytes:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    output = bytearray()
    while poll.poll(max(0.0, 1000 * (deadline - time.monotonic()))):
        chunk = os.read(descriptor, 1 << 16)
        if not chunk:
            return bytes(output)
        output += chunk
        if len(output) > most:
            raise _Fault(f"ran into the output limit of {most} bytes")
    raise _Fault("ran into the time limit")


def _raised(session: Session) -> str:
    """What the program raised, as it says itself."""
    try:
        said = session.channel.receive(time.monotonic() + 0.1).get("raised")
    except (OSError, EOFError, BadFrame):
        return ""
    return f"raised {': '.join(str(one) for one in said)}" if type(said) is list else ""


def lines(output: bytes) -> list[bytes]:
    lines = [line.rstrip() for line in output.split(b"\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines
