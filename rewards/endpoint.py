"""A verifier behind an address: every answer, or every group of answers, is one POST of JSON.

| form      | asks                                                                    | wants back                                 |
|-----------|-------------------------------------------------------------------------|--------------------------------------------|
| mimosa    | {"id", "prompt", "response", "ground_truth", "truncated", "fields"}     | {"score": number or null, "reason", ...}   |
| openrlhf  | {"query": [..], "prompts": [..], "labels": [..]}, one entry an answer   | {"rewards": [..], ...}                     |

Other numbers in the reply become component scores. Where no readable reply comes, the verifier has failed: an endpoint's silence says
nothing of the answer, and its time limit is not the answer's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

from ..records import Prompt, Verdict
from .http_post import NoAnswer, post
from .outcomes import Outcome, Scale, Unsound, several, single
from .spec import Spec
from .verifier import Answer, one_line, scored, skipped, verifier_failed

FORMS = ("mimosa", "openrlhf")


class Endpoint:
    """The verifier of an http(s) address.

    timeout: seconds for one question with all its attempts. form: as in the table above. low, high: the scale of the scores, mapped
    to 0..1. key: of the score in a reply. token_env: name of the environment variable whose content goes out as bearer token.
    headers: further ones. attempts: connections at most a question. concurrency: questions under way at once.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        timeout: float = 5.0,
        form: str = "mimosa",
        low: float = 0.0,
        high: float = 1.0,
        key: str = "",
        token_env: str = "",
        headers: Mapping[str, str] | None = None,
        attempts: int = 3,
        concurrency: int = 16,
    ) -> None:
        self.name = spec.label
        if form not in FORMS:
            raise ValueError(f"option 'form' of verifier {self.name!r} is {form!r}, wanted {' or '.join(FORMS)}")
        self.grouped = form == "openrlhf"
        self._scale = Scale(low, high, key or ("rewards" if self.grouped else "score"))
        self._channel = Channel(spec, timeout, token_env, headers or {}, attempts, concurrency)

    def score(self, response: str, prompt: Prompt, *, truncated: bool = False) -> Verdict:
        """The verdict on one answer, which is a group of its own."""
        return self.score_all([Answer(prompt, response, truncated)])[0]

    def score_all(self, answers: Sequence[Answer]) -> list[Verdict]:
        """One verdict an answer, in order."""
        groups: dict[Any, list[int]] = {}
        for place, answer in enumerate(answers):
            groups.setdefault((answer.prompt.id, answer.group) if self.grouped else place, []).append(place)
        questions = [[answers[place] for place in places] for places in groups.values()]
        verdicts: dict[int, Verdict] = {}
        for places, found in zip(groups.values(), self._channel.map(self._asked, questions), strict=True):
            verdicts |= dict(zip(places, found, strict=True))
        return [verdicts[place] for place in range(len(answers))]

    def close(self) -> None:
        """Nothing to end: every connection ends with its question."""

    def _asked(self, answers: Sequence[Answer]) -> list[Verdict]:
        body = _group(answers) if self.grouped else _one(answers[0])
        try:
            reply = self._channel.ask(body)
            found: Sequence[Outcome | str]
            found = several(reply, len(answers), self._scale) if self.grouped else [_single(reply, self._scale)]
        except (NoAnswer, Unsound) as why:
            found = [str(why)] * len(answers)
        return [self._verdict(answer, one) for answer, one in zip(answers, found, strict=True)]

    def _verdict(self, answer: Answer, outcome: Outcome | str) -> Verdict:
        if isinstance(outcome, str):
            return verifier_failed(f"{self.name} on row {answer.prompt.id!r}: {outcome}")
        if outcome.score is None:
            return skipped(outcome.reason)
        return replace(scored(outcome.score, one_line(outcome.reason)), components=outcome.components)


class Channel:
    """How an endpoint is asked: where, with what headers, how often and how many at once."""

    def __init__(
        self, spec: Spec, timeout: float, token_env: str, headers: Mapping[str, str], attempts: int, concurrency: int
    ) -> None:
        for name, value in (("attempts", attempts), ("concurrency", concurrency)):
            if value < 1:
                raise ValueError(f"option {name!r} of verifier {spec.label!r} is {value!r}, wanted 1 or more")
        if token_env and token_env not in os.environ:
            raise ValueError(
                f"option 'token_env' of verifier {spec.label!r} is {token_env!r}, which the environment lacks"
            )
        token = {"Authorization": f"Bearer {os.environ[token_env]}"} if token_env else {}
        self.address, self.timeout, self.attempts, self.concurrency = spec.place, timeout, attempts, concurrency
        self._headers = {**token, **headers}

    def ask(self, body: Mapping[str, Any], seconds: float | None = None) -> Any:
        """The decoded answer. Raises NoAnswer."""
        return post(self.address, body, self._headers, self.timeout if seconds is None else seconds, self.attempts)

    def map(self, ask: Any, questions: Sequence[Any]) -> list[Any]:
        """What `ask` makes of each, in order, several at a time."""
        with ThreadPoolExecutor(min(self.concurrency, max(1, len(questions)))) as threads:
            return list(threads.map(ask, questions))


def _single(reply: Any, scale: Scale) -> Outcome:
    if isinstance(reply, Mapping) and scale.key not in reply and "error" in reply:
        raise Unsound(f"it says: {reply['error']}")
    return single(reply, scale)


def _one(answer: Answer) -> dict[str, Any]:
    prompt = answer.prompt
    return {
        "id": prompt.id, "response": answer.text, "ground_truth": prompt.ground_truth, "truncated": answer.truncated,
        "prompt": prompt.prompt if isinstance(prompt.prompt, str) else [asdict(turn) for turn in prompt.prompt],
        "fields": dict(prompt.fields),
    }  # fmt: skip


def _group(answers: Sequence[Answer]) -> dict[str, Any]:
    prompt = answers[0].prompt
    text = prompt.prompt if isinstance(prompt.prompt, str) else "\n".join(turn.content for turn in prompt.prompt)
    return {
        "query": [text + answer.text for answer in answers], "prompts": [text] * len(answers),
        "labels": [prompt.ground_truth] * len(answers),
    }  # fmt: skip
