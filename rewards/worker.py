"""The parent's side of the checker process: started at the first question, killed at its limit, replaced when it is used up.

A subprocess of its own rather than a multiprocessing pool: a spawned pool worker imports the caller's main module again, and
with it Ray and torch, and a pool whose idle worker dies stays broken.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from typing import IO, Any

from .verifier import one_line

START_SECONDS = 60.0  # for the imports of a new process, on a busy machine
MEMORY_BYTES = 3 << 30  # of address space
TASKS = 1000  # then a new process: caches of the algebra system grow
_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "TMPDIR")


class AnswerLimit(Exception):
    """The answer ran into the time or memory limit: it scores 0."""


class WorkerFailed(Exception):
    """The process died or did not start: says nothing of the answer."""


class Worker:
    """One process, one question at a time; safe to share between threads. `limit` and `memory` hold for each question.

    >>> Worker(limit=5.0).equal("value", "2x+2", "2(x+1)")
    True
    """

    def __init__(self, limit: float, memory: int = MEMORY_BYTES, tasks: int = TASKS) -> None:
        self.limit, self.memory, self.tasks = limit, memory, tasks
        self.started = 0  # processes so far
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._owner = 0
        self._left = 0
        self._pending = b""

    def equal(self, kind: str, gold: str, answer: str, limit: float | None = None) -> bool:
        """See checker.equal. Raises AnswerLimit, or WorkerFailed when the process was lost for another reason."""
        seconds = self.limit if limit is None else limit
        if seconds <= 0:
            raise AnswerLimit(f"time limit of {self.limit:g} s")
        with self._lock:
            self._ensure()
            reply = self._ask({"kind": kind, "gold": gold, "answer": answer, "limit": seconds}, seconds)
            self._left -= 1
            if "limit" in reply or self._left <= 0:
                self._stop()
        if "limit" in reply:
            raise AnswerLimit(f"{reply['limit']} limit")
        return bool(reply["equal"])

    def start(self) -> None:
        """Starts the process unless it runs, so that the next question does not wait for it. Raises WorkerFailed."""
        with self._lock:
            self._ensure()

    def close(self) -> None:
        """Ends the process; the next question would start another."""
        with self._lock:
            self._stop()

    def _ensure(self) -> None:
        if self._owner != os.getpid():  # after a fork the process is the parent's: talk to one of our own
            self._process, self._errors, self._owner = None, None, os.getpid()
        if self._process is not None and self._process.poll() is not None:
            self._stop()
        if self._process is None:
            self._start()

    def _start(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process, closed by _stop
        environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        environment |= {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-P", "-m", "mimosa.rewards.checker", str(self.memory)]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=environment, bufsize=0,
                start_new_session=True,  # an interrupt from the terminal is the parent's business
            )  # fmt: skip
        except OSError as error:
            raise WorkerFailed(f"checker process did not start: {error}") from error
        self._pending, self._left = b"", self.tasks
        self.started += 1
        if self._receive(START_SECONDS) is None:
            self._stop()
            raise WorkerFailed(f"checker process was not ready after {START_SECONDS:g} s")

    def _ask(self, question: dict[str, Any], seconds: float) -> dict[str, Any]:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
        except OSError as error:
            raise self._lost() from error
        reply = self._receive(seconds)
        if reply is None:
            self._stop()
            raise AnswerLimit(f"time limit of {self.limit:g} s")
        return reply

    def _receive(self, seconds: float) -> dict[str, Any] | None:
        """The next line of the process, or None when `seconds` are over. Raises WorkerFailed when it is gone."""
        assert self._process is not None and self._process.stdout is not None
        end = time.monotonic() + seconds
        while b"\n" not in self._pending:
            left = end - time.monotonic()
            if left <= 0 or not _readable(self._process.stdout.fileno(), left):
                return None
            chunk = os.read(self._process.stdout.fileno(), 1 << 16)
            if not chunk:
                raise self._lost()
            self._pending += chunk
        line, self._pending = self._pending.split(b"\n", 1)
        return json.loads(line)

    def _lost(self) -> WorkerFailed:
        process, errors = self._process, self._errors
        words = ""
        if errors is not None:
            errors.seek(0)
            words = errors.read()[-300:].decode(errors="replace").strip().rpartition("\n")[2]
        self._stop()
        code = process.returncode if process is not None else None
        return WorkerFailed(one_line(f"checker process died (exit code {code}) {words}".strip()))

    def _stop(self) -> None:
        process, errors = self._process, self._errors
        self._process = self._errors = None
        if process is not None:
            process.kill()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
            process.wait(timeout=10)
        if errors is not None:
            errors.close()


def _readable(descriptor: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(1000 * seconds))
