"""The command `score --explain`: one row judged by the code that judges all of them, with every step that it notes."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping
from typing import Any

from ..records import Verdict
from . import rows
from .judge import Judge
from .score_worker import judged
from .steps import Step, listening, note

_LONGEST = 4000  # characters of a step
_INDENT = 16


def explain(path: str, spec: str, options: Mapping[str, Any], timeout: float, identity: str = "") -> str:
    """The steps for the row whose id is `identity`, the first row when it is empty, as text of several lines.

    Raises ValueError when there is no such row.
    """
    number, line = _chosen(path, identity)
    with Judge(spec, options, truncated="score", timeout=timeout) as judge, listening() as steps:
        row = rows.read(line, number)
        note("row", "line {}, id {!r}", number, row.id)
        note("reward", "{}, options {}, {:g} s a row", spec, dict(options) or "none", timeout)
        if row.prompt is not None:
            note("ground truth", "{!r}", row.prompt.ground_truth)
        verdict = row.verdict or judged(judge, row)
    return "\n".join(map(_shown, [*steps, *_ending(verdict)]))


def _chosen(path: str, identity: str) -> tuple[int, bytes]:
    """Number and bytes of the row to explain."""
    rows.check(path)
    with rows.opened(path) as file:
        for number, line in zip(itertools.count(1), rows.lines(file), strict=False):
            if not identity or str(rows.read(line, number).id) == identity:
                return number, line
    raise ValueError(f"--row: got {identity!r}, wanted the id of a row" if identity else f"rows: {path} has none")


def _ending(verdict: Verdict) -> list[Step]:
    parts = [Step("part", f"{name}: {value:g}") for name, value in verdict.components.items()]
    score = "no score" if verdict.score is None else f"score {verdict.score:g}"
    return [*parts, Step("verdict", f"{verdict.status}, {score}: {verdict.reason} ({verdict.seconds:.4f} s)")]


def _shown(step: Step) -> str:
    """A step as lines that every terminal can show."""
    found = step.found.encode("utf-8", "backslashreplace").decode()
    found = found.encode(sys.stdout.encoding or "utf-8", "backslashreplace").decode(sys.stdout.encoding or "utf-8")
    found = "".join(char if char.isprintable() or char == "\n" else repr(char)[1:-1] for char in found)
    if len(found) > _LONGEST:
        found = f"{found[:_LONGEST]}... ({len(found)} characters)"
    first, *others = found.split("\n")
    return "\n".join([f"{step.stage:<{_INDENT}}{first}", *(" " * _INDENT + line for line in others)])
