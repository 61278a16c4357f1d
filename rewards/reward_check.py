"""The command `reward-check`: a reward tried on real rows before a run. What is right must score 1; what is not must not.

Each row is judged with the right response, an empty one, the right response of another row, the right one cut in its middle, and one
that names the right answer beside a wrong one. Rows are prompts; `response` holds the right one where the data has it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..configs.errors import RunError
from ..records import Completion, Prompt, Verdict
from . import extraction
from .judge import Judge
from .judge_link import JudgeRefused
from .verifier import one_line

_FORMS = ("\\boxed{{{}}}", "#### {}", "<answer>{}</answer>", "{}")  # of an answer, where the data shows none
_TRIED = 8  # rows on which a form is looked for
_TRIES = 20  # to find a row with another answer
_SAME_SHARE = 0.05  # of pairs that may be the same answer in other writing
_NOTHING = np.zeros(0, np.int32)


@dataclass(slots=True)
class Probe:
    """One way of answering every row, and the rows for which the reward said what it should not."""

    name: str
    wanted: str
    tried: int = 0
    total: float = 0.0  # of the scores
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)  # the verifier's own failures


class RewardCheck:
    """One reward on some rows. Raises ValueError where the rows allow no right response."""

    def __init__(self, prompts: Sequence[Prompt], judge: Judge, spec: str, options: Mapping[str, Any]) -> None:
        if not prompts:
            raise ValueError("data: got no rows, wanted one or more")
        self._prompts, self._judge = list(prompts), judge
        self.form = "" if all(prompt.response for prompt in prompts) else self._form(spec, options)
        self._right = [prompt.response or _filled(self.form, prompt.ground_truth) for prompt in prompts]
        self._partners = self._paired()
        self.same: list[str] = []  # pairs of rows that take each other's answer
        self.slowest = 0.0  # seconds

    @property
    def example(self) -> str:
        """A right response."""
        return self._right[0]

    def probes(self) -> list[Probe]:
        """All of them, in order."""
        return [
            self._probe("right", "must score 1", lambda row: self._right[row], lambda verdict: verdict.score != 1.0),
            self._probe("empty", "must score 0", lambda row: "", lambda verdict: bool(verdict.score)),
            self._foreign(),
            self._probe("cut in half", "must not score 1", self._cut, _is_one),
            self._probe("hedged", "must not score 1", self._hedged, _is_one),
        ]

    def _probe(
        self, name: str, wanted: str, response: Callable[[int], str | None], is_wrong: Callable[[Verdict], bool]
    ) -> Probe:
        probe = Probe(name, wanted)
        for row, prompt in enumerate(self._prompts):
            text = response(row)
            if text is not None:
                verdict = self._verdict(prompt, text)
                self._add(probe, prompt, text, verdict, is_wrong(verdict))
        return probe

    def _foreign(self) -> Probe:
        """Another row's right response. Two rows that take each other's may mean the same."""
        probe = Probe("another row's", "must not score 1")
        for row, other in self._partners.items():
            prompt, text = self._prompts[row], self._right[other]
            verdict = self._verdict(prompt, text)
            mutual = _is_one(verdict) and _is_one(self._verdict(self._prompts[other], self._right[row]))
            if mutual:
                self.same.append(
                    f"{prompt.id} and {self._prompts[other].id} ({_short(self._right[row])}, {_short(text)})"
                )
            self._add(probe, prompt, text, verdict, _is_one(verdict) and not mutual)
        if len(self.same) > _SAME_SHARE * len(self._partners):
            probe.wrong += [f"rows {pair} take each other's" for pair in self.same]
            self.same = []
        return probe

    def _add(self, probe: Probe, prompt: Prompt, text: str, verdict: Verdict, wrong: bool) -> None:
        probe.tried += 1
        probe.total += verdict.score or 0.0
        self.slowest = max(self.slowest, verdict.seconds)
        score = "no score" if verdict.score is None else f"{verdict.score:g}"
        line = f"row {prompt.id}, response {_short(text)}: {score}, {verdict.reason}"
        if verdict.status == "verifier_failed":
            probe.failed.append(line)
        elif wrong:
            probe.wrong.append(line)

    def _verdict(self, prompt: Prompt, text: str) -> Verdict:
        return self._judge.judge(prompt, Completion(prompt.id, 0, _NOTHING, _NOTHING, _NOTHING, "stop", text))

    def _form(self, spec: str, options: Mapping[str, Any]) -> str:
        """How a right response is made of a ground truth."""
        bare = next((prompt for prompt in self._prompts if not prompt.response), self._prompts[0])
        if spec in ("code", "countdown"):
            raise ValueError(
                f"data: row {bare.id} has no response, wanted one that is right: {spec} has none to make of its ground truth"
            )
        if not bare.ground_truth.strip():
            raise ValueError(f"data: row {bare.id} has neither ground_truth nor response, wanted one of them")
        if spec == "math":
            return f"{options['answer_after']} {{}}" if options.get("answer_after") else _FORMS[0]
        if spec == "exact":
            return _FORMS[0] if options.get("boxed", True) else "{}"
        some = [prompt for prompt in self._prompts if not prompt.response][:_TRIED]
        return max(_FORMS, key=lambda form: sum(
            self._verdict(prompt, _filled(form, prompt.ground_truth)).score or 0.0 for prompt in some))  # fmt: skip

    def _paired(self) -> dict[int, int]:
        """For each row another one whose answer is not the same, where one is found."""
        draw, pairs = random.Random(0), {}
        for row in range(len(self._prompts)):
            for _ in range(_TRIES):
                other = draw.randrange(len(self._prompts))
                if self._differ(row, other):
                    pairs[row] = other
                    break
        return pairs

    def _differ(self, row: int, other: int) -> bool:
        ours, theirs = self._prompts[row], self._prompts[other]
        same = ours.ground_truth.strip() == theirs.ground_truth.strip() and ours.fields.get(
            "tests"
        ) == theirs.fields.get("tests")
        return not same and self._right[row] != self._right[other]

    def _cut(self, row: int) -> str | None:
        right = self._right[row]
        return right[: len(right) // 2] if len(right) > 1 else None

    def _hedged(self, row: int) -> str | None:
        """The right response with `or` and another row's answer behind its own; None where it has no place for that."""
        prompt, right = self._prompts[row], self._right[row]
        if row not in self._partners or prompt.fields.get("tests"):
            return None
        answer = self._answer(row)
        at = right.rfind(answer) if answer else -1
        if at < 0:
            return None
        return f"{right[:at]}{answer} or {self._answer(self._partners[row])}{right[at + len(answer) :]}"

    def _answer(self, row: int) -> str:
        return extraction.boxed(self._right[row])[0] or self._prompts[row].ground_truth.strip()


def check(
    prompts: Sequence[Prompt], spec: str, options: Mapping[str, Any], timeout: float, say: Callable[[str], Any] = print
) -> int:
    """Tries the reward, says what was found, and returns the exit status: 1 when something looks wrong. Raises ValueError."""
    with Judge(spec, options, truncated="score", timeout=timeout) as judge:
        try:
            judge.start()
        except JudgeRefused as refused:
            raise RunError(one_line(f"the reward refuses to start: {refused}")) from refused
        found = RewardCheck(prompts, judge, spec, options)
        say(
            f"{spec} on {len(prompts)} rows, right responses {'made as' if found.form else 'such as'} {_short(found.example)}"
        )
        wrong = False
        for probe in found.probes():
            wrong |= bool(probe.wrong or probe.failed)
            for line in _report(probe):
                say(line)
    for line in _notes(found, timeout):
        say(line)
    say("something looks wrong: see above" if wrong else "nothing looks wrong")
    return int(wrong)


def _report(probe: Probe) -> list[str]:
    mark = "WRONG" if probe.wrong or probe.failed else "ok"
    if not probe.tried:
        return [f"  -      {probe.name:<14} no row allows it"]
    lines = [f"  {mark:<6} {probe.name:<14} {probe.wanted}: {probe.tried - len(probe.wrong) - len(probe.failed)} of "
             f"{probe.tried} rows do, mean score {probe.total / probe.tried:.3f}"]  # fmt: skip
    lines += [f"         {line}" for line in probe.wrong[:3]]
    return lines + [f"         {len(probe.failed)} could not be judged: {line}" for line in probe.failed[:1]]


def _notes(found: RewardCheck, timeout: float) -> list[str]:
    notes = []
    if found.same:
        notes.append(
            f"  note   {len(found.same)} pairs of rows take each other's answer, as the same one in other writing: {found.same[0]}"
        )
    if found.slowest > timeout / 2:
        notes.append(f"  note   the slowest judgement took {found.slowest:.1f} s of {timeout:g}")
    return notes


def _is_one(verdict: Verdict) -> bool:
    return verdict.score == 1.0


def _filled(form: str, truth: str) -> str:
    """A ground truth that is a whole solution with its box is a right response itself."""
    return truth if "\\boxed" in truth else form.format(truth.strip())


def _short(text: str) -> str:
    shown = one_line(text)
    return f"'{shown if len(shown) <= 80 else f'{shown[:40]}...{shown[-37:]}'}'"
