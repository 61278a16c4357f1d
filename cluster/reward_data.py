"""Rows for the command `reward-check`: of a file in any form that is recognised, or of a generated task."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ..configs.schema import FieldsConfig, SourceConfig
from ..records import Prompt
from ..rewards.benchmarks import converted
from ..rewards.rows import prompt_of
from ..rollout.row_formats import column, recognised
from ..rollout.sources import raw_rows
from ..rollout.tasks import TASKS, make_task

_RESPONSES = ("response", "demonstration", "canonical_solution", "solution")  # columns that may hold a right response


def sampled(data: str, most: int) -> list[Prompt]:
    """At most `most` rows (0: all) of a file or task, drawn with a fixed seed, in their order; `response` holds the right one.

    Raises ValueError, one line, for a file that cannot be read.
    """
    if most < 0:
        raise ValueError(f"--rows: got {most}, wanted 0 or more")
    if data in TASKS:
        rows = itertools.islice(make_task(data, {}).rows(), most or None)
        return [replace(row, verifier="") for row in rows]  # the one that is tried judges, whatever the row names
    return [_prompt(columns, number) for number, columns in _drawn(_columns(data), most)]


def _columns(data: str) -> Iterator[Mapping[str, Any]]:
    return (_unified(row.columns) for row in raw_rows(SourceConfig(path=data)))


def _unified(columns: Mapping[str, Any]) -> Mapping[str, Any]:
    """A benchmark's row, or one of another system, with prompt and ground truth under these names."""
    _, opened, names = recognised(converted(columns), FieldsConfig())
    return {**opened, "prompt": column(opened, names.prompt), "ground_truth": column(opened, names.ground_truth)}


def _drawn(rows: Iterator[Mapping[str, Any]], most: int) -> list[tuple[int, Mapping[str, Any]]]:
    """Reservoir sampling (Vitter's algorithm R): each row is kept with the same chance, and memory holds `most` of them."""
    draw = random.Random(0)
    kept: list[tuple[int, Mapping[str, Any]]] = []
    for number, row in enumerate(rows, 1):
        if not most or len(kept) < most:
            kept.append((number, row))
        elif (place := draw.randrange(number)) < most:
            kept[place] = (number, row)
    return sorted(kept, key=lambda pair: pair[0])


def _prompt(columns: Mapping[str, Any], number: int) -> Prompt:
    response = next((columns[name] for name in _RESPONSES if isinstance(columns.get(name), str)), None)
    return prompt_of(columns, number if columns.get("id") is None else columns["id"], response)
