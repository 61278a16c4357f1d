"""Rows as other systems keep them, recognised by their fields: verl and SkyRL, Tülu, AReaL, ROLL, verifiers.

| form      | told by                                | prompt                     | ground truth                 |
|-----------|----------------------------------------|----------------------------|------------------------------|
| verl      | reward_model with ground_truth         | prompt (chat)              | reward_model.ground_truth    |
| skyrl     | reward_spec with ground_truth          | prompt (chat)              | reward_spec.ground_truth     |
| tulu      | messages, ground_truth, dataset        | messages                   | ground_truth (a list of one) |
| roll      | messages as JSON in a text             | messages                   | ground_truth                 |
| areal     | messages, answer                       | messages                   | answer                       |
| verifiers | answer with prompt or question         | prompt, else question      | answer                       |
| chat      | messages alone                         | messages                   | ground_truth                 |

A form stands in only where the settings leave `data.fields.prompt` and `data.fields.ground_truth` at their defaults and the row has no
such column. An assistant's turn at the end of messages is the demonstration, never part of the prompt.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..configs.schema import FieldsConfig

Columns = Mapping[str, Any]
DEFAULT = FieldsConfig()


@dataclass(frozen=True, slots=True)
class RowFormat:
    """Where a system keeps prompt and ground truth; names reach into a column with dots."""

    name: str
    told: Callable[[Columns], bool]
    prompt: str
    ground_truth: str


def _has_truth(columns: Columns, name: str) -> bool:
    inside = columns.get(name)
    return isinstance(inside, Mapping) and inside.get("ground_truth") is not None


def _is_chat(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(turn, Mapping) for turn in value)


def _is_tulu(row: Columns) -> bool:
    return _is_chat(row.get("messages")) and {"ground_truth", "dataset"} <= row.keys()


def _is_roll(row: Columns) -> bool:
    return isinstance(row.get("messages"), str) and _is_chat(_decoded(row["messages"])) and "ground_truth" in row


FORMATS = (
    RowFormat("verl", lambda row: _has_truth(row, "reward_model"), "prompt", "reward_model.ground_truth"),
    RowFormat("skyrl", lambda row: _has_truth(row, "reward_spec"), "prompt", "reward_spec.ground_truth"),
    RowFormat("tulu", _is_tulu, "messages", "ground_truth"),
    RowFormat("roll", _is_roll, "messages", "ground_truth"),
    RowFormat("areal", lambda row: _is_chat(row.get("messages")) and "answer" in row, "messages", "answer"),
    RowFormat("verifiers", lambda row: {"answer", "prompt"} <= row.keys(), "prompt", "answer"),
    RowFormat("verifiers", lambda row: {"answer", "question"} <= row.keys(), "question", "answer"),
    RowFormat("chat", lambda row: _is_chat(row.get("messages")), "messages", "ground_truth"),
)


def recognised(columns: Columns, fields: FieldsConfig) -> tuple[str, Columns, FieldsConfig]:
    """Name of the row's form (empty: none was needed), its columns with chats and demonstration laid open, and the names to read
    them by."""
    found = next((one for one in FORMATS if one.told(columns)), None)
    if found is None:
        return "", columns, fields
    prompt = _stand_in(columns, fields.prompt, DEFAULT.prompt, found.prompt)
    truth = _stand_in(columns, fields.ground_truth, DEFAULT.ground_truth, found.ground_truth)
    opened = dict(columns)
    if prompt == "messages" != fields.prompt:
        opened |= _parted(_decoded(columns["messages"]), fields.response, columns)
    if found.name == "tulu" and truth == "ground_truth":
        opened["ground_truth"] = _only(columns["ground_truth"])
    changed = (prompt, truth) != (fields.prompt, fields.ground_truth) or opened != columns
    return found.name if changed else "", opened, replace(fields, prompt=prompt, ground_truth=truth)


def column(columns: Columns, name: str) -> Any:
    """The value of a column, or of a field inside one: "reward_model.ground_truth". None when there is none."""
    if name in columns or not name:
        return columns.get(name)
    head, _, rest = name.partition(".")
    inside = columns.get(head)
    return column(inside, rest) if rest and isinstance(inside, Mapping) else None


def _stand_in(columns: Columns, setting: str, default: str, ours: str) -> str:
    return ours if setting == default and default not in columns else setting


def _parted(turns: list[Any], response: str, columns: Columns) -> dict[str, Any]:
    """Messages without the assistant's turn at their end, which becomes the demonstration where there is none."""
    if len(turns) < 2 or turns[-1].get("role") != "assistant":
        return {"messages": turns}
    shown = {} if not response or columns.get(response) is not None else {response: turns[-1].get("content")}
    return {"messages": turns[:-1], **shown}


def _only(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _decoded(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value
