"""What one call of a foreign reward function is about, in the forms in which the systems hand it over."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any

TRUTHS = ("ground_truth", "answer", "solution", "label", "target")  # parameters that may mean the ground truth


class Status(enum.Enum):
    """How an answer ended, by slime's names."""

    COMPLETED = "completed"
    TRUNCATED = "truncated"


@dataclass
class Sample:
    """An answer as slime's and miles' functions see it."""

    prompt: Any
    response: str
    label: Any
    tokens: list[int]
    response_length: int
    status: Status
    index: int
    metadata: dict[str, Any]
    group_index: int = 0
    reward: Any = None
    Status = Status


class Call:
    """One row with one or more answers to it, as plain data.

    row: id, prompt (text or list of role/content mappings), ground_truth, fields (its columns), prompt_ids.
    answers: mappings of text, truncated, token_ids, number.
    """

    def __init__(self, row: Mapping[str, Any], answers: list[Mapping[str, Any]]) -> None:
        self.row, self.answers = row, answers
        self.count = len(answers)
        self.prompt = row["prompt"]
        self.prompt_ids: list[int] = list(row.get("prompt_ids", ()))
        self.is_chat = not isinstance(self.prompt, str)
        self.texts: list[str] = [answer["text"] for answer in answers]
        self.truncated: list[bool] = [bool(answer.get("truncated")) for answer in answers]
        self.token_ids: list[list[int]] = [list(answer.get("token_ids", ())) for answer in answers]

    @property
    def text(self) -> str:
        return self.texts[0]

    @property
    def fields(self) -> Mapping[str, Any]:
        return self.row["fields"]

    @cached_property
    def prompt_text(self) -> str:
        """A chat's turns joined by newlines: the tokenizer that could put special tokens between them is elsewhere."""
        return self.prompt if isinstance(self.prompt, str) else "\n".join(turn["content"] for turn in self.prompt)

    @property
    def truth(self) -> Any:
        """The ground truth; a number, list or mapping as the row has it rather than as text."""
        return self.fields.get("ground_truth", self.row["ground_truth"])

    @property
    def data_source(self) -> Any:
        return self.fields.get("data_source") or self.fields.get("dataset") or ""

    @property
    def extra_info(self) -> dict[str, Any]:
        given = self.fields.get("extra_info")
        own = given if isinstance(given, Mapping) else {}
        return {**own, "num_turns": own.get("num_turns", 1), "rollout_reward_scores": {}}

    def completions(self, chat: bool) -> list[Any]:
        """The answers as texts, or each as the one message of an assistant."""
        return [_said(text) for text in self.texts] if chat else list(self.texts)

    @property
    def states(self) -> list[dict[str, Any]]:
        """One rollout state an answer, by the names of verifiers; prompt and completion are messages, as its chats are."""
        prompt = self.prompt if self.is_chat else [{"role": "user", "content": self.prompt}]
        info = self.fields.get("info")
        if isinstance(info, str):
            info = _json(info)
        shared = {"answer": self.truth, "task": self.fields.get("task", "default"), "info": info or {},
                  "example_id": self.row["id"], "turn": 1}  # fmt: skip
        return [
            {**shared, "prompt": [dict(turn) for turn in prompt], "completion": _said(text), "is_truncated": cut}
            for text, cut in zip(self.texts, self.truncated, strict=True)
        ]

    @property
    def samples(self) -> list[Sample]:
        metadata = self.fields.get("metadata")
        metadata = dict(metadata) if isinstance(metadata, Mapping) else dict(self.fields)
        return [
            Sample(
                self.prompt, text, self.truth, [*self.prompt_ids, *ids], len(ids),
                Status.TRUNCATED if cut else Status.COMPLETED, int(answer.get("number", 0)), dict(metadata),
            )
            for text, ids, cut, answer in zip(self.texts, self.token_ids, self.truncated, self.answers, strict=True)
        ]  # fmt: skip

    def settings(self, arguments: Mapping[str, Any]) -> SimpleNamespace:
        """slime's args: what the option `arguments` holds."""
        return SimpleNamespace(**{"reward_key": None, **arguments})

    def columns(self, grouped: bool) -> dict[str, Any]:
        """The row's columns, and the ground truth by its own name; for a group lists with one entry an answer."""
        row = {"ground_truth": self.truth, **self.fields}
        return {name: [value] * self.count for name, value in row.items()} if grouped else dict(row)

    def stand_in(self, name: str, grouped: bool) -> Any:
        """The ground truth for a parameter that names it in another way than the row's column does; else None."""
        if name not in TRUTHS:
            return None
        return [self.truth] * self.count if grouped else self.truth


def _said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {}
