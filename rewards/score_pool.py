"""Worker processes that judge the lines of a file: lines go in, answers come out in the same order.

One thread waits on all of them at once. A worker that dies is replaced and its rows are judged again; a row that its worker dies of
again and again gets a verdict that says so. What is in memory is bounded by WINDOW rows and HELD bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

from ..configs.errors import RunError
from . import rows
from .score_worker import READY, REFUSED
from .verifier import one_line, verifier_failed

WINDOW = 8192  # rows between the last one written and the last one read
HELD = 64 << 20  # bytes of rows without an answer; a single longer row passes
ATTEMPTS = 3  # deaths of a worker at one row, and starts of one that fails
START_SECONDS = 120.0
ROW_SECONDS = 600.0  # beyond all of a verifier's own limits
_LOOK_SECONDS = 0.2  # between looks at clocks and signals
_AHEAD_SECONDS = 0.05  # of work that a worker has lying before it
_MOST_AHEAD = 512  # rows
_END_SECONDS = 3.0  # for a worker to end what it started


@dataclass(frozen=True, slots=True)
class Answer:
    """One finished line of the output, and what a tally needs of it."""

    status: str
    score: float | None
    line: bytes


class ScoreWorker:
    """One process, and the rows that it has been given."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process, closed by `end`
        command = [sys.executable, "-P", "-m", "mimosa.rewards.score_worker", json.dumps(settings)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, bufsize=0,
            start_new_session=True,  # an interrupt from the terminal is the parent's business
        )  # fmt: skip
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        for stream in (self.stdin, self.stdout):
            os.set_blocking(stream.fileno(), False)
        self.ready = False
        self.given: deque[int] = deque()  # numbers of the rows that it has not answered, in order
        self.since = time.monotonic()  # start of what it is doing now
        self._pace = _AHEAD_SECONDS  # seconds a row, lately
        self._outgoing = bytearray()
        self._incoming = b""

    @property
    def room(self) -> int:
        """Rows that it can be given now, so that it has a little work ahead and no other waits for it."""
        ahead = max(1, min(_MOST_AHEAD, int(_AHEAD_SECONDS / max(self._pace, 1e-6))))
        return ahead - len(self.given) if self.ready else 0

    @property
    def unsent(self) -> bool:
        return bool(self._outgoing)

    def give(self, number: int, line: bytes) -> None:
        if not self.given:
            self.since = time.monotonic()
        self.given.append(number)
        self._outgoing += b"%d %d\n" % (number, len(line)) + line

    def send(self) -> None:
        """Writes what the pipe takes. A pipe that is broken is found out by reading."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            written = self.stdin.write(memoryview(self._outgoing)[: 1 << 20])
            del self._outgoing[: written or 0]

    def receive(self) -> list[bytes] | None:
        """Whole lines that have come; None when the process is gone."""
        try:
            chunk = os.read(self.stdout.fileno(), 1 << 18)
        except BlockingIOError:
            return []
        if not chunk:
            return None
        *lines, self._incoming = (self._incoming + chunk).split(b"\n")
        return lines

    def answered(self, count: int) -> None:
        """Its next `count` rows are done."""
        for _ in range(count):
            self.given.popleft()
        now = time.monotonic()
        self._pace = 0.7 * self._pace + 0.3 * (now - self.since) / count
        self.since = now

    def overdue(self) -> str:
        """What it has taken too long for; empty when it has not."""
        waited = time.monotonic() - self.since
        if not self.ready:
            return f"not ready after {START_SECONDS:g} s" if waited > START_SECONDS else ""
        return f"no verdict after {ROW_SECONDS:g} s" if self.given and waited > ROW_SECONDS else ""

    def ask_to_end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def end(self, deadline: float) -> str:
        """Ends it, by force at the deadline, and says how it ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0.0, deadline - time.monotonic()))
        self.process.kill()
        code = self.process.wait(timeout=10)
        self.stdin.close()
        self.stdout.close()
        self.errors.seek(0)
        words = self.errors.read()[-300:].decode(errors="replace").strip().rpartition("\n")[2]
        self.errors.close()
        return one_line(f"exit code {code} {words}".strip())


class ScorePool:
    """`workers` processes, each with a judge of its own. settings: what score_worker.py takes, without parent."""

    def __init__(self, settings: dict[str, Any], workers: int) -> None:
        self._settings = settings | {"parent": os.getpid()}
        self._size = workers
        self._workers: list[ScoreWorker] = []
        self._selector = selectors.DefaultSelector()
        self._held: dict[int, bytes] = {}  # rows without an answer
        self._bytes = 0  # of them
        self._todo: deque[int] = deque()  # of these, the rows that no worker has
        self._done: dict[int, Answer] = {}  # answers that wait for an earlier one
        self._deaths: dict[int, int] = {}  # of workers, by the row that they were at
        self._failed_starts = 0
        self._read = self._written = 0  # numbers of the last row read and of the last one handed out

    def answers(
        self, lines: Iterator[bytes], stopped: Callable[[], bool] = lambda: False
    ) -> Generator[Answer, None, None]:
        """One answer a line, in order, until the lines end or `stopped()`.

        Raises RunError when no worker can be started. Every process has ended when the iterator has, or is closed.
        """
        try:
            more = True
            while not stopped():
                more = more and self._fill(lines)
                if not more and self._read == self._written:
                    return
                self._deal()
                for key, _ in self._selector.select(_LOOK_SECONDS):
                    self._attend(key.data)
                for worker in [worker for worker in self._workers if worker.overdue()]:
                    self._lose(worker, worker.overdue())
                yield from self._in_order()
        finally:
            self.close()

    def close(self) -> None:
        """Ends all processes."""
        for worker in self._workers:
            worker.ask_to_end()
        deadline = time.monotonic() + _END_SECONDS
        for worker in self._workers:
            worker.end(deadline)
        self._workers.clear()
        self._selector.close()

    def _fill(self, lines: Iterator[bytes]) -> bool:
        """Reads rows up to the bounds; False when there are no more."""
        while self._read - self._written < WINDOW and self._bytes < HELD:
            line = next(lines, None)
            if line is None:
                return False
            self._read += 1
            self._held[self._read] = line
            self._bytes += len(line)
            self._todo.append(self._read)
        return True

    def _deal(self) -> None:
        """Gives rows to workers that have room, and starts workers while rows wait for one."""
        while len(self._workers) < min(self._size, len(self._held)):
            self._start()
        for worker in self._workers:
            while self._todo and worker.room > 0:
                number = self._todo.popleft()
                worker.give(number, self._held[number])
            if worker.unsent:
                worker.send()
            self._watch(worker)

    def _start(self) -> None:
        worker = ScoreWorker(self._settings)
        self._workers.append(worker)
        self._selector.register(worker.stdout, selectors.EVENT_READ, worker)

    def _watch(self, worker: ScoreWorker) -> None:
        """Waits for room in the worker's pipe only while something is to be written."""
        watched = worker.stdin in self._selector.get_map()
        if worker.unsent and not watched:
            self._selector.register(worker.stdin, selectors.EVENT_WRITE, worker)
        elif watched and not worker.unsent:
            self._selector.unregister(worker.stdin)

    def _attend(self, worker: ScoreWorker) -> None:
        if worker not in self._workers:  # lost a moment ago
            return
        lines = worker.receive()
        if lines is None:
            self._lose(worker, "died")
            return
        if lines and not worker.ready:
            self._greet(worker, lines.pop(0))
        for line in lines:
            number, status, score, content = line.split(b" ", 3)
            self._finish(int(number), Answer(status.decode(), None if score == b"-" else float(score), content))
        if lines:
            worker.answered(len(lines))

    def _greet(self, worker: ScoreWorker, line: bytes) -> None:
        if line.startswith(REFUSED):
            raise RunError(line.removeprefix(REFUSED).strip().decode())
        assert line == READY, line
        worker.ready, self._failed_starts = True, 0

    def _finish(self, number: int, answer: Answer) -> None:
        self._bytes -= len(self._held.pop(number))
        self._done[number] = answer

    def _in_order(self) -> Iterator[Answer]:
        while self._written + 1 in self._done:
            self._written += 1
            yield self._done.pop(self._written)

    def _lose(self, worker: ScoreWorker, why: str) -> None:
        """Takes a worker out, dead or hung; its rows are judged again, but for one that has been the end of several."""
        for stream in (worker.stdin, worker.stdout):
            with contextlib.suppress(KeyError):
                self._selector.unregister(stream)
        self._workers.remove(worker)
        if why != "died":
            worker.ask_to_end()
        how = worker.end(time.monotonic() + (_END_SECONDS if why != "died" else 1.0))
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= ATTEMPTS:
                raise RunError(f"worker processes do not start: {why}, {how}")
        elif worker.given:
            self._blame(worker, f"{why}, {how}")
        self._todo.extendleft(reversed(worker.given))

    def _blame(self, worker: ScoreWorker, why: str) -> None:
        number = worker.given[0]
        self._deaths[number] = self._deaths.get(number, 0) + 1
        if self._deaths[number] < ATTEMPTS:
            return
        worker.given.popleft()
        reason = f"line {number}: the worker process ended {ATTEMPTS} times at this row: {why}"
        row = rows.read(self._held[number], number)
        self._finish(number, Answer("verifier_failed", None, rows.answer(row.id, verifier_failed(reason))))
