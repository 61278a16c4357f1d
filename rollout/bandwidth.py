"""The rate that decoding is held against: bytes per second of a large copy, measured on the device at hand."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

COPIED = {"cpu": 256 << 20, "cuda": 2 << 30}  # bytes: more than any cache holds
REPETITIONS = {"cpu": 7, "cuda": 20}


def copy_bandwidth(device: str = "cuda") -> float:
    """Bytes per second, those read and those written counted; on a CPU with a thread for each core."""
    kind = torch.device(device).type
    source = torch.ones(COPIED[kind], dtype=torch.int8, device=device)
    target = torch.zeros_like(source)  # both written: a page that was never touched costs nothing to read
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    try:
        seconds = [_seconds(lambda: target.copy_(source), kind) for _ in range(REPETITIONS[kind])]
    finally:
        torch.set_num_threads(threads)
    return 2 * source.numel() / statistics.median(seconds)


def _seconds(work: Callable[[], Any], kind: str) -> float:
    if kind == "cpu":
        started = time.perf_counter()
        work()
        return time.perf_counter() - started
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) * 1e-3
