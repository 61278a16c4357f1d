"""The parent's side of the checker process, which is replaced when it is used up."""

from __future__ import annotations

import os
import sys
from typing import Any

from .line_process import KEPT_VARIABLES, LineProcess

MEMORY_BYTES = 3 << 30  # of address space
TASKS = 1000  # then a new process: caches of the algebra system grow


class AnswerLimit(Exception):
    """The answer ran into the time or memory limit: it scores 0."""


class WorkerFailed(Exception):
    """The process died or did not start: says nothing of the answer."""


class Worker(LineProcess):
    """One process, one question at a time; safe to share between threads. `limit` and `memory` hold for each question.

    >>> Worker(limit=5.0).equal("value", "2x+2", "2(x+1)")
    True
    """

    what = "checker process"
    failure = WorkerFailed

    def __init__(self, limit: float, memory: int = MEMORY_BYTES, tasks: int = TASKS) -> None:
        super().__init__()
        self.limit, self.memory, self.tasks = limit, memory, tasks
        self._left = 0

    def equal(self, kind: str, gold: str, answer: str, limit: float | None = None) -> bool:
        """See checker.equal. Raises AnswerLimit, or WorkerFailed when the process was lost for another reason."""
        seconds = self.limit if limit is None else limit
        if seconds <= 0:
            raise AnswerLimit(f"time limit of {self.limit:g} s")
        with self.lock:
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
        with self.lock:
            self._ensure()

    def _command(self) -> list[str]:
        return [sys.executable, "-P", "-m", "mimosa.rewards.checker", str(self.memory)]

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in (*KEPT_VARIABLES, "HOME") if name in os.environ}
        return kept | {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}

    def _greeted(self, said: dict[str, Any]) -> None:
        self._left = self.tasks

    def _ask(self, question: dict[str, Any], seconds: float) -> dict[str, Any]:
        self._send(question)
        reply = self._receive(seconds)
        if reply is None:
            self._stop()
            raise AnswerLimit(f"time limit of {self.limit:g} s")
        return reply
