"""The verifier's side of a foreign function's process."""

from __future__ import annotations

import base64
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from . import process_tree
from .line_process import LineProcess
from .spec import Spec
from .verifier import Answer

_GRACE = 0.5  # seconds for a coroutine's own limit to be told

Call = Sequence[Answer]  # of one group


class FunctionFailed(Exception):
    """The process died, did not start, or was sent what cannot travel: says nothing of the answer."""


class FunctionRefused(Exception):
    """The function cannot be loaded, or called as any known system does."""


class FunctionLimit(FunctionFailed):
    """A question ran into a limit, which the message names, and the process was ended with all that it had started."""


class FunctionLink(LineProcess):
    """One process, one question at a time. settings: as function_process.Function takes them, without the place."""

    failure = FunctionFailed
    start_seconds = 120.0  # a user's imports may be many

    def __init__(self, spec: Spec, settings: Mapping[str, Any], processes: int) -> None:
        """processes: that the function may have below its own at a time."""
        super().__init__()
        self._most = processes
        self.what = f"the process of {spec.label}"
        self._spec = spec
        self._settings = {"kind": spec.kind, "place": spec.place, "function": spec.function, **settings}
        self.about: dict[str, Any] = {}  # what it said of the function: interface, grouped, asynchronous
        self.served = 0  # questions since its start
        self._number = 0

    def start(self) -> dict[str, Any]:
        """Starts the process unless it runs; what it says of the function. Raises FunctionFailed, FunctionRefused."""
        with self.lock:
            self._ensure()
            return self.about

    def ask(self, calls: Sequence[Call], seconds: float) -> list[list[dict[str, Any]]]:
        """For each call one outcome an answer. Raises FunctionLimit, FunctionFailed, FunctionRefused."""
        packed = _packed(calls)
        with self.lock:
            self._ensure()
            self._number += 1
            self.served += 1
            self._send({"number": self._number, "seconds": seconds, "calls": packed})
            while True:
                reply = self._receive(seconds + (_GRACE if len(calls) > 1 else 0.0))
                if reply is None:
                    self._stop()
                    raise FunctionLimit(f"time limit of {seconds:g} s")
                if reply.get("number") == self._number:
                    return reply["results"]

    def _command(self) -> list[str]:
        return [sys.executable, "-P", "-m", "mimosa.rewards.function_process", self._spec.text]

    def _environment(self) -> dict[str, str]:
        return dict(os.environ)  # the user's own code, which may want a key from there

    def _opened(self) -> None:
        self._send(self._settings)  # not among the arguments, where everyone on the machine could read a key

    def _greeted(self, said: dict[str, Any]) -> None:
        self.served = 0
        if "ready" not in said:
            self._stop()
            raise FunctionRefused(said["refused"])
        self.about = said

    def _glanced(self) -> None:
        process = self._process
        # One more than the function's: our watcher. Who forks without end is met here, a limit of the kernel's does not bind root.
        if process is not None and len(process_tree.descendants(process.pid)) > self._most + 1:
            self._stop()
            raise FunctionLimit(f"limit of {self._most} processes")

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            process_tree.end(process.pid)
        process_tree.end_group(process.pid)


def _packed(calls: Sequence[Call]) -> str:
    rows = []
    for call in calls:
        prompt = call[0].prompt
        text = prompt.prompt
        row = {
            "id": prompt.id, "ground_truth": prompt.ground_truth, "fields": dict(prompt.fields),
            "prompt": text if isinstance(text, str) else [{"role": m.role, "content": m.content} for m in text],
            "prompt_ids": [int(token) for token in call[0].prompt_ids],
        }  # fmt: skip
        answers = [
            {
                "text": a.text,
                "truncated": a.truncated,
                "token_ids": [int(token) for token in a.token_ids],
                "number": a.number,
            }
            for a in call
        ]
        rows.append((row, answers))
    try:
        return base64.b64encode(pickle.dumps(rows)).decode()
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise FunctionFailed(f"a column of the row cannot travel to another process: {error}") from error
