"""Lines of a JSON Lines file as rows to be judged, whatever their bytes: what cannot be judged has a verdict that says why."""

from __future__ import annotations

import codecs
import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from ..records import Message, Prompt, Verdict
from .verifier import scored, verifier_failed

LONGEST = 64 << 20  # bytes of a line; a longer one is not read
_OWN = ("id", "prompt", "response", "ground_truth")  # columns with a place in Prompt; the others become its fields


@dataclass(frozen=True, slots=True)
class Row:
    """One line. `verdict` is set where nothing is left to judge; `prompt` is None where the line holds no row."""

    id: Any  # as the line has it; the line's number where it has none
    prompt: Prompt | None
    response: str
    verdict: Verdict | None = None


def check(path: str) -> None:
    """Raises ValueError where there is no file; a pipe will do."""
    if not Path(path).exists() or Path(path).is_dir():
        what = "which is a folder" if Path(path).is_dir() else "where there is nothing"
        raise ValueError(f"rows: got {path!r}, {what}, wanted a JSON Lines file")


def opened(path: str) -> BinaryIO:
    """The file for reading bytes, unpacked when it ends in .gz."""
    return cast(BinaryIO, gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb"))


def lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines without their ends, each at most LONGEST + 1 bytes of one; blank ones at the end of the file are left out."""
    blank = 0
    first = True
    while line := file.readline(LONGEST + 1):
        if not line.endswith(b"\n") and len(line) > LONGEST:
            _skip_line(file)
        if first:
            line, first = line.removeprefix(codecs.BOM_UTF8), False
        if not line.strip():
            blank += 1
            continue
        for _ in range(blank):
            yield b""
        blank = 0
        yield line.rstrip(b"\r\n")


def read(line: bytes, number: int) -> Row:
    """The row of line `number`, counted from 1."""
    columns, problem = _columns(line)
    identity = columns.get("id")
    if identity is None:
        identity = number
    if not problem and not isinstance(columns.get("response"), str):
        found = columns.get("response")
        problem = "no response" if found is None else f"response is of type {type(found).__name__}, wanted a text"
    if problem:
        return Row(identity, None, "", verifier_failed(f"line {number}: {problem}"))
    try:
        prompt = prompt_of(columns, identity)
    except RecursionError:  # what could just be read need not fit on the stack again
        return Row(number, None, "", verifier_failed(f"line {number}: id or ground_truth nested too deeply"))
    empty = "ground_truth" in columns and not prompt.ground_truth.strip() and not columns.get("tests")
    return Row(identity, prompt, columns["response"], scored(0.0, "the ground truth is empty") if empty else None)


def prompt_of(columns: Mapping[str, Any], identity: Any, response: str | None = None) -> Prompt:
    """The row as a prompt for the verifier that the command line names; `response`: one that is known to be right."""
    fields = {name: value for name, value in columns.items() if name not in _OWN}
    truth = columns.get("ground_truth")
    if truth is not None and not isinstance(truth, str):
        fields["ground_truth"] = truth  # for functions that want it as the row has it
    return Prompt(
        id=str(identity), prompt=_prompt(columns.get("prompt")), verifier="", ground_truth=_text(truth),
        response=response, fields=fields,
    )  # fmt: skip


def answer(identity: Any, verdict: Verdict) -> bytes:
    """The line of the output, without its end: ASCII and strict JSON whatever the id was."""
    content = {
        "id": identity, "score": verdict.score, "status": verdict.status, "reason": verdict.reason,
        "seconds": round(verdict.seconds, 6),
    }  # fmt: skip
    if verdict.components:
        content["components"] = dict(verdict.components)
    try:
        return json.dumps(content, allow_nan=False).encode()
    except (
        ValueError,
        RecursionError,
    ):  # an id with a NaN in it, which JSON's standard does not know, or one nested too deeply
        return json.dumps({**content, "id": str(identity) if isinstance(identity, float) else None}).encode()


def _skip_line(file: BinaryIO) -> None:
    while part := file.readline(1 << 20):
        if part.endswith(b"\n"):
            return


def _columns(line: bytes) -> tuple[Mapping[str, Any], str]:
    """The row's columns and what is wrong with the line; of a line that is not UTF-8 the rest is read for its id."""
    if len(line) > LONGEST:
        return {}, f"longer than {LONGEST >> 20} MiB"
    if not line.strip():
        return {}, "empty, wanted a JSON object"
    problem = ""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        text, problem = line.decode(errors="replace"), f"not UTF-8: {error.reason} at byte {error.start}"
    try:
        value = json.loads(text)
    except RecursionError:
        return {}, problem or "not JSON that can be read: nested too deeply"
    except json.JSONDecodeError as error:
        return {}, problem or f"not JSON: {error.msg} at column {error.colno}"
    except ValueError as error:  # a number of too many digits
        return {}, problem or f"not JSON that can be read: {error}"
    if not isinstance(value, dict):
        return {}, problem or f"a JSON {type(value).__name__}, wanted an object"
    return value, problem


def _text(value: Any) -> str:
    """A ground truth as text: lists and objects as JSON."""
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else str(value)


def _prompt(value: Any) -> str | tuple[Message, ...]:
    """A text, or chat messages; what is neither is no prompt that a verifier could use."""
    if isinstance(value, list) and all(_is_message(turn) for turn in value):
        return tuple(Message(turn["role"], turn["content"]) for turn in value)
    return value if isinstance(value, str) else ""


def _is_message(turn: Any) -> bool:
    return isinstance(turn, dict) and all(isinstance(turn.get(key), str) for key in ("role", "content"))
