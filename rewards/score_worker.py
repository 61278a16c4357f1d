"""A worker process of the command `score`: `python -m mimosa.rewards.score_worker SETTINGS`, JSON with spec, options, timeout, parent.

It says "ready" once, or "refused WHY"; then a row comes in as "NUMBER BYTES" on a line and so many bytes behind it, and goes out
as "NUMBER STATUS SCORE" and the finished line of the output. It ends with its input, and with its parent.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from types import FrameType
from typing import BinaryIO

import numpy as np

from ..records import Completion, Prompt, Verdict
from . import rows
from .confinement import die_with
from .judge import Judge
from .judge_link import JudgeRefused
from .verifier import one_line

READY, REFUSED = b"ready", b"refused"
_NOTHING = np.zeros(0, np.int32)


def main() -> None:
    """Judges rows until there are no more."""
    settings = json.loads(sys.argv[1])
    source, target = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a reward prints must not look like an answer
    signal.signal(signal.SIGTERM, _leave)
    die_with(settings["parent"], signal.SIGTERM)
    with Judge(settings["spec"], settings["options"], truncated="score", timeout=settings["timeout"]) as judge:
        try:
            judge.start()
        except (JudgeRefused, ValueError) as refused:
            _say(target, REFUSED + b" " + one_line(f"the reward refuses to start: {refused}").encode())
            return
        _say(target, READY)
        while header := source.readline():
            number, size = map(int, header.split())
            _say(target, answered(judge, source.read(size), number))


def answered(judge: Judge, line: bytes, number: int) -> bytes:
    """The reply to one row."""
    row = rows.read(line, number)
    verdict = row.verdict or judged(judge, row)
    score = b"-" if verdict.score is None else repr(verdict.score).encode()
    return b"%d %s %s " % (number, verdict.status.encode(), score) + rows.answer(row.id, verdict)


def judged(judge: Judge, row: rows.Row) -> Verdict:
    """The judge's verdict on a row that has a prompt."""
    assert isinstance(row.prompt, Prompt)
    return judge.judge(row.prompt, Completion(row.prompt.id, 0, _NOTHING, _NOTHING, _NOTHING, "stop", row.response))


def _say(target: BinaryIO, line: bytes) -> None:
    target.write(line + b"\n")
    target.flush()


def _leave(signal_number: int, frame: FrameType | None) -> None:
    """Ends by way of the `with` blocks, so that what the verifiers started ends too."""
    sys.exit(128 + signal_number)


if __name__ == "__main__":
    main()
