"""Anyone's reward function as a verifier: unchanged, in a killable process of its own, with limits and checked scores.

Whatever it returns that is no score on the scale, and whatever it raises, is the verifier's failure and names function and row.
Running into the limit of time, memory or processes scores 0 only when the answer is to blame: the function is called once more with
the ground truth in the answer's place, in a fresh process, and where that ends no better the failure is the function's own.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..records import Prompt, Verdict
from .function_link import FunctionFailed, FunctionLimit, FunctionLink, FunctionRefused
from .interfaces import INTERFACES
from .limits import MIB
from .outcomes import Scale
from .spec import Spec
from .steps import note
from .verifier import Answer, one_line, scored, skipped, verifier_failed

FUSE = 4  # calls in a row without an answer, by no answer's fault: then one a batch is tried until one is answered


class Function:
    """The verifier of a function in a file or module.

    timeout: seconds for one answer; a call for a group has as many times that. low, high: the scale of its scores, mapped to 0..1.
    interface: auto, or one of interfaces.INTERFACES. arguments: further arguments by name (for a class: those it is made with).
    memory_mb: private memory of each of its processes. processes: that it may start beside its own at a time. concurrency: coroutines
    that run side by side. key: of the score in a returned mapping.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        timeout: float = 5.0,
        low: float = 0.0,
        high: float = 1.0,
        interface: str = "auto",
        arguments: Mapping[str, Any] | None = None,
        memory_mb: int = 4096,
        processes: int = 256,
        concurrency: int = 16,
        key: str = "score",
    ) -> None:
        Scale(low, high, key)
        if interface not in ("auto", *INTERFACES):
            raise ValueError(
                f"option 'interface' of verifier {spec.label!r} is {interface!r}, wanted auto or {', '.join(INTERFACES)}"
            )
        for name, value, least in (
            ("memory_mb", memory_mb, 64),
            ("processes", processes, 0),
            ("concurrency", concurrency, 1),
        ):
            if value < least:
                raise ValueError(f"option {name!r} of verifier {spec.label!r} is {value!r}, wanted {least} or more")
        self.name = spec.label
        self._timeout, self._concurrency, self._memory_mb = timeout, concurrency, memory_mb
        self._link = FunctionLink(spec, {
            "low": low, "high": high, "key": key, "interface": interface, "arguments": dict(arguments or {}),
            "memory": memory_mb * MIB,
        }, processes)  # fmt: skip
        self._hopeless: set[str] = set()  # rows on which the ground truth ran into a limit
        self._streak = 0  # calls in a row without an answer, for no answer's fault

    @property
    def grouped(self) -> bool:
        """Whether it is called with all answers to a prompt at once. Starts the process; False when that fails."""
        try:
            return bool(self._link.start()["grouped"])
        except (FunctionFailed, FunctionRefused):
            return False

    def start(self) -> dict[str, Any]:
        """Loads the function and says what it is: interface, grouped, asynchronous. Raises ValueError, one line."""
        try:
            return self._link.start()
        except (FunctionFailed, FunctionRefused) as error:
            raise ValueError(one_line(f"verifier {self.name!r}: {error}")) from error

    def score(self, response: str, prompt: Prompt, *, truncated: bool = False) -> Verdict:
        """The verdict on one answer, which is a group of its own."""
        return self.score_all([Answer(prompt, response, truncated)])[0]

    def score_all(self, answers: Sequence[Answer]) -> list[Verdict]:
        """One verdict an answer, in order. A function for groups is called once for all answers of a group."""
        try:
            about = self._link.start()
        except (FunctionFailed, FunctionRefused) as error:
            return [self._failed(answer.prompt, str(error)) for answer in answers]
        note("function", "{}: {}", self.name, about)
        verdicts: dict[int, Verdict] = {}
        for number, places in enumerate(self._questions(answers, about)):
            calls = [[answers[place] for place in call] for call in places]
            start = time.perf_counter()
            found = self._unasked(calls) if number and self._streak >= FUSE else self._asked(calls)
            seconds = (time.perf_counter() - start) / len(found)
            flat = [place for call in places for place in call]
            verdicts |= {place: replace(one, seconds=seconds) for place, one in zip(flat, found, strict=True)}
        return [verdicts[place] for place in range(len(answers))]

    def close(self) -> None:
        """Ends the process and all that it started."""
        self._link.close()

    def _questions(self, answers: Sequence[Answer], about: Mapping[str, Any]) -> list[list[list[int]]]:
        """Places of the answers by question and call."""
        if about["grouped"]:
            groups: dict[tuple[str, str], list[int]] = {}
            for place, answer in enumerate(answers):
                groups.setdefault((answer.prompt.id, answer.group), []).append(place)
            return [[places] for places in groups.values()]
        size = self._concurrency if about["asynchronous"] else 1
        singles = [[place] for place in range(len(answers))]
        return [singles[i : i + size] for i in range(0, len(singles), size)]

    def _asked(self, calls: list[list[Answer]]) -> list[Verdict]:
        """The verdicts of one question, those of calls that went wrong together found out one by one."""
        seconds = self._timeout * max(map(len, calls))
        try:
            results = self._link.ask(calls, seconds)
        except (FunctionFailed, FunctionRefused) as error:
            if len(calls) > 1:
                return [verdict for call in calls for verdict in self._asked([call])]
            if isinstance(error, FunctionLimit):
                return self._limited(calls[0], str(error), seconds)
            self._streak += 1
            return [self._failed(answer.prompt, str(error)) for answer in calls[0]]
        verdicts: list[Verdict] = []
        for call, outcomes in zip(calls, results, strict=True):
            limit = next((one["reason"] for one in outcomes if one["status"] == "limit"), "")
            if limit == "memory":
                verdicts += self._out_of_memory(call, seconds)
            elif limit:
                verdicts += self._limited(call, f"time limit of {seconds:g} s", seconds)
            else:
                self._streak = 0
                verdicts += [self._verdict(answer, one) for answer, one in zip(call, outcomes, strict=True)]
        return verdicts

    def _out_of_memory(self, call: list[Answer], seconds: float) -> list[Verdict]:
        used = self._link.served > 1
        self._link.close()
        if used:  # what filled it may be what earlier calls left there: a fresh process tells
            return self._asked([call])
        return self._limited(call, f"memory limit of {self._memory_mb} MiB", seconds)

    def _limited(self, call: list[Answer], limit: str, seconds: float) -> list[Verdict]:
        """Verdicts on a call that ran into a limit, by whose fault it was."""
        prompt = call[0].prompt
        if prompt.id not in self._hopeless and self._fails_by_itself(call, seconds):
            self._hopeless.add(prompt.id)
        if prompt.id in self._hopeless:
            self._streak += 1
            why = f"ran into the {limit}, as it does with the ground truth for an answer"
            return [self._failed(prompt, why)] * len(call)
        self._streak = 0
        return [scored(0.0, one_line(f"{self.name}: the answer ran into the {limit}"))] * len(call)

    def _fails_by_itself(self, call: list[Answer], seconds: float) -> bool:
        """Whether the ground truth in the place of every answer runs into a limit too."""
        control = [replace(answer, text=answer.prompt.ground_truth, token_ids=()) for answer in call]
        try:
            (outcomes,) = self._link.ask([control], seconds)
        except (FunctionFailed, FunctionRefused):
            return True
        return any(one["status"] == "limit" for one in outcomes)

    def _unasked(self, calls: list[list[Answer]]) -> list[Verdict]:
        why = f"not asked, since the last {self._streak} calls got no answer"
        return [self._failed(answer.prompt, why) for call in calls for answer in call]

    def _verdict(self, answer: Answer, outcome: Mapping[str, Any]) -> Verdict:
        if outcome["status"] == "verifier_failed":
            return self._failed(answer.prompt, outcome["reason"])
        if outcome["status"] == "skipped":
            return skipped(outcome["reason"])
        return replace(scored(outcome["score"], one_line(outcome["reason"])), components=outcome["components"])

    def _failed(self, prompt: Prompt, why: str) -> Verdict:
        return verifier_failed(f"{self.name} on row {prompt.id!r}: {why}")
