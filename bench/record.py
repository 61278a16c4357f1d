"""Figures with what they depend on: one CSV line each, appended to bench/results.csv."""

from __future__ import annotations

import csv
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

import torch

from ..observe.provenance import provenance

RESULTS = Path(__file__).with_name("results.csv")


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number."""

    date: str  # ISO day
    device: str
    commit: str
    versions: str  # "torch 2.11.0, triton 3.6.0"
    name: str  # what was measured: "scan forward+backward"
    setting: str  # sizes, dtype, mode
    unit: str  # of median, low and high
    median: float
    low: float  # 10th percentile of the repetitions
    high: float  # 90th
    repetitions: int
    floor: float | None  # least time that bytes over bandwidth or FLOP over rate allow, same unit
    note: str  # a ratio to a peer in the same run, what bounds it


def device_name() -> str:
    """The GPU, or the CPU with its thread count."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"


def processor_name() -> str:
    """The processor's model and how many of its cores this process may use."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def figure(
    name: str,
    setting: str,
    unit: str,
    values: Sequence[float],
    floor: float | None = None,
    note: str = "",
    device: str = "",
    packages: Sequence[str] = ("torch", "triton"),
) -> Figure:
    """A figure from its repetitions, stamped with device (default: the GPU), commit and versions."""
    found = provenance()
    cuts = statistics.quantiles(values, n=10) if len(values) > 1 else [values[0]] * 9
    return Figure(
        date=datetime.now(UTC).date().isoformat(), device=device or device_name(), commit=found["commit"],
        versions=", ".join(f"{p} {found[p]}" for p in packages), name=name, setting=setting, unit=unit,
        median=float(f"{statistics.median(values):.5g}"), low=float(f"{cuts[0]:.5g}"), high=float(f"{cuts[-1]:.5g}"),
        repetitions=len(values), floor=None if floor is None else float(f"{floor:.4g}"), note=note,
    )  # fmt: skip


def show(one: Figure) -> str:
    """A line for the console: the figure beside its floor."""
    floor = "" if one.floor is None else f"  floor {one.floor:g} ({one.floor / one.median:.0%} of it reached)"
    spread = f"[{one.low:g}, {one.high:g}]"
    return f"{one.name:<34} {one.setting:<46} {one.median:>9g} {one.unit} {spread}{floor}  {one.note}"


def append(figures: Sequence[Figure], path: Path = RESULTS) -> None:
    """Add lines to the results; the header is written with the first."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [f.name for f in fields(Figure)])
        if new:
            writer.writeheader()
        writer.writerows(asdict(one) for one in figures)
