"""Block shapes, warps and stages of every kernel: read from launch_table.json, pinned, never tuned inside a run.

Other block shapes are another order of additions and so other bits: a rollout and a learner that looked up different rows would
no longer agree. A row therefore depends on the kernel, the architecture and the sizes of the weights, never on the batch.

The file is a JSON list with one row a line; a new kernel adds its lines and announces itself (kernel_registry.py). Fields:
kernel, arch ("sm_90"), direction ("forward", "backward", "step"), dtype ("fp32", "bf16"), shape (the sizes it was made for),
blocks (constexpr arguments), warps, stages, source ("measured: ..." or "resource report: ..."), and where they are set registers
(most of a thread; 0: the compiler's choice) and spills (instructions that are known and were measured to cost less than the cure).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("launch_table.json")
DIRECTIONS = ("forward", "backward", "step")


@dataclass(frozen=True)
class Launch:
    """One row of the table."""

    kernel: str
    arch: str
    direction: str
    dtype: str
    shape: dict[str, int]
    blocks: dict[str, int]
    warps: int
    stages: int
    source: str
    registers: int = 0
    spills: int = 0

    @property
    def options(self) -> dict[str, int]:
        """What a launch takes besides the blocks: `kernel[grid](..., **row.blocks, **row.options)`."""
        most = {"maxnreg": self.registers} if self.registers else {}
        return {"num_warps": self.warps, "num_stages": self.stages} | most

    @property
    def capability(self) -> int:
        return int(self.arch.removeprefix("sm_"))


def read_rows(text: str) -> tuple[Launch, ...]:
    """The rows of a table file. Raises ValueError naming the row that is not a row."""
    rows = []
    for i, fields in enumerate(json.loads(text)):
        try:
            row = Launch(**fields)
        except TypeError as error:
            raise ValueError(f"launch table row {i}: {fields} came; {error}") from error
        if row.direction not in DIRECTIONS:
            raise ValueError(
                f"launch table row {i}: direction {row.direction!r} came, one of {', '.join(DIRECTIONS)} wanted"
            )
        rows.append(row)
    return tuple(rows)


def write_rows(rows: tuple[Launch, ...]) -> str:
    """The text of a table file, one row a line."""
    unset = ("registers", "spills")
    fields = ({k: v for k, v in vars(row).items() if v or k not in unset} for row in rows)
    return "[\n" + ",\n".join(json.dumps(row) for row in fields) + "\n]\n"


@lru_cache(maxsize=1)
def rows() -> tuple[Launch, ...]:
    return read_rows(TABLE.read_text())


@contextmanager
def replaced(old: Launch, new: Launch) -> Iterator[None]:
    """While measuring: launches find `new` in place of `old`. Not for a run, whose rows are pinned."""
    global rows
    kept, table = rows, tuple(new if row == old else row for row in rows())
    rows = lru_cache(maxsize=1)(lambda: table)
    lookup.cache_clear()
    try:
        yield
    finally:
        rows = kept
        lookup.cache_clear()


@lru_cache(maxsize=1024)
def lookup(kernel: str, direction: str, dtype: str, arch: str, **shape: int) -> Launch:
    """The row for a launch: the same kernel, direction and dtype; then the architecture, then the shape.

    Architecture: its own rows, else those of the next lower one, else of the lowest ("cpu", the interpreter, takes the lowest).
    Shape: the row at the smallest sum of |log2(wanted / row)| over the sizes that the row names, the first in the file among equals.
    Raises ValueError where the table has no row of that kernel, direction and dtype.
    """
    return choose(rows(), kernel, direction, dtype, arch, shape)


def choose(
    table: tuple[Launch, ...], kernel: str, direction: str, dtype: str, arch: str, shape: dict[str, int]
) -> Launch:
    """`lookup` in a given table."""
    fitting = [r for r in table if (r.kernel, r.direction, r.dtype) == (kernel, direction, dtype)]
    if not fitting:
        raise ValueError(f"kernel: {kernel!r} ({direction}, {dtype}) came, which has no row in {TABLE.name}")
    capability = 0 if arch == "cpu" else int(arch.removeprefix("sm_"))
    lower = [r.capability for r in fitting if r.capability <= capability]
    nearest = max(lower) if lower else min(r.capability for r in fitting)
    return min((r for r in fitting if r.capability == nearest), key=lambda r: _distance(r, shape))


def _distance(row: Launch, shape: dict[str, Any]) -> float:
    missing = [name for name in row.shape if name not in shape]
    if missing:
        raise ValueError(f"{missing[0]}: nothing came, the size that {row.kernel}'s rows are chosen by wanted")
    return sum(abs(math.log2(shape[name] / size)) for name, size in row.shape.items())
