"""The verifier's side of the judge process: started at the first job, killed when it is late, replaced when it is lost."""

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

START_SECONDS = 60.0  # for imports and the sandbox's self-test, on a busy machine
_LATE = 0.8  # seconds beyond the limit that the judge has for its own ending
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "TMPDIR")


class JudgeLost(Exception):
    """The judge process died, did not start or made no sense: says nothing of the candidate."""


class JudgeLate(Exception):
    """The judge did not end in time: its tests hang on a value that the candidate returned."""


class JudgeRefused(Exception):
    """There is no sandbox on this machine."""


class JudgeLink:
    """One judge process, one job at a time; safe to share between threads. tier: as judge_process.choose takes it."""

    def __init__(self, tier: str) -> None:
        self._settings = {"tier": tier}
        self.about: dict[str, Any] = {}  # what the judge said of its sandbox
        self.started = 0  # processes so far
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._owner = 0
        self._pending = b""

    def ask(self, job: dict[str, Any], limit: float) -> dict[str, Any]:
        """The outcome of a job whose clock runs `limit` seconds from its begin. Raises JudgeLost, JudgeLate, JudgeRefused."""
        with self._lock:
            try:
                begun = self._begin(job)
            except JudgeLost:  # it may have died since the last job; this one has touched nothing yet
                begun = self._begin(job)
            if "begin" not in begun:
                return begun
            outcome = self._receive(limit + _LATE)
            if outcome is None:
                self._stop()
                raise JudgeLate(f"the tests ran past the time limit of {limit:g} s on the candidate's values")
            return outcome

    def start(self) -> None:
        """Starts the process unless it runs. Raises JudgeLost, JudgeRefused."""
        with self._lock:
            self._ensure()

    def close(self) -> None:
        """Ends the process; the next job would start another."""
        with self._lock:
            self._stop()

    def _begin(self, job: dict[str, Any]) -> dict[str, Any]:
        self._ensure()
        self._send(job)
        begun = self._receive(START_SECONDS)
        if begun is None:
            self._stop()
            raise JudgeLost("the sandbox was not ready in time")
        return begun

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
        command = [sys.executable, "-P", "-m", "mimosa.rewards.judge_process", json.dumps(self._settings)]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, bufsize=0,
                env=environment | {"PYTHONHASHSEED": "0"}, start_new_session=True, cwd="/",
            )  # fmt: skip
        except OSError as error:
            raise JudgeLost(f"the judge process did not start: {error}") from error
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        self._pending = b""
        self.started += 1
        said = self._receive(START_SECONDS)
        if said is None:
            self._stop()
            raise JudgeLost(f"the judge process was not ready after {START_SECONDS:g} s")
        if "ready" not in said:
            self._stop()
            raise JudgeRefused("; ".join(said["refused"]))
        self.about = said

    def _send(self, job: dict[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None
        data = memoryview(json.dumps(job).encode() + b"\n")
        poll = select.poll()
        poll.register(self._process.stdin.fileno(), select.POLLOUT)
        try:
            while data:
                if not poll.poll(1000 * START_SECONDS):
                    self._stop()
                    raise JudgeLost("the judge process takes no job")
                data = data[self._process.stdin.write(data) or 0 :]
        except OSError as error:
            raise self._lost() from error

    def _receive(self, seconds: float) -> dict[str, Any] | None:
        """The next line of the process, or None when `seconds` are over. Raises JudgeLost when it is gone."""
        assert self._process is not None and self._process.stdout is not None
        end = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self._process.stdout.fileno(), select.POLLIN)
        while b"\n" not in self._pending:
            if not poll.poll(max(0.0, 1000 * (end - time.monotonic()))):
                return None
            chunk = os.read(self._process.stdout.fileno(), 1 << 16)
            if not chunk:
                raise self._lost()
            self._pending += chunk
        line, self._pending = self._pending.split(b"\n", 1)
        return json.loads(line)

    def _lost(self) -> JudgeLost:
        process, errors = self._process, self._errors
        words = ""
        if errors is not None:
            errors.seek(0)
            words = errors.read()[-300:].decode(errors="replace").strip().rpartition("\n")[2]
        self._stop()
        code = process.returncode if process is not None else None
        return JudgeLost(one_line(f"the judge process died (exit code {code}) {words}".strip()))

    def _stop(self) -> None:
        process, errors = self._process, self._errors
        self._process = self._errors = None
        if process is not None:
            process.kill()  # the kernel ends zygote and candidate with it
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
            process.wait(timeout=10)
        if errors is not None:
            errors.close()
