"""A file of JSON lines that is written in order and that a later call of the same kind goes on with."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from .run_folder import write_text

STATE = ".state"
BLOCK = 1 << 20  # bytes read at once


class RowFile:
    """Rows of one call. Beside FILE lies FILE.state: what the rows depend on, and how the call that began it cut its work.

    Rows are appended whole and in order, so that a file broken off anywhere is a prefix of the whole one, but for a last line without
    its end, which `open` cuts off.
    """

    def __init__(self, handle: BinaryIO, rows: int, last: dict[str, Any] | None, plan: dict[str, Any]):
        self.handle = handle
        self.rows = rows  # whole ones so far
        self.last = last  # the last of them; None: there is none
        self.plan = plan  # of the call that began the file

    @classmethod
    def open(cls, path: Path, call: Mapping[str, Any], plan: Mapping[str, Any], overwrite: bool = False) -> RowFile:
        """Begin `path`, or go on with it when it was begun with an equal `call`. Both mappings hold what JSON can say.

        Raises ValueError when the file holds anything else and is not to be overwritten, and when another process writes to it.
        """
        state = path.with_name(path.name + STATE)
        begun = path.exists() and path.stat().st_size > 0 and not overwrite
        if begun:
            plan = _check(path, state, call)
        handle = path.open("ab+")
        try:
            _lock(handle, path)
            if not begun:
                handle.truncate(0)
                write_text(state, json.dumps({"call": dict(call), "plan": dict(plan)}, indent=2) + "\n")
            rows, last = _repair(handle, path)
        except BaseException:
            handle.close()
            raise
        return cls(handle, rows, last, dict(plan))

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows whole; what was written stays when the process is killed."""
        lines = [json.dumps(row) + "\n" for row in rows]
        self.handle.write("".join(lines).encode())
        self.handle.flush()
        self.rows += len(lines)

    def close(self) -> None:
        self.handle.close()

    def __enter__(self) -> RowFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check(path: Path, state: Path, call: Mapping[str, Any]) -> dict[str, Any]:
    """The plan in `state` when it belongs to an equal call; else ValueError, naming what differs."""
    wanted = "wanted the same call, a new file, or --overwrite"
    try:
        found = json.loads(state.read_text())
        before, plan = found["call"], found["plan"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"--out: got {path}, which exists without {state.name}, the mark of a call to go on with, {wanted}"
        ) from error
    for name, here in call.items():
        if before.get(name) != here:
            raise ValueError(
                f"--out: got {path}, which a call with another {name} began ({before.get(name)} there, {here} here), {wanted}"
            )
    return dict(plan)


def _lock(handle: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(f"--out: got {path}, which another process is writing to, wanted another file") from error


def _repair(handle: BinaryIO, path: Path) -> tuple[int, dict[str, Any] | None]:
    """Cut off a last line without its end; -> rows, and the last one."""
    handle.seek(0)
    rows, place, before, end = 0, 0, 0, 0  # before, end: where the last whole line begins and ends
    while block := handle.read(BLOCK):
        count = block.count(b"\n")
        if count:
            rows += count
            newest = block.rindex(b"\n")
            second = block.rfind(b"\n", 0, newest)
            before = place + second + 1 if second >= 0 else end
            end = place + newest + 1
        place += len(block)
    handle.truncate(end)
    if not rows:
        return 0, None
    handle.seek(before)
    line = handle.read(end - before)
    handle.seek(0, os.SEEK_END)
    try:
        last = json.loads(line)
    except ValueError as error:
        raise ValueError(
            f"--out: got {path}, whose row {rows} is not JSON, wanted rows as they were written"
        ) from error
    return rows, last
