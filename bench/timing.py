"""Times of GPU work, and the matmul rate that floors are made of, measured in the same run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

L2_BYTES = 256 << 20  # written between repetitions, so that no operand is left in the cache


def gpu_times(work: Callable[[], Any], repetitions: int = 30, warmup: int = 5, cold: bool = True) -> list[float]:
    """Milliseconds of each repetition, by CUDA events. cold: the L2 cache is overwritten before each."""
    for _ in range(warmup):
        work()
    scratch = torch.empty(L2_BYTES, dtype=torch.int8, device="cuda") if cold else None
    marks = []
    for _ in range(repetitions):
        if scratch is not None:
            scratch.zero_()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        marks.append((start, end))
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in marks]


def graphed(work: Callable[[], Any]) -> Callable[[], Any]:
    """The same work as a CUDA graph: what a decode loop replays, without the host's launch time."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def matmul_rate(dtype: torch.dtype = torch.bfloat16) -> float:
    """FLOP per second of an 8192^3 matrix product on random numbers."""
    a, b = (torch.randn(8192, 8192, device="cuda").to(dtype) for _ in range(2))
    times = sorted(gpu_times(lambda: a @ b, 15, cold=False))
    return 2 * 8192**3 / (times[len(times) // 2] * 1e-3)


def peak_memory(work: Callable[[], Any]) -> int:
    """Bytes allocated at the peak of `work` beyond what was there before it."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
