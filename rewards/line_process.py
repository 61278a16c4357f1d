"""A process of ours that answers questions, a line of JSON each: started at the first, killed when late, replaced when lost.

A subprocess of its own rather than a multiprocessing pool: a spawned pool worker imports the caller's main module again, and
with it Ray and torch, and a pool whose idle worker dies stays broken.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import subprocess
import tempfile
import threading
import time
from typing import IO, Any

from .verifier import one_line

KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "VIRTUAL_ENV", "TMPDIR")
_GLANCE = 0.25  # seconds between looks at whether the process still lives: a child of it may hold its end of the pipe
_WORDS = 1 << 20  # bytes of stderr that are kept at most between two questions


class LineProcess:
    """The parent's side of one process. `lock` is held through a question by those who share it between threads."""

    what = "the process"  # for messages
    failure: type[Exception] = RuntimeError  # raised when the process dies, does not start or makes no sense
    start_seconds = 60.0  # for the imports of a new process, on a busy machine

    def __init__(self) -> None:
        self.started = 0  # processes so far
        self.lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._owner = 0
        self._pending = b""

    def close(self) -> None:
        """Ends the process; the next question would start another."""
        with self.lock:
            self._stop()

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _environment(self) -> dict[str, str]:
        return {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ} | {"PYTHONHASHSEED": "0"}

    def _folder(self) -> str | None:
        """Where it runs; None: here."""
        return None

    def _opened(self) -> None:
        """Says what a new process is to know before it is ready."""

    def _greeted(self, said: dict[str, Any]) -> None:
        """Looks at the first line of a new process, which says that it is ready; may refuse it."""

    def _ensure(self) -> None:
        if self._owner != os.getpid():  # after a fork the process is the parent's: talk to one of our own
            self._process, self._errors, self._owner = None, None, os.getpid()
        if self._process is not None and self._process.poll() is not None:
            self._stop()
        if self._process is None:
            self._start()

    def _start(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process, closed by _stop
        fcntl.fcntl(self._errors.fileno(), fcntl.F_SETFL, os.O_APPEND)  # so that it can be emptied under the writer
        try:
            self._process = subprocess.Popen(
                self._command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, bufsize=0,
                env=self._environment(), cwd=self._folder(),
                start_new_session=True,  # an interrupt from the terminal is the parent's business
            )  # fmt: skip
        except OSError as error:
            self._stop()
            raise self.failure(f"{self.what} did not start: {error}") from error
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)
        self._pending = b""
        self.started += 1
        self._opened()
        said = self._receive(self.start_seconds)
        if said is None:
            self._stop()
            raise self.failure(f"{self.what} was not ready after {self.start_seconds:g} s")
        self._greeted(said)

    def _send(self, question: dict[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None
        if self._errors is not None and os.fstat(self._errors.fileno()).st_size > _WORDS:
            os.ftruncate(self._errors.fileno(), 0)
        data = memoryview(json.dumps(question, default=str).encode() + b"\n")
        poll = select.poll()
        poll.register(self._process.stdin.fileno(), select.POLLOUT)
        try:
            while data:
                if not poll.poll(1000 * self.start_seconds):
                    self._stop()
                    raise self.failure(f"{self.what} takes no question")
                data = data[self._process.stdin.write(data) or 0 :]
        except OSError as error:
            raise self._lost() from error

    def _receive(self, seconds: float) -> dict[str, Any] | None:
        """The next line of the process, or None when `seconds` are over. Raises `failure` when it is gone."""
        assert self._process is not None and self._process.stdout is not None
        end = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self._process.stdout.fileno(), select.POLLIN)
        while b"\n" not in self._pending:
            left = end - time.monotonic()
            gone = self._process.poll() is not None  # before the look at the pipe, which may hold its last line
            if not poll.poll(1000 * max(0.0, min(left, _GLANCE))):
                if gone:
                    raise self._lost()
                if left <= 0:
                    return None
                self._glanced()
                continue
            chunk = os.read(self._process.stdout.fileno(), 1 << 16)
            if not chunk:
                raise self._lost()
            self._pending += chunk
        line, self._pending = self._pending.split(b"\n", 1)
        return json.loads(line)

    def _lost(self) -> Exception:
        """Ends what is left of the process and says how it died, with the last it said."""
        process, words = self._process, self._last_words()
        self._stop()
        code = process.returncode if process is not None else None
        return self.failure(one_line(f"{self.what} died (exit code {code}) {words}".strip()))

    def _last_words(self) -> str:
        if self._errors is None:
            return ""
        self._errors.seek(max(0, os.fstat(self._errors.fileno()).st_size - 300))
        return self._errors.read()[-300:].decode(errors="replace").strip().rpartition("\n")[2]

    def _glanced(self) -> None:
        """Looks after a process that takes its time; may raise."""

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()

    def _stop(self) -> None:
        process, errors = self._process, self._errors
        self._process = self._errors = None
        if process is not None:
            self._kill(process)
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
            process.wait(timeout=10)
        if errors is not None:
            errors.close()
