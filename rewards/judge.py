"""From a completion to its verdict: the rule for truncated ones, the prompt's verifier, retries, and checks of what it says."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..records import Completion, Prompt, Verdict
from . import registry
from .asking import asked, raised
from .judge_link import JudgeLost
from .verifier import Answer, BatchVerifier, Verifier, scored, skipped

TRUNCATED = ("zero", "score", "mask")
TRUNCATED_REASON = "truncated"  # of a verdict that the rule gave, and no verifier
TokenIds = Mapping[str, np.ndarray]  # int [tokens]


class Judge:
    """Holds the verifiers that its prompts name; not for use by several threads at once.

    verifier, options, truncated: the `reward` section; options belong to that verifier, others run with their defaults.
    timeout, retries: of the `verifier` section. Raises ValueError for settings that do not exist.
    """

    def __init__(
        self,
        verifier: str = "math",
        options: Mapping[str, Any] | None = None,
        truncated: str = "zero",
        timeout: float = 5.0,
        retries: int = 2,
    ) -> None:
        if truncated not in TRUNCATED:
            raise ValueError(f"reward.truncated is {truncated!r}, wanted one of {', '.join(TRUNCATED)}")
        if retries < 0:
            raise ValueError(f"verifier.retries is {retries}, wanted 0 or more")
        registry.check(verifier, options or {}, load=False)
        self._default, self._options = verifier, dict(options or {})
        self._truncated, self._timeout, self._retries = truncated, timeout, retries
        self._verifiers: dict[str, Verifier] = {}
        self._labels: dict[str, str] = {}

    def judge(self, prompt: Prompt, completion: Completion) -> Verdict:
        """The verdict, with the seconds it took. Raises ValueError only when the prompt names a verifier that does not exist."""
        return self.judge_all([(prompt, completion)])[0]

    def judge_all(
        self, items: Sequence[tuple[Prompt, Completion]], prompt_ids: TokenIds | None = None
    ) -> list[Verdict]:
        """One verdict an item, in order; whatever a verifier does on one costs the others nothing.

        Completions of one uid are a group. A verifier that scores groups sees the group's answers together, those that the rule for
        truncated ones has not decided. prompt_ids: tokens of the prompts by uid, for functions that ask for them.
        """
        if len(items) == 1:
            return [self._judged(_answer(*items[0], prompt_ids or {}))]
        answers = [_answer(prompt, completion, prompt_ids or {}) for prompt, completion in items]
        verdicts: dict[int, Verdict] = {}
        by_name: dict[str, list[int]] = {}
        for place, answer in enumerate(answers):
            ruled = self._ruled(answer)
            if ruled is not None:
                verdicts[place] = ruled
            else:
                by_name.setdefault(self._name(answer.prompt), []).append(place)
        for name, places in by_name.items():
            found = self._attempts(name, [answers[place] for place in places])
            verdicts |= dict(zip(places, found, strict=True))
        return [verdicts[place] for place in range(len(answers))]

    def start(self, name: str = "") -> None:
        """Starts what a verifier (the default one unless named) offers to start, so that no judgement waits for it. Raises
        JudgeRefused."""
        verifier = self._verifiers.get(name or self._default) or self._created(name or self._default)
        start = getattr(verifier, "start", None)
        if callable(start):
            with contextlib.suppress(JudgeLost):  # the next judgement tries again, and says so
                start()

    def close(self) -> None:
        """Ends what the verifiers started."""
        for verifier in self._verifiers.values():
            verifier.close()
        self._verifiers.clear()

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _judged(self, answer: Answer) -> Verdict:
        ruled = self._ruled(answer)
        return self._attempts(self._name(answer.prompt), [answer])[0] if ruled is None else ruled

    def _ruled(self, answer: Answer) -> Verdict | None:
        """The verdict that a rule alone gives."""
        if answer.truncated and self._truncated == "zero":
            return scored(0.0, TRUNCATED_REASON)
        if answer.truncated and self._truncated == "mask":
            return skipped(TRUNCATED_REASON)
        return None

    def _name(self, prompt: Prompt) -> str:
        """Of the prompt's verifier. A row may name those that are known, and the one of the settings: data starts no other code."""
        name = prompt.verifier or self._default
        if name not in self._verifiers and name != self._default and name not in registry.known():
            raise ValueError(f"prompt {prompt.id!r}: {registry.unknown(name)}")
        return name

    def _attempts(self, name: str, answers: Sequence[Answer]) -> list[Verdict]:
        """The verdicts of one verifier; what failed is asked again, of a verifier of groups with the rest of its group."""
        verdicts = self._attempt(name, answers)
        for _ in range(self._retries):
            failed = {_group_of(a) for a, v in zip(answers, verdicts, strict=True) if v.status == "verifier_failed"}
            if not failed:
                break
            whole = self._is_grouped(name)
            again = [
                place for place, (answer, verdict) in enumerate(zip(answers, verdicts, strict=True))
                if (_group_of(answer) in failed if whole else verdict.status == "verifier_failed")
            ]  # fmt: skip
            for place, verdict in zip(again, self._attempt(name, [answers[p] for p in again]), strict=True):
                seconds = verdicts[place].seconds + verdict.seconds
                verdicts[place] = replace(verdict, seconds=seconds)
        return verdicts

    def _attempt(self, name: str, answers: Sequence[Answer]) -> list[Verdict]:
        label = self._labels.get(name) or self._labels.setdefault(name, registry.label(name))
        try:
            return asked(self._verifiers.get(name) or self._created(name), label, answers)
        except Exception as error:  # noqa: BLE001 - the border to foreign code: whatever its making raises must not end the run
            return [raised(error, label, answer) for answer in answers]

    def _is_grouped(self, name: str) -> bool:
        verifier = self._verifiers.get(name)
        return isinstance(verifier, BatchVerifier) and verifier.grouped

    def _created(self, name: str) -> Verifier:
        options = self._options if name == self._default else {}
        self._verifiers[name] = registry.create(name, options, self._timeout)
        return self._verifiers[name]


def _answer(prompt: Prompt, completion: Completion, prompt_ids: TokenIds) -> Answer:
    truncated, uid = completion.finish_reason != "stop", completion.uid  # by length or by its deadline
    return Answer(
        prompt, completion.text, truncated, uid, completion.sample, completion.token_ids, prompt_ids.get(uid, ())
    )


def _group_of(answer: Answer) -> tuple[str, str]:
    return answer.prompt.id, answer.group
