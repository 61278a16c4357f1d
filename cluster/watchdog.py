"""Every wait of the pipeline: bounded in time, named, and open to an interrupt."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray

from ..configs.errors import RunError

SLICE = 0.5  # seconds between looks at the interrupt flag


class StallError(RunError):
    """Something did not answer in its time; the message names it."""


class Interrupted(RuntimeError):
    """The user asked the run to stop."""


class StopFlag:
    """Set by the first SIGINT or SIGTERM; a second one raises KeyboardInterrupt at once."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def check(self) -> None:
        if self.event.is_set():
            raise Interrupted("stopped by a signal")

    @contextmanager
    def installed(self) -> Iterator[StopFlag]:
        """Handle the signals while the block runs; a no-op outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for s, handler in before.items():
                signal.signal(s, handler)

    def _on_signal(self, number: int, frame: Any) -> None:
        if self.event.is_set():
            raise KeyboardInterrupt
        self.event.set()


def gather(refs: Sequence[Any], timeout: float, what: str, stop: StopFlag | None = None) -> list[Any]:
    """Results of all refs, in order. Raises StallError naming `what` after `timeout` seconds, Interrupted when `stop` is set, and
    whatever a task raised."""
    deadline = time.monotonic() + timeout
    pending = list(refs)
    while pending:
        if stop is not None:
            stop.check()
        left = deadline - time.monotonic()
        if left <= 0:
            raise StallError(f"{what}: {len(pending)} of {len(refs)} answers missing after {timeout:.0f} s")
        done, pending = ray.wait(pending, num_returns=len(pending), timeout=min(SLICE, left))
        if done and pending:
            ray.get(done)  # an error of one must not wait for the others
    return ray.get(list(refs))
