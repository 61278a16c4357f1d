"""The verifier's side of the judge process."""

from __future__ import annotations

import json
import sys
from typing import Any

from .line_process import LineProcess

_LATE = 0.8  # seconds beyond the limit that the judge has for its own ending


class JudgeLost(Exception):
    """The judge process died, did not start or made no sense: says nothing of the candidate."""


class JudgeLate(Exception):
    """The judge did not end in time: its tests hang on a value that the candidate returned."""


class JudgeRefused(Exception):
    """There is no sandbox on this machine."""


class JudgeLink(LineProcess):
    """One judge process, one job at a time; safe to share between threads. tier: as judge_process.choose takes it.

    Its start includes the sandbox's self-test; a kill ends zygote and candidate with it, by the kernel's hand.
    """

    what = "the judge process"
    failure = JudgeLost

    def __init__(self, tier: str) -> None:
        super().__init__()
        self._settings = {"tier": tier}
        self.about: dict[str, Any] = {}  # what the judge said of its sandbox

    def ask(self, job: dict[str, Any], limit: float) -> dict[str, Any]:
        """The outcome of a job whose clock runs `limit` seconds from its begin. Raises JudgeLost, JudgeLate, JudgeRefused."""
        with self.lock:
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
        with self.lock:
            self._ensure()

    def _begin(self, job: dict[str, Any]) -> dict[str, Any]:
        self._ensure()
        self._send(job)
        begun = self._receive(self.start_seconds)
        if begun is None:
            self._stop()
            raise JudgeLost("the sandbox was not ready in time")
        return begun

    def _command(self) -> list[str]:
        return [sys.executable, "-P", "-m", "mimosa.rewards.judge_process", json.dumps(self._settings)]

    def _folder(self) -> str:
        return "/"

    def _greeted(self, said: dict[str, Any]) -> None:
        if "ready" not in said:
            self._stop()
            raise JudgeRefused("; ".join(said["refused"]))
        self.about = said
