"""`mimosa bench kernels --tune`: launch options of the tile kernels by measurement, written into the launch table.

Block shapes stay as they are: they decide the order of additions, and so the bits that rollout and learner share. Warps and the most
registers of a thread decide nothing but time.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
import triton

from ..kernels import launch_table
from ..kernels.decode import mamba3_decode
from ..kernels.dispatch import mamba3_scan
from ..kernels.launch_table import TABLE, Launch, lookup, replaced, rows, write_rows
from ..kernels.operands import architecture
from ..kernels.recurrent import mamba3_recurrent
from ..kernels.slot_state import SlotState
from ..kernels.tensors import State
from .kernels import H, N, P, S, decode_layer, scan_inputs
from .timing import gpu_times

OPTIONS = [(warps, registers) for warps in (4, 8) for registers in (0, 168, 128, 96)]
SLOTS = 512
CALLS = 16  # of the recurrent step that are timed together
PREFILL = (32, 2048)  # sequences, tokens


def tune() -> list[Launch]:
    """Measure every option for the bf16 rows of the 1.5B sizes on this GPU's architecture; returns and writes the rows that won.

    Raises ValueError without a GPU. A row of a lower architecture that served this one so far is kept, and the new one added.
    """
    if not torch.cuda.is_available():
        raise ValueError("bench kernels --tune: got no CUDA device, wanted one: launch options are a GPU's")
    arch, won = architecture("device", torch.empty(1, device="cuda")), []
    for kernel, direction, work in works():
        for rank in (1, 4):
            old = lookup(kernel, direction, "bf16", arch, N=N, P=P, R=rank)
            new = best(old, arch, rank, work(rank))
            print(f"{kernel} R={rank}: {new.warps} warps, {new.registers or 'any'} registers; {new.source}", flush=True)
            won.append(new)
            write(old, new)
    return won


def best(old: Launch, arch: str, rank: int, work: Callable[[], Any]) -> Launch:
    """The row with the least median time."""
    shape = dict(N=N, P=P, R=rank)
    times: list[tuple[float, Launch]] = []
    for warps, registers in OPTIONS:
        tried = replace(old, arch=arch, shape=shape, warps=warps, registers=registers)
        with replaced(old, tried):
            times.append((statistics.median(gpu_times(work, 10, 2)), tried))
    least, won = min(times, key=lambda pair: pair[0])
    return replace(
        won, source=f"measured: {torch.cuda.get_device_name()}, Triton {triton.__version__}: {least:.3f} ms a call"
    )


def write(old: Launch, new: Launch) -> None:
    """Put the row in the old one's place, or beside it where that is another architecture's or made for other sizes."""
    kept = [row for row in rows() if row != old or (row.arch, row.shape) != (new.arch, new.shape)]
    TABLE.write_text(write_rows((*kept, new)))
    launch_table.rows.cache_clear()
    lookup.cache_clear()


def works() -> Iterator[tuple[str, str, Callable[[int], Callable[[], Any]]]]:
    """Kernel, direction, and what makes a call of it for R ranks."""
    yield "replay", "step", replay_step
    yield "recurrent", "step", recurrent_step
    yield "scan", "forward", prefill


def replay_step(rank: int) -> Callable[[], Any]:
    """A whole chunk, slots at all places of it."""
    layer = decode_layer(rank)
    rows_in = torch.randn(SLOTS, sum(layer.widths), device="cuda").bfloat16()
    slots, pool = (
        torch.arange(SLOTS, dtype=torch.int32, device="cuda"),
        SlotState.alloc(layer, SLOTS, torch.bfloat16, "cuda"),
    )
    pool.position.copy_(slots % layer.chunk_size)

    def chunk() -> None:
        for _ in range(layer.chunk_size):
            mamba3_decode(rows_in, layer, pool, slots)
            pool.advance(slots)

    return chunk


def recurrent_step(rank: int) -> Callable[[], Any]:
    layer = decode_layer(rank)
    rows_in = torch.randn(SLOTS, sum(layer.widths), device="cuda").bfloat16()
    slots = torch.arange(SLOTS, dtype=torch.int32, device="cuda")
    state = State(*(torch.zeros(SLOTS, *shape, device="cuda") for shape in ((H, S), (H, P, N), (rank, H, N), (H, P))))
    return lambda: [mamba3_recurrent(rows_in, layer, state, slots) for _ in range(CALLS)]


def prefill(rank: int) -> Callable[[], Any]:
    operands, how = scan_inputs(rank, *PREFILL, grad=False)

    @torch.no_grad()
    def call() -> Any:
        return mamba3_scan(*operands, **how, return_state=True)

    return call
