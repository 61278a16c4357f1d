"""Decoding in blocks: K tokens of all live sequences between two looks of the host.

A block works on device tensors alone: the current token of every row, its slot, its position, the tokens it has left, its key. A row
that samples a stop token or its last token is dead for the rest of the block. On a GPU a block is one CUDA graph for each bucket of
rows, with buffers at fixed addresses; on a CPU it runs as it is and ends early when no row is alive.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..policy.slots import PolicySlots
from .sampler import Sampler

TOKEN, SLOT, POSITION, LEFT, KEY = range(5)  # rows of a block's input
GRAPHS_KEPT = 4  # times the number of buckets
WARM_UPS = 2  # runs before a capture: kernels are compiled and loaded in them


@dataclass(frozen=True, slots=True)
class BlockResult:
    """What a block sampled, on the host; entries from counts[i] on are no tokens."""

    tokens: np.ndarray  # int32 [rows, K]
    logprobs: np.ndarray  # float32 [rows, K]
    counts: np.ndarray  # int64 [rows], tokens sampled
    steps: int  # decode steps that ran


class DecodeLoop:
    """Runs blocks of `block` steps over slots.

    graphs: capture blocks in CUDA graphs; needs slots on a CUDA device. Not for several threads at once.
    """

    def __init__(self, slots: PolicySlots, device: torch.device, block: int, vocab: int, graphs: bool):
        if graphs and device.type != "cuda":
            raise ValueError(f"graphs: got True with device {device}, wanted a CUDA device")
        self.slots, self.device, self.block, self.graphs = slots, device, block, graphs
        self.buckets = buckets(slots.capacity)
        self.stops = torch.zeros(vocab, dtype=torch.bool, device=device)
        self._buffers: dict[int, Buffers] = {}
        self._graphs: dict[tuple[object, ...], torch.cuda.CUDAGraph] = {}
        self._pool: Any = None

    def set_stops(self, token_ids: Sequence[int]) -> None:
        """The tokens that end a row from now on, in captured graphs too."""
        self.stops.zero_()
        if token_ids:
            self.stops[list(token_ids)] = True

    @torch.inference_mode()
    def run(self, rows: np.ndarray, sampler: Sampler) -> BlockResult:
        """One block. rows int64 [5, n]: current token, slot, position, tokens left (0: a dead row), key, as named above.

        Slots all differ; the state of a dead row's slot may change. Waits for the device once.
        """
        if self.device.type == "cpu":
            inputs = torch.from_numpy(rows)
            outputs = torch.empty((2, self.block, rows.shape[1]), dtype=torch.int32)
            return _result(outputs, self._steps(inputs, outputs, sampler), rows.shape[1])
        buffers = self._filled(rows)
        if self.graphs:
            self._graph(buffers, sampler).replay()
        else:
            self._steps(buffers.inputs, buffers.outputs, sampler)
        buffers.results.copy_(buffers.outputs, non_blocking=True)
        torch.cuda.current_stream(self.device).synchronize()  # the block's one wait
        return _result(buffers.results, self.block, rows.shape[1])

    def _steps(self, inputs: Tensor, outputs: Tensor, sampler: Sampler) -> int:
        """All steps of a block, from inputs int64 [5, n] into outputs int32 [2, K, n]: tokens, -1 for dead rows, and logprob bits."""
        token, slots, positions, left, keys = inputs.unbind()
        slots = slots.to(torch.int32)
        logprobs = outputs[1].view(torch.float32)
        alive, nobody = left > 0, torch.full_like(slots, -1)
        on_host = self.device.type == "cpu"
        sampler.begin(self.block if not on_host else min(self.block, int(left.max())))
        for step in range(self.block):
            if on_host and not bool(alive.any()):
                return step
            named = slots if self.slots.prefers_runs else torch.where(alive, slots, nobody)
            hidden = self.slots.decode(token, named)
            drawn, logprob = sampler.draw(hidden, keys, positions, step)
            outputs[0, step] = torch.where(alive, drawn.to(torch.int32), nobody)
            logprobs[step] = logprob
            alive = alive & (left > step + 1) & ~self.stops[drawn]
            token = torch.where(alive, drawn, token)
        return self.block

    def _filled(self, rows: np.ndarray) -> Buffers:
        """The bucket's buffers with the rows copied in, and nobody in the rest."""
        count = rows.shape[1]
        size = self.buckets[bisect.bisect_left(self.buckets, count)]
        if size not in self._buffers:
            self._buffers[size] = Buffers.alloc(size, self.block, self.device)
        buffers = self._buffers[size]
        buffers.staging.zero_()
        buffers.staging[SLOT] = -1
        buffers.staging[:, :count] = torch.from_numpy(rows)
        buffers.inputs.copy_(buffers.staging, non_blocking=True)
        return buffers

    def _graph(self, buffers: Buffers, sampler: Sampler) -> torch.cuda.CUDAGraph:
        key = (buffers.inputs.shape[1], sampler.baked)
        if key not in self._graphs:
            if len(self._graphs) >= GRAPHS_KEPT * len(self.buckets):  # every new seed or temperature makes its own
                self._graphs.clear()
            self._graphs[key] = self._captured(buffers, sampler)
        return self._graphs[key]

    def _captured(self, buffers: Buffers, sampler: Sampler) -> torch.cuda.CUDAGraph:
        """A graph of one block. It is warmed up and captured with nobody in its rows, so that no state moves."""
        rows = buffers.inputs.clone()
        buffers.inputs.zero_()
        buffers.inputs[SLOT] = -1
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self._steps(buffers.inputs, buffers.outputs, sampler)
        torch.cuda.current_stream(self.device).wait_stream(side)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            self._steps(buffers.inputs, buffers.outputs, sampler)
        buffers.inputs.copy_(rows)
        return graph


@dataclass(frozen=True, slots=True)
class Buffers:
    """A bucket's tensors at fixed addresses: on the device and, pinned, on the host."""

    inputs: Tensor  # int64 [5, n]
    outputs: Tensor  # int32 [2, K, n]
    staging: Tensor  # inputs on the host
    results: Tensor  # outputs on the host

    @classmethod
    def alloc(cls, rows: int, block: int, device: torch.device) -> Buffers:
        def pair(*shape: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
            return torch.zeros(shape, dtype=dtype, device=device), torch.zeros(shape, dtype=dtype, pin_memory=True)

        (inputs, staging), (outputs, results) = (
            pair(5, rows, dtype=torch.int64),
            pair(2, block, rows, dtype=torch.int32),
        )
        return cls(inputs, outputs, staging, results)


def buckets(capacity: int) -> list[int]:
    """Numbers of rows that a block is built for: 1, 2, 4, 6, 8, 12, 16, 24, ... and the capacity."""
    sizes = {1, 2, capacity}
    size = 4
    while size < capacity:
        sizes |= {size, min(size * 3 // 2, capacity)}
        size *= 2
    return sorted(s for s in sizes if s <= capacity)


def _result(outputs: Tensor, steps: int, rows: int) -> BlockResult:
    tokens = np.ascontiguousarray(outputs[0, :steps, :rows].numpy().T)
    logprobs = np.ascontiguousarray(outputs[1, :steps, :rows].numpy().view(np.float32).T)
    return BlockResult(tokens, logprobs, (tokens >= 0).sum(1), steps)
