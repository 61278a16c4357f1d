"""The command `score`: a file of responses in, a file of verdicts out, row by row in the same order."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from . import rows
from .score_pool import Answer, ScorePool


@dataclass
class Tally:
    """What came of a file, for the summary."""

    statuses: Counter[str] = field(default_factory=Counter)
    total: float = 0.0  # of the scores
    ones: int = 0
    first_failure: str = ""  # the reason of the first verifier_failed, as JSON
    seconds: float = 0.0
    stopped: bool = False  # by a signal

    @property
    def rows(self) -> int:
        return sum(self.statuses.values())

    def add(self, answer: Answer) -> None:
        self.statuses[answer.status] += 1
        self.total += answer.score or 0.0
        self.ones += answer.score == 1.0
        if answer.status == "verifier_failed" and not self.first_failure:
            self.first_failure = answer.line.decode()

    def summary(self) -> str:
        """One line."""
        scored = self.statuses["scored"]
        mean = f", mean {self.total / scored:.4f}, {self.ones:,} score 1" if scored else ""
        others = ", ".join(f"{self.statuses[one]:,} {one}" for one in ("verifier_failed", "skipped"))
        rate = self.rows / max(self.seconds, 1e-9)
        head = "stopped after" if self.stopped else "judged"
        return f"{head} {self.rows:,} rows in {self.seconds:.1f} s ({rate:,.0f}/s): {scored:,} scored{mean}; {others}"


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))


def count(path: str) -> int:
    """Lines of a file, for a progress bar; 0 where counting would use it up."""
    if not Path(path).is_file():
        return 0
    found = 0
    with rows.opened(path) as file:
        while block := file.read(1 << 20):
            found += block.count(b"\n")
    return found


def score_file(
    source: str,
    target: str,
    spec: str,
    options: Mapping[str, Any],
    workers: int,
    timeout: float,
    advance: Callable[[int], Any] = lambda rows: None,
) -> Tally:
    """Judges every line of `source` and writes as many lines to `target`; `advance` is told of rows that are done.

    After a signal `target` holds the whole lines of the first rows. Raises ValueError for settings that are wrong, RunError where no
    worker can be started.
    """
    _check(source, target, workers, timeout)
    tally, start = Tally(), time.monotonic()
    pool = ScorePool({"spec": spec, "options": dict(options), "timeout": timeout}, workers)
    with rows.opened(source) as file, open(target, "wb") as out, _signals() as signals:

        def stopped() -> bool:
            out.flush()  # for who follows the output
            return bool(signals)

        with closing(pool.answers(rows.lines(file), stopped)) as answers:
            for answer in answers:
                out.write(answer.line + b"\n")
                tally.add(answer)
                advance(1)
    tally.stopped, tally.seconds = bool(signals), time.monotonic() - start
    return tally


def _check(source: str, target: str, workers: int, timeout: float) -> None:
    if workers < 1:
        raise ValueError(f"--workers: got {workers}, wanted at least 1")
    if not 0 < timeout < float("inf"):
        raise ValueError(f"--timeout: got {timeout}, wanted more than 0 seconds")
    rows.check(source)
    if Path(target).exists() and Path(target).samefile(source):
        raise ValueError(f"--out: got {target!r}, which is the file of the rows, wanted another")


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM instead of breaking off at any point. In a thread that gets none it stays empty."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
