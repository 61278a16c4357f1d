"""Rows of a data source as `Prompt`s, and their parting into train and eval, which never share a prompt."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from ..configs.schema import FieldsConfig, SourceConfig
from ..records import Message, Prompt
from .row_formats import column, recognised
from .sources import RawRow, raw_rows
from .tasks import make_task

Note = Callable[[str], None]
PARTS = 10_000  # a split's fraction is rounded to one of so many


def load_rows(
    source: SourceConfig, fields: FieldsConfig, verifier: str, judged: bool = True, note: Note = lambda text: None
) -> list[Prompt]:
    """All rows of a source. `verifier` is for rows that name none; generated tasks name theirs, unless `fields.verifier` is
    empty. Rows that are not to be `judged` need no ground truth. `note` is told when rows have another system's form.

    Raises ValueError, one line, when the source has no rows, a row lacks its prompt or ground truth (named by file and
    line), or two rows have the same id.
    """
    if source.task:
        rows = list(islice(make_task(source.task, source.options).rows(), source.limit or None))
        if fields.template != "{prompt}":
            rows = [_templated(row, fields.template) for row in rows]
        return rows if fields.verifier else [replace(row, verifier=verifier) for row in rows]
    rows = []
    places: dict[str, str] = {}
    for place, row in read_rows(source, fields, verifier, judged, note):
        if row.id in places:
            raise ValueError(f"{place}: {fields.id}: got {row.id!r} again, first at {places[row.id]}, wanted new")
        places[row.id] = place
        rows.append(row)
    if not rows:
        raise ValueError(f"data: got no rows from {source.path or source.hub!r}, wanted one or more")
    return rows


def read_rows(
    source: SourceConfig, fields: FieldsConfig, verifier: str, judged: bool = True, note: Note = lambda text: None
) -> Iterator[tuple[str, Prompt]]:
    """The rows of files or of the hub while they are read, each with its place; two of them may have one id."""
    forms: set[str] = set()
    for number, raw in enumerate(raw_rows(source), start=1):
        form, columns, names = recognised(raw.columns, fields)
        if form and form not in forms:
            forms.add(form)
            note(f"{raw.place}: a row of {form}'s form: prompt {names.prompt!r}, ground truth {names.ground_truth!r}")
        yield raw.place, _mapped(RawRow(raw.place, columns), number, names, verifier, judged)


def tokenizer_needs(source: SourceConfig, fields: FieldsConfig) -> tuple[str, tuple[str, ...]]:
    """The alphabet and symbols for a chars tokenizer that a generated task's rows need; ("", ()) for other sources."""
    if not source.task:
        return "", ()
    task = make_task(source.task, source.options)
    letters = set(task.alphabet()) | set(fields.template.replace("{prompt}", ""))
    return "".join(sorted(letters)), task.symbols()


def split(rows: Sequence[Prompt], fraction: float) -> tuple[list[Prompt], list[Prompt]]:
    """Train and eval rows. The side is a hash of the row's key, so it depends on no other row and on no seed.

    The key is `fields["key"]`, or the prompt. A row of train whose prompt stands in eval under another key is left out.
    """
    held_out: dict[bool, list[Prompt]] = {False: [], True: []}
    for row in rows:
        held_out[zlib.crc32(f"ev:{_key(row)}".encode()) % PARTS < fraction * PARTS].append(row)
    train, _ = drop_shared(held_out[False], held_out[True])
    for name, side in (("train", train), ("eval", held_out[True])):
        if not side:
            raise ValueError(f"data.eval_fraction: got {fraction} of {len(rows)} rows, which leaves none to {name}")
    return train, held_out[True]


def drop_shared(train: Sequence[Prompt], evaluation: Sequence[Prompt]) -> tuple[list[Prompt], int]:
    """The rows of train that are not in eval, by prompt (white space apart) or by key, and how many were left out."""
    prompts = {_spoken(row) for row in evaluation}
    keys = {_key(row) for row in evaluation if "key" in row.fields}
    kept = [row for row in train if _spoken(row) not in prompts and not ("key" in row.fields and _key(row) in keys)]
    return kept, len(train) - len(kept)


def _key(row: Prompt) -> str:
    return str(row.fields["key"]) if "key" in row.fields else _spoken(row)


def _spoken(row: Prompt) -> str:
    """What a prompt says, for comparison."""
    turns = [row.prompt] if isinstance(row.prompt, str) else [f"{turn.role}: {turn.content}" for turn in row.prompt]
    return " ".join("\n".join(turns).split())


def _templated(row: Prompt, template: str) -> Prompt:
    assert isinstance(row.prompt, str)
    text = template.replace("{prompt}", row.prompt)
    return Prompt(row.id, text, row.verifier, row.ground_truth, row.response, row.fields)


def _mapped(raw: RawRow, number: int, fields: FieldsConfig, verifier: str, judged: bool) -> Prompt:
    """One raw row by the field names of the settings; `number` is its id when it has none."""
    response = column(raw.columns, fields.response)
    identity = column(raw.columns, fields.id)
    named = column(raw.columns, fields.verifier)
    used = {fields.prompt, fields.response, fields.id, fields.verifier, "ground_truth"}
    others = {name: value for name, value in raw.columns.items() if name not in used}
    truth = column(raw.columns, fields.ground_truth)
    if judged and not isinstance(truth, str):
        others["ground_truth"] = truth  # for functions that want it as the row has it
    return Prompt(
        id=str(number) if identity is None else str(identity),
        prompt=_prompt(raw, fields),
        verifier=verifier if named is None else str(named),
        ground_truth=_ground_truth(raw, fields) if judged else "",
        response=None if response is None else str(response),
        fields=others,
    )


def _prompt(raw: RawRow, fields: FieldsConfig) -> str | tuple[Message, ...]:
    value = column(raw.columns, fields.prompt)
    if isinstance(value, str) and value.strip():
        return fields.template.replace("{prompt}", value)
    if isinstance(value, list) and value:
        return tuple(_message(turn, raw.place, fields.prompt) for turn in value)
    raise ValueError(
        f"{raw.place}: no prompt: field {fields.prompt!r} holds {_shown(raw, fields.prompt)}, "
        f"wanted a text or chat messages; the row has {_names(raw)}"
    )


def _message(turn: Any, place: str, field: str) -> Message:
    role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, Mapping) else (None, None)
    if not isinstance(role, str) or not isinstance(content, str):
        raise ValueError(f"{place}: field {field!r}: got the message {turn!r:.80}, wanted a text role and content")
    return Message(role, content)


def _ground_truth(raw: RawRow, fields: FieldsConfig) -> str:
    value = column(raw.columns, fields.ground_truth)
    text = (
        json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else "" if value is None else str(value)
    )
    if not text.strip():
        raise ValueError(
            f"{raw.place}: no ground truth: field {fields.ground_truth!r} holds {_shown(raw, fields.ground_truth)}; "
            f"the row has {_names(raw)}"
        )
    mark = fields.ground_truth_after
    if not mark:
        return text
    _, found, answer = text.rpartition(mark)
    if not found or not answer.strip():
        raise ValueError(f"{raw.place}: no ground truth: nothing follows {mark!r} in field {fields.ground_truth!r}")
    return answer.strip()


def _shown(raw: RawRow, field: str) -> str:
    value = column(raw.columns, field)
    return "nothing" if value is None else f"{value!r:.60}"


def _names(raw: RawRow) -> str:
    return ", ".join(sorted(raw.columns)) or "no fields"
